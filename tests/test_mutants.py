"""The suite notices the mistakes that would break a guarantee: each is made, and must be caught.

`mutants.toml` lists them. Every mutant gets a copy of the package and its tests, and runs the
tests that are named for it there, unchanged.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Stands beside the copy's tests: another dpscale than the copy's would make all of this void.
GUARD = """
from pathlib import Path

import dpscale
import pytest

if Path(dpscale.__file__).resolve().parents[1] != Path(__file__).resolve().parent:
    raise pytest.UsageError(f"the tests would run on {dpscale.__file__}")
"""


@dataclass(frozen=True)
class Change:
    """One replacement in a file of the copy."""

    file: str
    old: str
    new: str

    def apply(self, copy: Path) -> None:
        path = copy / self.file
        text = path.read_text(encoding="utf-8")
        assert text.count(self.old) == 1, f"{self.file} no longer holds this once: {self.old}"
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


@dataclass(frozen=True)
class Mutant:
    """A mistake, and the tests that notice it."""

    name: str
    changes: tuple[Change, ...]
    caught_by: tuple[str, ...]
    deep: bool


def read_mutants() -> list[Mutant]:
    def read(fields: dict[str, Any]) -> Mutant:
        changes = tuple(Change(**change) for change in fields["change"])
        return Mutant(
            fields["name"], changes, tuple(fields["caught_by"]), fields.get("deep", False)
        )

    table = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text(encoding="utf-8"))
    return [read(fields) for fields in table["mutant"]]


MUTANTS = read_mutants()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package, its tests and its settings."""
    for name in ("dpscale", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "conftest.py").write_text(GUARD)
    return tmp_path


def run_tests(copy: Path, names: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    environment = {key: os.environ[key] for key in os.environ if not key.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *names],
        cwd=copy,
        env={**environment, "PYTHONPATH": str(copy), "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_the_clean_code_passes_what_must_catch_the_mutants(copy: Path) -> None:
    # Catches: a named test that fails whatever the code, or that does not exist.
    names = sorted({name for mutant in MUTANTS for name in mutant.caught_by if not mutant.deep})
    done = run_tests(copy, names)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(names)} passed" in done.stdout


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(mutant, id=mutant.name, marks=[pytest.mark.deep] if mutant.deep else [])
        for mutant in MUTANTS
    ],
)
def test_mutant_is_caught(mutant: Mutant, copy: Path) -> None:
    for change in mutant.changes:
        change.apply(copy)
    done = run_tests(copy, list(mutant.caught_by), "-x")
    report = done.stdout + done.stderr
    assert done.returncode != 0, f"survived: {mutant.name}"
    assert done.returncode == 1, report  # 1: tests failed; more: they could not run
    # An assertion must fail: a mutant that merely crashes would prove nothing.
    failed = re.findall(r"^FAILED (\S+) - (?:assert|AssertionError|Failed: )", report, re.MULTILINE)
    assert failed, report
    assert set(failed) <= set(mutant.caught_by), report


def test_every_required_mutant_is_there() -> None:
    required = {
        "divide by the drawn batch size",
        "leave the embedding out of the norm",
        "reuse a noise key",
        "noise every microbatch",
        "shuffle instead of sampling",
        "average before clipping",
        "skip the mask",
        "resume with a changed learning rate under the same key",
        "drop the cross term of the tied table",
        "take the cross term of the tied table once",
        "forget that equal tokens read one row",
        "clip leaf by leaf",
        "clip layer by layer",
        "take the norm of the first layer for that of all",
        "take a factor twice",
        "leave no room for factors that are rounded to bfloat16",
        "multiply in the precision that an accelerator likes best",
        "keep examples that are not finite",
        "count the copies that stand in for padding",
    }
    assert required <= {mutant.name for mutant in MUTANTS if not mutant.deep}
