"""Objects of a bucket beyond what paths can do: writes on a condition, checksums, whole files.

An object appears whole when its upload is complete, so a reader never meets half of one. Each
write gives it a new *generation*, a number that Google's storage lets a write depend on: "only if
the object is still that one", or with 0 "only if there is none". Of several writers that depend on
the same generation exactly one succeeds (https://cloud.google.com/storage/docs/request-preconditions).
"""

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dpscale.paths import BUCKET_SCHEME, is_on_bucket

NO_OBJECT = 0
"""The generation of what does not exist."""

_BOUNDARY = "==dpscale=="


def trouble(error: BaseException) -> str | None:
    """What a failed connection or a refusal of the storage says, in one line; None for others.

    By the names of modules, as none of those packages need be there.
    """
    from_storage = type(error).__module__.partition(".")[0] in ("aiohttp", "gcsfs", "google")
    is_forbidden = isinstance(error, OSError) and str(error).startswith("Forbidden: ")
    return " ".join(str(error).split()) if from_storage or is_forbidden else None


def filesystem() -> Any:
    """The connection to the storage, one a process and the one that paths use.

    Its calls wait, and may come from any thread.
    """
    import fsspec

    return fsspec.filesystem("gcs", finalize_on_close=True)


def read_object(path: Path) -> tuple[bytes, int] | None:
    """Content and generation of an object, None where there is none.

    Written in between, the content may be newer than the generation, never older.
    """
    storage = filesystem()
    try:
        generation = int(storage.info(str(path))["generation"])
        return storage.cat_file(str(path)), generation
    except FileNotFoundError:
        return None


def write_object(path: Path, content: bytes) -> None:
    """Writes an object whatever was there; readers see the old one until all of it has arrived."""
    filesystem().pipe_file(str(path), content)


def replace_object(
    path: Path, content: bytes, *, generation: int, timeout: float | None = None
) -> int:
    """Writes an object only if it is still of `generation`; small ones, in one request.

    Args:
      generation: Of the object to replace, or `NO_OBJECT`.
      timeout: In seconds; afterwards it is not known whether the write took place.

    Returns:
      Its new generation.

    Raises:
      FileExistsError: The object is of another generation by now.
    """
    storage = filesystem()
    bucket, _, key = str(path).removeprefix(BUCKET_SCHEME).partition("/")
    head = f"--{_BOUNDARY}\nContent-Type: application/json; charset=UTF-8\n\n"
    kind = f"\n--{_BOUNDARY}\nContent-Type: application/octet-stream\n\n"
    body = f"{head}{json.dumps({'name': key})}{kind}".encode() + content
    answer = storage.call(
        "POST",
        f"{storage._location}/upload/storage/v1/b/{quote(bucket, safe='')}/o",
        uploadType="multipart",
        ifGenerationMatch=str(generation),
        headers={"Content-Type": f'multipart/related; boundary="{_BOUNDARY}"'},
        data=body + f"\n--{_BOUNDARY}--".encode(),
        json_out=True,
        timeout=timeout,
    )
    return int(answer["generation"])


def upload(source: Path, target: Path) -> None:
    """Writes a local file of any size as an object; its MD5 is checked by both sides."""
    filesystem().put_file(str(source), str(target), consistency="md5")


def download(source: Path, target: Path) -> None:
    """Writes an object of any size as a local file."""
    filesystem().get_file(str(source), str(target))


def object_checksums(folder: Path) -> dict[str, int]:
    """CRC-32C of every object below a folder, by its path from there, as the storage keeps them.

    They come with the listing; nothing is downloaded.
    """
    assert is_on_bucket(folder)
    root = str(folder).removeprefix(BUCKET_SCHEME).rstrip("/") + "/"
    found = filesystem().find(root, detail=True)
    return {
        name.removeprefix(root): int.from_bytes(base64.b64decode(info["crc32c"]), "big")
        for name, info in sorted(found.items())
    }
