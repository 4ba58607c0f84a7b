"""Prepared data on a bucket: written from a finished local folder, read through a local copy.

Training reads units in random order through memory maps, which a bucket does not have. So the files
come over once, into the user's cache folder, and every later start finds them there. The copy is
named by the hash of its manifest, which holds the hash of every shard: other data, other copy.
"""

import contextlib
import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from dpscale.buckets.objects import download, upload
from dpscale.data.manifest import (
    MANIFEST_FILE,
    TOKENIZER_FILE,
    FileHash,
    Manifest,
    file_hash,
    read_manifest,
)
from dpscale.data.request import REQUEST_FILE
from dpscale.errors import InputError
from dpscale.paths import cache_folder


def local_copy(folder: Path) -> Path:
    """A local folder with the prepared data of `folder`, made where it is missing.

    Each file is compared with the manifest's hash as it comes; the folder gets its name when all
    are there. Several processes may ask at once: one fetches, the others wait. After a kill the
    next call goes on. Only the user may read the copy; who deletes it loses nothing.

    Raises:
      InputError: No prepared data there, or a file that is not the one in the manifest.
    """
    manifest = read_manifest(folder)
    content = (folder / MANIFEST_FILE).read_bytes()
    copies = cache_folder() / "data"
    copies.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy = copies / hashlib.sha256(content).hexdigest()[:32]
    if copy.exists():
        return copy
    with _one_at_a_time(copy.with_suffix(".lock")):
        if not copy.exists():
            partial = copy.with_suffix(".partial")
            partial.mkdir(mode=0o700, exist_ok=True)
            _fetch(folder, manifest, partial)
            (partial / MANIFEST_FILE).write_bytes(content)
            partial.rename(copy)
    return copy


def publish(local: Path, folder: Path) -> None:
    """Writes a finished local folder to the bucket, the manifest last: with it the data are there.

    What the data were made from comes first, so that a call that was killed is recognised.
    """
    names = sorted(path.name for path in local.iterdir() if path.is_file())
    first = [name for name in names if name == REQUEST_FILE]
    last = [name for name in names if name == MANIFEST_FILE]
    between = [name for name in names if name not in (REQUEST_FILE, MANIFEST_FILE)]
    for name in first + between + last:
        upload(local / name, folder / name)


def preparation_folder(out: Path) -> Path:
    """Where data for `out` are prepared on this computer before they are published."""
    name = hashlib.sha256(str(out).encode()).hexdigest()[:32]
    return cache_folder() / "prepare" / name


def _fetch(folder: Path, manifest: Manifest, partial: Path) -> None:
    for shard in (*manifest.train_shards, *manifest.eval_shards):
        found = _fetch_file(folder / shard.name, partial)
        if found != shard:
            _refuse(folder, partial, found)
    found = _fetch_file(folder / TOKENIZER_FILE, partial)
    if found.sha256 != manifest.tokenizer_sha256:
        _refuse(folder, partial, found)


def _fetch_file(source: Path, partial: Path) -> FileHash:
    """One that bears its name already came whole, before a kill; it is read again all the same."""
    target = partial / source.name
    if not target.exists():
        beside = target.with_name(f"{target.name}.coming")
        try:
            download(source, beside)
        except FileNotFoundError:
            raise InputError(str(source), "is missing; prepare the data again.") from None
        beside.rename(target)
    return file_hash(target)


def _refuse(folder: Path, partial: Path, found: FileHash) -> None:
    shutil.rmtree(partial)
    raise InputError(
        str(folder / found.name), "its hash is not the manifest's; prepare the data again."
    )


@contextlib.contextmanager
def _one_at_a_time(lock_file: Path) -> Iterator[None]:
    """Waits until no other process of this computer is at it."""
    with lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
