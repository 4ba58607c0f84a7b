"""A folder that is there whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dpscale.errors import InputError


def check_is_new(folder: Path) -> None:
    """Refuses a folder that holds something.

    Raises:
      InputError: It does, or its name is taken by a file, or is none.
    """
    if folder.name in ("", ".."):
        raise InputError("out", f"expected the name of a folder to make, found {str(folder)!r}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("out", f"{folder} exists already; expected a new or an empty folder.")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write in, which takes its name when all has gone well.

    Raises:
      InputError: `folder` holds something.
    """
    check_is_new(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield beside
        beside.chmod(0o755)
        os.rename(beside, folder)  # replaces an empty folder, and nothing else
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
