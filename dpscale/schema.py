"""Plain data to dataclasses and back, strictly: the reading of TOML and JSON.

An unknown key, a missing key or a value of the wrong type is an `InputError` that names the
file and the key. Nothing is coerced but whole numbers to floats.
"""

import dataclasses
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from dpscale.errors import InputError
from dpscale.paths import as_path

T = typing.TypeVar("T")


def read_toml(path: str | Path) -> dict[str, Any]:
    """The table in a TOML file; `InputError` names file and line where it is malformed."""
    try:
        with as_path(path).open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise InputError(str(path), "no such file.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(str(path), f"cannot be read as TOML ({error}).") from None


def with_overrides(fields: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Applies `section.key=value` assignments, the values in TOML's syntax.

    >>> with_overrides({"optimizer": {"learning_rate": 0.1}}, ["optimizer.learning_rate=0.5"])
    {'optimizer': {'learning_rate': 0.5}}
    """
    result: dict[str, Any] = json.loads(json.dumps(fields))
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator or not name.strip():
            raise InputError("--set", f"expected key=value, found {assignment!r}.")
        *sections, key = name.strip().split(".")
        table = result
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise InputError("--set", f"{name}: {section!r} is a value, not a section.")
        table[key] = _toml_value(text.strip())
    return result


def to_toml(fields: Mapping[str, Any], *, header: str = "") -> str:
    """TOML text of a config's plain data.

    TOML has no null: an absent (None) value in a section is written "none", which is read
    back as absent, and an absent section is left out.

    Args:
      header: Lines to put on top as comments.
    """
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    lines += [
        f"{key} = {_toml_text(value)}"
        for key, value in fields.items()
        if not isinstance(value, Mapping) and value is not None
    ]
    for section, table in fields.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{section}]"]
            lines += [f"{key} = {_toml_text(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def build(cls: type[T], fields: Mapping[str, Any], *, where: str) -> T:
    """Builds the dataclass `cls` from plain data, strictly.

    Raises:
      InputError: An unknown or missing key, a value of the wrong type or out of range. Its
        place is `where` and the dotted key.
    """
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if not isinstance(fields, Mapping):
        raise InputError(where, f"expected a section, found {fields!r}.")
    for key in fields:
        if key not in known:
            raise InputError(f"{where}: {key}", f"unknown key; known here: {', '.join(known)}.")
    values = {}
    for name, field in known.items():
        if name in fields:
            values[name] = _convert(hints[name], fields[name], where=f"{where}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"{where}: {name}", "missing.")
    try:
        return cls(**values)
    except InputError as error:
        raise type(error)(f"{where}: {error.where}", error.message) from None


def _convert(hint: Any, value: Any, *, where: str) -> Any:
    """`value` as `hint`; whole numbers pass as floats, nothing else is coerced."""
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where=where)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if value in (None, "none") else _convert(options[0], value, where=where)
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise InputError(
                where,
                f"expected one of {', '.join(map(repr, typing.get_args(hint)))}, found {value!r}.",
            )
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise InputError(where, f"expected {hint.__name__}, found {value!r}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(where, f"expected a finite number, found {value!r}.")
    return value


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string: --set data.path=runs/data


def _toml_text(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, float):
        return repr(value)
    # TOML forbids DEL, and has no surrogate pairs: other characters stand as they are.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
