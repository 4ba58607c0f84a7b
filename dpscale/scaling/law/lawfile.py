"""`law.json`: a law written in full, and read back strictly.

Numbers are written with all their digits, so that a law that was read predicts exactly what
the law that was written did. An unknown, missing or mistyped key is an error.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from dpscale.errors import InputError
from dpscale.files import read_json, write_json_atomically
from dpscale.scaling.law.law import LAW_VERSION, ScalingLaw


def save_law(law: ScalingLaw, path: str | Path) -> None:
    """Writes `law` to `path`, whole or not at all."""
    write_json_atomically(path, dataclasses.asdict(law))


def load_law(path: str | Path) -> ScalingLaw:
    """Reads a law that `save_law` wrote.

    Raises:
      InputError: No such file, not a law, a law of another version, or a damaged one; the
        place names the key.
    """
    fields = read_json(path)
    if "law_version" not in fields:
        raise InputError(str(path), "is not a law; `dpscale fit RUNS --out law.json` writes one.")
    if fields["law_version"] != LAW_VERSION:
        raise InputError(
            f"{path}: law_version",
            f"expected {LAW_VERSION}, found {fields['law_version']!r}; fit it again.",
        )
    law: ScalingLaw = _decode(ScalingLaw, fields, where=str(path))
    return law


def _decode(hint: Any, value: Any, *, where: str) -> Any:
    """`value`, as JSON has it, as the type `hint`."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(typing.cast(type, hint), value, where=where)
    if origin is Literal:
        _expect(value in options, where, f"one of {', '.join(map(str, options))}", value)
        return value
    if origin in (typing.Union, types.UnionType):
        inner = next(option for option in options if option is not type(None))
        return None if value is None else _decode(inner, value, where=where)
    if origin is tuple:
        return _decode_tuple(options, value, where=where)
    if origin is Mapping:
        _expect(isinstance(value, dict), where, "an object", value)
        return {
            key: _decode(options[1], item, where=f"{where}: {key}") for key, item in value.items()
        }
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    right = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    _expect(right, where, hint.__name__, value)
    return value


def _decode_dataclass(cls: type, value: Any, *, where: str) -> Any:
    _expect(isinstance(value, dict), where, "an object", value)
    hints = typing.get_type_hints(cls)
    for key in value:
        if key not in hints:
            raise InputError(f"{where}: {key}", "unknown key.")
    for key in hints:
        if key not in value:
            raise InputError(f"{where}: {key}", "missing.")
    return cls(**{key: _decode(hints[key], value[key], where=f"{where}: {key}") for key in hints})


def _decode_tuple(options: tuple[Any, ...], value: Any, *, where: str) -> tuple[Any, ...]:
    _expect(isinstance(value, list), where, "a list", value)
    if len(options) == 2 and options[1] is Ellipsis:
        hints = [options[0]] * len(value)
    else:
        _expect(len(value) == len(options), where, f"{len(options)} values", value)
        hints = list(options)
    return tuple(
        _decode(hint, item, where=f"{where}[{index}]")
        for index, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _expect(holds: bool, where: str, expected: str, value: Any) -> None:
    if not holds:
        raise InputError(where, f"expected {expected}, found {value!r:.80}.")
