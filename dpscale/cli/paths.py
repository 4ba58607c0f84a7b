"""Paths as they are typed: which options may name a bucket, and which are local only.

An option typed `Path` is a local path, and one with a scheme is refused; so no verb can take a
`gs://` path that it would not know how to write. An option typed `BucketPath` takes both.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from dpscale.errors import InputError
from dpscale.paths import as_local_path, as_path


class PathRefused(Exception):
    """A path of a kind that its option does not take; `typed` is what stood there."""

    def __init__(self, error: InputError) -> None:
        super().__init__(str(error))
        self.typed = error.where
        self.message = error.message


def _reads(convert: Callable[[str], Path]) -> PrimitiveConstructorSpec[Path]:
    def from_text(words: list[str]) -> Path:
        try:
            return convert(words[0])
        except InputError as error:
            raise PathRefused(error) from None  # tyro would box an InputError, and fold the path

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=from_text,
        is_instance=lambda value: isinstance(value, os.PathLike),
        str_from_instance=lambda path: [str(path)],
    )


BucketPath = Annotated[Path, _reads(as_path)]
"""An option that takes a local path, or one on a bucket."""


def path_rules() -> ConstructorRegistry:
    """How tyro reads options typed `Path`."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def local_only(kind: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        return _reads(as_local_path) if kind.type is Path else None

    return registry


def refusal(error: PathRefused, options: type, arguments: Sequence[str]) -> InputError:
    """The mistake with the option that was typed before the path; else with the path itself."""
    fields = dataclasses.fields(options)
    flags = {f"--{field.name.replace('_', '-')}" for field in fields if field.type is bool}
    for before, argument in zip(("", *arguments), arguments, strict=False):
        name, _, value = argument.partition("=")
        if value == error.typed and name.startswith("--"):
            return InputError(name, f"{error.message} Found {error.typed}.")
        if argument == error.typed and before.startswith("--") and before not in flags:
            return InputError(before, f"{error.message} Found {error.typed}.")
    return InputError(error.typed, error.message)
