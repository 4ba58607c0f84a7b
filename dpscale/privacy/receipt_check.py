"""Reading a receipt back: is it one, and does its epsilon follow from its mechanism? No JAX.

The check is for whoever is handed a receipt. It needs nothing but the receipt, and computes
again all that follows from the mechanism that it names. It cannot know whether the run was what
the receipt says.
"""

import dataclasses
import functools
import importlib.resources
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dpscale.errors import InputError
from dpscale.files import read_json
from dpscale.privacy.accounting.subsampled_gaussian import SubsampledGaussian
from dpscale.privacy.receipt import FORMAT_VERSION, consequences, curve_fields

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

SCHEMA_FILE: Final = "receipt.schema.json"
TOLERANCE: Final = 1e-4
"""How far, in relative terms, a number may be from what is computed again. Accounting is
deterministic, but the last digits of exp and log differ between machines, and searches magnify
them (dp_accounting's were seen to move by 5e-5)."""

ATTACKER_TOLERANCE: Final = 1e-3
"""The same for what an attacker gets, whose search ends where little is left to gain."""


def read_receipt(path: Path) -> dict[str, Any]:
    """A receipt that keeps to this version's schema.

    Raises:
      InputError: No such file, no JSON, another format version, or the first field that the
        schema does not allow.
    """
    receipt = read_unchecked_receipt(path)
    for violation in violations(receipt):
        raise InputError(str(path), f"{violation} (`--check` lists all).")
    return receipt


def read_unchecked_receipt(path: Path) -> dict[str, Any]:
    """A JSON object that calls itself a receipt of this format version.

    Raises:
      InputError: As `read_receipt`, but for the schema.
    """
    receipt = read_json(path)
    version = receipt.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path}: format_version",
            f"expected {FORMAT_VERSION}, found {version!r}: written by another dpscale.",
        )
    return receipt


def mismatches(receipt: Mapping[str, Any]) -> list[str]:
    """What is wrong with a receipt, a line each; empty where nothing is.

    First the schema; where it holds, every field that follows from the mechanism and delta.
    """
    return violations(receipt) or list(_inconsistencies(receipt))


def violations(receipt: Mapping[str, Any]) -> list[str]:
    """Where a receipt departs from its schema, a line each."""
    errors = sorted(_validator().iter_errors(receipt), key=lambda error: error.json_path)
    places = [error.json_path.removeprefix("$").removeprefix(".") for error in errors]
    return [
        f"{place or 'receipt'}: {' '.join(error.message.split())}"
        for place, error in zip(places, errors, strict=True)
    ]


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a receipt."""
    text = (importlib.resources.files("dpscale.privacy") / SCHEMA_FILE).read_text(encoding="utf-8")
    fields: dict[str, Any] = json.loads(text)
    return fields


@functools.cache
def _validator() -> "Validator":
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema())


def _inconsistencies(receipt: Mapping[str, Any]) -> Iterator[str]:
    if receipt["iterations"] > receipt["planned_iterations"]:
        yield (
            f"iterations: states {receipt['iterations']}, more than planned_iterations "
            f"{receipt['planned_iterations']}"
        )
    names = [field.name for field in dataclasses.fields(SubsampledGaussian)]
    try:
        mechanism = SubsampledGaussian(**{name: receipt[name] for name in names})
    except InputError as error:
        yield str(error)
        return
    computed = consequences(mechanism, delta=receipt["delta"])
    if receipt["curve"] is not None or receipt["iterations"] == receipt["planned_iterations"]:
        computed |= curve_fields(mechanism, delta=receipt["delta"])
    for name, value in computed.items():
        yield from _differences(name, receipt[name], value)


def _differences(name: str, stated: Any, computed: Any) -> Iterator[str]:
    """A line for each place where what is stated is not what was computed again."""
    if isinstance(computed, Mapping) and isinstance(stated, Mapping):
        for key in computed:
            yield from _differences(f"{name}.{key}", stated[key], computed[key])
    elif isinstance(computed, list) and isinstance(stated, list) and len(stated) == len(computed):
        for index, (old, new) in enumerate(zip(stated, computed, strict=True)):
            yield from _differences(f"{name}[{index}]", old, new)
    elif isinstance(computed, float) and isinstance(stated, int | float):
        tolerance = ATTACKER_TOLERANCE if name.startswith("attacker.") else TOLERANCE
        if not math.isclose(stated, computed, rel_tol=tolerance):
            yield f"{name}: states {stated:.6g}, recomputed {computed:.6g}"
    elif stated != computed:
        yield f"{name}: states {stated!r}, recomputed {computed!r}"
