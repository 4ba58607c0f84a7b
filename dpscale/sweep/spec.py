"""A sweep file: one base run, and grids over any of its settings.

    [base]                                   # a run config, as `dpscale train` takes it
    purpose = "law-fitting"
    model = { vocab_size = 1024, seq_len = 64 }
    ...

    [[grid]]                                 # one or more; each is the product of its axes
    shape = ["w16", "w32"]                   # short for model.shape
    optimizer.learning_rate = [0.03, 0.06]   # any key of a run config
    seed = [0, 1]
    resources = { TPU = 4, hosts = 2 }       # what each of its points needs, in place of:

    [resources]                              # what a point needs where its grid does not say
    CPU = 1                                  # of each host; names are the engine's

    [slurm]                                  # for `--launcher slurm`: options of sbatch
    partition = "gpu"

A point that several grids contain is run once, with the resources of the first. All points are
checked before the first one runs.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpscale.config import RunConfig
from dpscale.errors import InputError
from dpscale.schema import read_toml, with_overrides
from dpscale.sizes import expand_shape
from dpscale.sweep.launchers.protocol import Resources

Axes = dict[str, list[Any]]

_SECTIONS = ("base", "grid", "resources", "slurm")


@dataclass(frozen=True)
class _Grid:
    axes: Axes
    resources: Resources | None


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep, each a valid config; no two share a `run_id`.

    Attributes:
      points: The runs.
      resources: What each needs, by `run_id`.
      slurm: Options of sbatch, as they stand in the file.
    """

    points: tuple[RunConfig, ...]
    resources: Mapping[str, Resources] = field(default_factory=dict)
    slurm: Mapping[str, Any] = field(default_factory=dict)

    def resources_of(self, point: RunConfig) -> Resources:
        """What a point of the sweep needs."""
        return self.resources[point.run_id]

    @property
    def data_paths(self) -> tuple[str, ...]:
        """The folders of prepared data that the points read, each once, in order."""
        return tuple(dict.fromkeys(point.data.path for point in self.points))


def read_sweep(path: str | Path, overrides: tuple[str, ...] = ()) -> Sweep:
    """The sweep that a TOML file describes.

    Args:
      overrides: `key=value` assignments to the base; a key that is an axis cannot be set.

    Raises:
      InputError: The file, an override or any point of any grid is wrong; names file and key.
    """
    return sweep_from_dict(read_toml(path), overrides, where=str(path))


def sweep_from_dict(
    fields: Mapping[str, Any], overrides: tuple[str, ...] = (), *, where: str
) -> Sweep:
    """The sweep in a file's plain data; `where` (the file's name) heads every error."""
    for key in fields:
        if key not in _SECTIONS:
            raise InputError(f"{where}: {key}", f"unknown key; known here: {', '.join(_SECTIONS)}.")
    base = fields.get("base")
    if not isinstance(base, Mapping):
        raise InputError(f"{where}: base", "missing; write the settings of a run under [base].")
    grids = _grids(fields.get("grid"), where=where)
    _refuse_set_axes(overrides, grids)
    base = with_overrides(base, overrides)
    usual = _resources(fields, where=where)
    points: dict[str, RunConfig] = {}
    resources: dict[str, Resources] = {}
    for grid in grids:
        for values in _product(grid.axes):
            point = _point(base, values, where=where)
            points.setdefault(point.run_id, point)
            resources.setdefault(point.run_id, grid.resources or usual)
    slurm = _table(fields, "slurm", where=where)
    return Sweep(points=tuple(points.values()), resources=resources, slurm=slurm)


def _resources(fields: Mapping[str, Any], *, where: str) -> Resources:
    table = _table(fields, "resources", where=where)
    return Resources.from_dict(table, where=f"{where}: resources")


def _table(fields: Mapping[str, Any], key: str, *, where: str) -> Mapping[str, Any]:
    table = fields.get(key, {})
    if not isinstance(table, Mapping):
        raise InputError(f"{where}: {key}", f"expected a table, found {table!r}.")
    return table


def _grids(tables: Any, *, where: str) -> list[_Grid]:
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        raise InputError(f"{where}: grid", "expected one or more tables headed [[grid]].")
    return [
        _grid(table, where=f"{where}: grid {number}")
        for number, table in enumerate(tables, start=1)
    ]


def _grid(table: Mapping[str, Any], *, where: str) -> _Grid:
    axes = {key: value for key, value in table.items() if key != "resources"}
    resources = _resources(table, where=where) if "resources" in table else None
    return _Grid(dict(_axes(axes, where=where)), resources)


def _axes(table: Mapping[str, Any], *, where: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; a quoted "a.b" and a bare a.b are the same axis."""
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _axes(value, where=where, prefix=f"{name}.")
        elif not isinstance(value, list) or not value:
            raise InputError(f"{where}: {name}", f"expected a list of values, found {value!r}.")
        else:
            yield _full_name(name), value


def _full_name(name: str) -> str:
    return "model.shape" if name == "shape" else name


def _refuse_set_axes(overrides: tuple[str, ...], grids: list[_Grid]) -> None:
    """Setting an axis would either be ignored or silently empty the grid: neither is meant."""
    for override in overrides:
        name = _full_name(override.partition("=")[0].strip())
        if any(name in grid.axes for grid in grids):
            raise InputError("--set", f"{name} is an axis of the sweep; edit the file instead.")


def _product(axes: Axes) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _point(base: Mapping[str, Any], values: Mapping[str, Any], *, where: str) -> RunConfig:
    fields = json.loads(json.dumps(base))
    for name, value in values.items():
        *sections, key = name.split(".")
        table = fields
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise InputError(f"{where}: {name}", f"{section!r} is a value, not a section.")
        table[key] = value
    return RunConfig.from_dict(expand_shape(fields, where=where), where=where)
