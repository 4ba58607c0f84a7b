"""The law that ships with the package, and the tables it can be rebuilt from.

`published` is fitted to Table 2 of arXiv 2501.18914. To rebuild it:

    dpscale fit embedded:mckenna2025-table2 --format optima \\
        --out dpscale/scaling/law/embedded/published.json
"""

from importlib import resources
from pathlib import Path

from dpscale.errors import InputError
from dpscale.paths import as_path
from dpscale.scaling.law.law import ScalingLaw
from dpscale.scaling.law.lawfile import load_law

PUBLISHED = "published"
PREFIX = "embedded:"
TABLES = {"mckenna2025-table2": "mckenna2025_table2.toml"}


def find_law(name: str | Path) -> ScalingLaw:
    """The law called `published`, or the one in a file that `dpscale fit` wrote.

    Raises:
      InputError: No such file, or not a law.
    """
    return load_law(_file("published.json") if str(name) == PUBLISHED else name)


def find_table(name: str | Path) -> Path:
    """The file that `name` stands for: `embedded:NAME`, or a path.

    >>> find_table("embedded:mckenna2025-table2").name
    'mckenna2025_table2.toml'

    Raises:
      InputError: The prefix `embedded:` with a name that does not exist.
    """
    text = str(name)
    if not text.startswith(PREFIX):
        return as_path(name)
    if text.removeprefix(PREFIX) not in TABLES:
        known = ", ".join(PREFIX + each for each in TABLES)
        raise InputError(text, f"no such embedded table; there are {known}.")
    return _file(TABLES[text.removeprefix(PREFIX)])


def _file(name: str) -> Path:
    return Path(str(resources.files("dpscale.scaling.law.embedded").joinpath(name)))
