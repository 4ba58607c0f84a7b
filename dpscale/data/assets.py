"""The text and the tokenizers that ship with the package, by name.

Wherever a verb takes a file, `embedded:NAME` stands for one of these.
"""

from importlib import resources
from pathlib import Path

from dpscale.errors import InputError
from dpscale.paths import as_local_path

PREFIX = "embedded:"

EMBEDDED = {
    "sotu": "sotu.jsonl.xz",
    "moby-1024": "moby_bpe_1024.model",
    "moby-2048": "moby_bpe_2048.model",
}
"""Name -> file: the State of the Union speeches, and two tokenizers trained on Moby Dick."""


def resolve(name_or_path: str) -> Path:
    """The file that `name_or_path` stands for: an embedded one, or the path itself.

    >>> resolve("embedded:sotu").name
    'sotu.jsonl.xz'
    >>> resolve("text.jsonl").name
    'text.jsonl'

    Raises:
      InputError: The prefix `embedded:` with a name that does not exist, or a path on a bucket.
    """
    if not name_or_path.startswith(PREFIX):
        return as_local_path(name_or_path)
    name = name_or_path.removeprefix(PREFIX)
    if name not in EMBEDDED:
        known = ", ".join(PREFIX + other for other in EMBEDDED)
        raise InputError(name_or_path, f"no such embedded file; there are {known}.")
    return Path(str(resources.files("dpscale.data.embedded").joinpath(EMBEDDED[name])))
