"""Holds imports to the table of `docs/architecture.md`, and JAX out of where it is not needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpscale.cli.verbs import VERBS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dpscale"

EVERYWHERE = ("errors", "paths", "buckets", "files", "schema")
ALLOWED = {
    "errors": (),
    "paths": ("errors",),
    "buckets": ("errors",),
    "files": ("errors",),
    "schema": ("errors",),
    "runtime": (),
    "config": (),
    "sizes": ("config",),
    "compute": ("config", "sizes"),
    "records": ("config",),
    "ops": ("config",),
    "model": ("ops", "config"),
    "privacy": ("ops", "config"),
    "data": ("config",),
    "training": ("model", "ops", "data", "privacy", "sizes", "compute", "records", "config"),
    "inference": ("model", "data", "records", "config", "training.checkpoint"),
    "interop": (
        "inference",
        "model",
        "data",
        "sizes",
        "records",
        "config",
        "training.checkpoint",
        "privacy.receipt",
    ),
    "evaluation": ("inference", "model", "data", "records", "config"),
    "bench": ("training", "inference", "model", "ops", "privacy", "sizes", "compute", "config"),
    "sweep": ("records", "sizes", "compute", "config", "runtime"),
    "scaling": ("records", "sizes", "compute", "privacy.accounting", "config"),
}
"""What each part may import besides itself and `EVERYWHERE`; `cli` may import anything."""

SCALING = ("forms", "reading", "curves", "law", "fitting", "synergy", "advice", "figures")
"""Parts of `scaling`: each may import those before it."""

NO_JAX = ("jax", "jaxlib", "flax", "optax", "orbax", "grain")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it; `from a import b` gives `a.b` too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def violations(part: str, names: list[str]) -> list[str]:
    """The imports among `names` that the table does not allow to `part`."""
    allowed = (*ALLOWED[part], *(EVERYWHERE if part != "errors" else ()), part)
    return [
        name
        for name in names
        if name.startswith("dpscale.")
        and not any(f"{name}.".startswith(f"dpscale.{target}.") for target in allowed)
    ]


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def test_the_check_sees_a_forbidden_import() -> None:
    # A check that lets everything pass would keep this suite green.
    assert violations("sweep", ["dpscale.training.loop", "dpscale.schema.build", "json"]) == [
        "dpscale.training.loop"
    ]
    assert violations("inference", ["dpscale.training.loop", "dpscale.training.checkpoint.x"]) == [
        "dpscale.training.loop"
    ]
    assert violations("files", ["dpscale.configuration", "dpscale.errors.InputError"]) == [
        "dpscale.configuration"
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_table(path: Path) -> None:
    part = part_of(path)
    if part == "cli":
        return
    assert part in ALLOWED, f"dpscale.{part} is missing from the table"
    assert violations(part, list(imports(path))) == []


def test_parts_of_scaling_build_on_those_before_them() -> None:
    folder = PACKAGE / "scaling"
    for path in folder.rglob("*.py"):
        part = path.relative_to(folder).with_suffix("").parts[0]
        if part not in SCALING:
            continue
        later = {f"dpscale.scaling.{name}" for name in SCALING[SCALING.index(part) + 1 :]}
        found = {".".join(name.split(".")[:3]) for name in imports(path)}
        assert not later & found, path


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_library_knows_nothing_of_what_is_built_on_it(path: Path) -> None:
    outside = {"experiments", "sweeps", "analysis", "tests"}
    assert not outside & {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_package_files_are_empty(path: Path) -> None:
    assert path.read_text() == ""


def loaded_by(code: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter holds after `code`."""
    report = "import sys; print('\\n' + ' '.join({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_the_import_check_sees_a_heavy_module() -> None:
    assert "sqlite3" in loaded_by("import sqlite3")


@pytest.mark.parametrize("verb", VERBS)
def test_help_loads_nothing_heavy(verb: str) -> None:
    heavy = {*NO_JAX, "pandas", "scipy", "matplotlib", "dp_accounting", "pyarrow"}
    code = (
        "from dpscale.cli.main import main\n"
        "try:\n"
        f"    main(['{verb}', '--help'])\n"
        "except SystemExit as leaving:\n"
        "    assert leaving.code in (0, None)\n"
    )
    assert not heavy & loaded_by(code)


def test_overview_loads_no_verb() -> None:
    code = "from dpscale.cli.main import main; main(['--help'])"
    assert not {*NO_JAX, "pandas", "numpy"} & loaded_by(code)


def test_parts_without_jax_stay_without_it() -> None:
    parts = ("scaling", "sweep", "privacy/accounting", "sizes.py", "compute.py", "records.py")
    paths = [
        path for path in MODULES if str(path.relative_to(PACKAGE).as_posix()).startswith(parts)
    ]
    names = [".".join(("dpscale", *p.relative_to(PACKAGE).with_suffix("").parts)) for p in paths]
    assert len(names) > 8
    code = "\n".join(f"import {name}" for name in names if not name.endswith("__main__"))
    assert not set(NO_JAX) & loaded_by(code)
