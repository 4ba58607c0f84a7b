"""From what a user typed to a path: a local one, or one in a Google Cloud Storage bucket.

`pathlib.Path("gs://bucket/x")` is the local path `gs:/bucket/x`, without a word. So text that may
name a bucket becomes a path here, and nowhere else: a `pathlib.Path`, or for `gs://` a path of
`etils.epath`, which has the same methods and is typed here as the same. Every other scheme is
refused, as a folder called `s3:` is never what was meant.

What differs on a bucket is settled where files are written (`files`) and held (`buckets`).
Everyone else asks `is_on_bucket` only where the work itself is another: keys, prepared data,
checksums of checkpoints.
"""

import importlib.util
import os
import re
from pathlib import Path
from typing import cast

from dpscale.errors import InputError

BUCKET_SCHEME = "gs://"


def as_path(path: str | os.PathLike[str]) -> Path:
    """The local path, or the one on a bucket, that `path` names.

    >>> as_path("runs/a").as_posix()
    'runs/a'

    Raises:
      InputError: Another scheme than `gs://`, no bucket, or a package that is missing.
    """
    text = os.fspath(path)
    check_scheme(text)
    if _scheme(text) is None:
        return Path(text)
    if importlib.util.find_spec("gcsfs") is None:
        raise InputError(text, "needs a package for buckets: pip install 'dpscale[gcs]'.")
    return _bucket_path(text)


def check_scheme(text: str) -> None:
    """What of `as_path` needs no package: to be asked where a path is only noted down.

    Raises:
      InputError: Another scheme than `gs://`, or no bucket.
    """
    scheme = _scheme(text)
    if scheme not in (None, "gs"):
        raise InputError(
            text, f"{scheme}:// is not supported; expected a local path, or gs://BUCKET/FOLDER."
        )
    if scheme == "gs" and not re.match(r"gs://[^/]", text):
        raise InputError(text, "expected gs://BUCKET/FOLDER, with two slashes and a bucket.")


def as_local_path(path: str | os.PathLike[str]) -> Path:
    """The local path that `path` names, where no bucket will do.

    Raises:
      InputError: A scheme, also `gs://`.
    """
    text = os.fspath(path)
    scheme = _scheme(text)
    if scheme is not None:
        raise InputError(text, f"expected a local path here, found one with {scheme}://.")
    return Path(text)


def is_on_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path that `as_path` gave lies on a bucket."""
    return os.fspath(path).startswith(BUCKET_SCHEME)


def absolute(path: Path) -> Path:
    """`path` from the root, links followed; on a bucket every path is so already."""
    return path if is_on_bucket(path) else path.resolve()


def cache_folder() -> Path:
    """Where this user's programs keep what they could make again: XDG's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "dpscale"


def _scheme(text: str) -> str | None:
    """What stands before `://`; also before the one slash that pathlib leaves of a bucket's two.

    >>> _scheme("s3://bucket/x"), _scheme("gs:/bucket/x"), _scheme("a:/x")
    ('s3', 'gs', None)
    """
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://|(gs):/", text)
    return (found[1] or found[2]).lower() if found else None


def _bucket_path(text: str) -> Path:
    # One way to the bucket, also where TensorFlow is installed.
    os.environ.setdefault("EPATH_USE_TF", "false")
    import fsspec
    from etils import epath

    for name in ("gs", "gcs"):
        # A listing that is kept would hide what other processes write in the meantime.
        fsspec.config.conf.setdefault(name, {})["use_listings_cache"] = False
    return cast(Path, epath.Path(text))
