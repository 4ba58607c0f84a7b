"""Writing files so that a reader never meets half of one, and one process at a time.

A file is written beside its final name and renamed, which POSIX makes atomic, so that a
process killed at any moment leaves the old file or the new one. On a bucket an upload is atomic
by itself, and durable when it returns.
"""

import contextlib
import fcntl
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dpscale.errors import InputError
from dpscale.paths import as_path, is_on_bucket


def write_text_atomically(path: str | Path, text: str, *, mode: int = 0o644) -> None:
    """Replaces `path` by a file that holds `text`, with permissions `mode`, durably."""
    write_bytes_atomically(path, text.encode("utf-8"), mode=mode)


def write_bytes_atomically(path: str | Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replaces `path` by a file that holds `content`, with permissions `mode`, durably.

    A bucket has no permissions of single files: there `mode` must be left alone.
    """
    path = as_path(path)
    if is_on_bucket(path):
        assert mode == 0o644, f"{path}: no object has a mode"
        from dpscale.buckets.objects import write_object

        write_object(path, content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON text of `value`; numbers that are not finite become null, as JSON has none.

    >>> to_json({"loss": float("nan"), "step": 3})
    '{"loss": null, "step": 3}'
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def write_json_atomically(path: str | Path, value: Any, *, mode: int = 0o644) -> None:
    """Replaces `path` by the indented JSON text of `value`."""
    write_text_atomically(path, to_json(value, indent=2) + "\n", mode=mode)


def write_json_once(path: str | Path, value: Any) -> None:
    """Writes the indented JSON text of `value` where no file is yet, whole and durably.

    On a bucket looking and writing are one request: of two processes one succeeds, even where one
    has lost its lease without knowing. Locally the kernel's lock keeps the other away.

    Raises:
      FileExistsError: There is one.
    """
    path = as_path(path)
    if is_on_bucket(path):
        from dpscale.buckets.objects import NO_OBJECT, replace_object

        content = (to_json(value, indent=2) + "\n").encode()
        replace_object(path, content, generation=NO_OBJECT)
        return
    if path.exists():
        raise FileExistsError(path)
    write_json_atomically(path, value)


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
      InputError: The file is missing, is not JSON, or holds something else than an object.
    """
    try:
        value = json.loads(as_path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(str(path), "no such file.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(str(path), f"cannot be read as JSON ({error}).") from None
    if not isinstance(value, dict):
        raise InputError(str(path), f"expected a JSON object, found a {type(value).__name__}.")
    return value


@contextlib.contextmanager
def held_alone(lock_file: Path, refusal: InputError) -> Iterator[None]:
    """Holds a file's lock for this process; the kernel lets go when the process dies.

    The file's folder is made where it is missing. On a bucket the lock is a lease: see
    `dpscale.buckets.lease` for what that promises.

    Args:
      refusal: Raised when another process holds the lock.
    """
    if is_on_bucket(lock_file):
        from dpscale.buckets.lease import held_lease

        with held_lease(lock_file, refusal):
            yield
        return
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refusal from None
        yield


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
