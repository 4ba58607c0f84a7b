"""The commands in the README and the docs are commands of this version."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

from dpscale.cli.main import parse
from dpscale.cli.verbs import VERBS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CLUSTERS = sorted((ROOT / "docs/clusters").glob("*.yaml"))


def commands(page: Path) -> list[str]:
    """What stands behind `dpscale ` in a page's blocks of code, or in a cluster's file.

    Up to a comment, a pipe, or the quote that it is in; what may be left out is taken along.
    """
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = "".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    indented = [line for line in text.splitlines() if line.startswith("    ")]
    lines = [*indented, *blocks.splitlines()]
    if page.suffix == ".yaml":
        lines = [line for line in text.splitlines() if not line.startswith("#")]
    found = (
        re.search(r"""(?P<quote>["']?)(?<![\w./-])dpscale (?P<rest>[a-z]+ .*)""", line)
        for line in lines
    )
    return [_command(match["rest"], match["quote"]) for match in found if match]


def _command(rest: str, quote: str) -> str:
    rest = re.sub(r"(\w)\|\w+", r"\1", rest)  # the first of several values
    end = quote or r"\s(?:#|\|)"
    return re.sub(r"[\[\]]", "", re.split(end, rest)[0]).strip()


COMMANDS = sorted(
    {(page.name, command) for page in [*PAGES, *CLUSTERS] for command in commands(page)}
)


def test_there_are_commands_in_every_file_that_is_for_them() -> None:
    # Catches: a pattern that finds none.
    pages = {name for name, _ in COMMANDS}
    assert {"README.md", "scale-out.md", *(path.name for path in CLUSTERS)} <= pages


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.name)
def test_the_files_for_clusters_are_yaml(path: Path) -> None:
    # Catches: a file that its tool cannot even read.
    assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) & {"name", "metadata"}


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_documented_command_is_understood(page: str, command: str) -> None:
    # Catches: an option that was renamed, or never was; a verb that is gone.
    verb, *arguments = shlex.split(command)
    parse(importlib.import_module(VERBS[verb].module), verb, arguments)
