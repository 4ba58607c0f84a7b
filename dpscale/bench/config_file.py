"""Writing a choice into a config file, and leaving everything else in it as its owner wrote it.

Lines are edited in place. That this was understood rightly is not taken on trust: the new text
is read back, and must say what the old one said but for the three settings. No JAX.
"""

import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpscale.errors import InputError
from dpscale.files import write_text_atomically
from dpscale.schema import read_toml

_SECTION = "clipping"
_HEADER = re.compile(rf"\s*\[\s*{_SECTION}\s*\]\s*(#.*)?$")
_ANY_HEADER = re.compile(r"\s*\[")
_SETTING = re.compile(
    r"""(?P<before>\s*(?P<key>[\w-]+)\s*=\s*)(?P<value>"[^"\\]*"|'[^']*'|[\w+.-]+)(?P<after>\s*(\#.*)?)$"""
)


def write_clipping(path: Path, settings: Mapping[str, str | int]) -> None:
    """Puts `settings` into the file's [clipping], atomically.

    Raises:
      InputError: The file is written in a way that is not safe to edit by machine.
    """
    before = read_toml(path)
    real = path.resolve()  # a link stays a link
    with real.open(encoding="utf-8", newline="") as file:
        text = file.read()
    edited = with_settings(text, settings)
    if not _says(edited, {**before, _SECTION: {**before.get(_SECTION, {}), **settings}}):
        wanted = ", ".join(f"{key} = {_toml(value)}" for key, value in settings.items())
        raise InputError(
            str(path), f"cannot be edited safely; set in [{_SECTION}] by hand: {wanted}."
        )
    write_text_atomically(real, edited, mode=stat.S_IMODE(real.stat().st_mode))


def with_settings(text: str, settings: Mapping[str, str | int]) -> str:
    r"""`text` with the settings of its [clipping] replaced or added.

    >>> with_settings("[clipping] # how\nstrategy = 'auto'  # best\n", {"strategy": "vmap"})
    '[clipping] # how\nstrategy = "vmap"  # best\n'
    """
    lines = text.splitlines(keepends=True)
    newline = "\r\n" if "\r\n" in text else "\n"
    start = next((i for i, line in enumerate(lines) if _HEADER.match(line.rstrip())), None)
    if start is None:
        ending = "" if not text or text.endswith("\n") else newline
        lines.append(f"{ending}{newline}[{_SECTION}]{newline}")
        start = len(lines) - 1
    missing, last = dict(settings), start
    for index in range(start + 1, len(lines)):
        line = lines[index]
        if _ANY_HEADER.match(line):
            break
        found = _SETTING.match(line.rstrip("\r\n"))
        if found is None:
            continue
        last = index
        if found["key"] in missing:
            ending = line[len(line.rstrip("\r\n")) :]
            value = _toml(missing.pop(found["key"]))
            lines[index] = f"{found['before']}{value}{found['after']}{ending}"
    if missing and not lines[last].endswith("\n"):
        lines[last] += newline
    added = [f"{key} = {_toml(value)}{newline}" for key, value in missing.items()]
    return "".join(lines[: last + 1] + added + lines[last + 1 :])


def _says(text: str, expected: Mapping[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == expected
    except tomllib.TOMLDecodeError:
        return False


def _toml(value: str | int) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
