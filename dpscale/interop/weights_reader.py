"""Reads the safetensors of a Gemma checkpoint into our parameters; never a pickle."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dpscale.config import ModelConfig
from dpscale.errors import InputError
from dpscale.files import read_json
from dpscale.interop.tensors import StoredTensor, leaf, stored_tensors
from dpscale.interop.weights_file import INDEX_FILE, WEIGHTS_FILE
from dpscale.model.decoder import Params, params_shapes

READABLE = ("F32", "BF16", "F16")
"""Dtypes that float32 holds without loss."""


@dataclass(frozen=True)
class _Found:
    """A tensor in an open file."""

    path: Path
    file: Any
    dtype: str
    shape: tuple[int, ...]


def read_params(folder: Path, model: ModelConfig) -> Params:
    """The parameters of `model` from a folder's weights, as float32 NumPy arrays.

    Every tensor is checked before the first is read.

    Raises:
      InputError: No safetensors; a file that is missing, truncated or damaged; a tensor that
        is unknown, missing, there twice, or of another shape or dtype.
    """
    tensors = stored_tensors(model)
    with contextlib.ExitStack() as stack:
        found = _found(stack, _weight_files(folder))
        _check(folder, tensors, found)
        params: Params = jax.tree.map(
            lambda like: np.empty(like.shape, np.float32), params_shapes(model)
        )
        for tensor in tensors:
            value = found[tensor.name].file.get_tensor(tensor.name)
            place = leaf(params, tensor.path)
            own = place if tensor.layer is None else place[tensor.layer]
            own[...] = value.T if tensor.is_transposed else value
    return params


def _weight_files(folder: Path) -> list[Path]:
    index = folder / INDEX_FILE
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    if not index.is_file():
        pickles = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt*"))
        why = f"only {pickles[0].name}, and pickles are never read" if pickles else "found none"
        raise InputError(str(folder), f"expected weights in {WEIGHTS_FILE} or shards; {why}.")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: weight_map", f"expected names of files, found {weight_map!r}.")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(
                f"{index}: weight_map", f"expected a .safetensors beside it, found {name!r}."
            )
    return [folder / name for name in names]


def _found(stack: contextlib.ExitStack, paths: Sequence[Path]) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for path in paths:
        for name, tensor in _opened(stack, path):
            if name in found:
                raise InputError(str(path), f"{name} is also in {found[name].path.name}.")
            found[name] = tensor
    return found


def _opened(stack: contextlib.ExitStack, path: Path) -> Iterator[tuple[str, _Found]]:
    from safetensors import SafetensorError, safe_open

    try:
        file = stack.enter_context(safe_open(path, framework="np"))
    except FileNotFoundError:
        raise InputError(str(path), "this file of weights is missing.") from None
    except (SafetensorError, OSError) as error:
        raise InputError(str(path), f"truncated, or not safetensors ({error}).") from None
    for name in file.keys():  # noqa: SIM118 - not a dict: it has no other way to iterate
        described = file.get_slice(name)
        yield name, _Found(path, file, described.get_dtype(), tuple(described.get_shape()))


def _check(folder: Path, tensors: Sequence[StoredTensor], found: dict[str, _Found]) -> None:
    wanted = {tensor.name: tensor for tensor in tensors}
    for name in sorted(found.keys() - wanted.keys()):
        raise InputError(str(found[name].path), f"{name} is no tensor of this model.")
    for name in sorted(wanted.keys() - found.keys()):
        raise InputError(str(folder), f"{name} is missing from its weights.")
    for name, tensor in wanted.items():
        there = found[name]
        if there.shape != tensor.shape:
            raise InputError(
                f"{there.path}: {name}",
                f"expected {list(tensor.shape)} by its config.json, found {list(there.shape)}.",
            )
        if there.dtype not in READABLE:
            raise InputError(
                f"{there.path}: {name}",
                f"expected one of {', '.join(READABLE)}, found {there.dtype}.",
            )
