"""Writes weights as safetensors, one tensor after the other, in memory for a block of one.

A file is 8 bytes (the header's length, little-endian), a JSON header padded with spaces to a
multiple of 8 bytes, and the tensors' raw little-endian values in order of the header
(https://github.com/huggingface/safetensors). The library's own `save` functions take all
tensors at once and copy them twice, which a model of a billion parameters cannot afford.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from dpscale.config import ModelConfig
from dpscale.interop.families import StoredDtype
from dpscale.interop.tensors import StoredTensor, stored_tensors
from dpscale.model.decoder import Params

SHARD_BYTES = 5 * 10**9
"""Weights above this are spread over several files, as Transformers' `5GB`."""

BLOCK_ELEMENTS = 1 << 23
"""How much of a tensor is laid out and converted at once: 32 MiB of float32."""

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_DTYPES: dict[StoredDtype, tuple[str, np.dtype[Any]]] = {
    "float32": ("F32", np.dtype("<f4")),
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
}


def write_weights(
    folder: Path,
    model: ModelConfig,
    params: Params,
    *,
    dtype: StoredDtype,
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Writes all parameters into `folder`; returns the number of bytes of the tensors.

    Values are rounded to nearest even where `dtype` is narrower.

    Args:
      shard_bytes: A file holds at most this many bytes of tensors, or a single tensor.
    """
    _, stored = _DTYPES[dtype]
    shards = _shards(stored_tensors(model), shard_bytes // stored.itemsize)
    names = [WEIGHTS_FILE]
    if len(shards) > 1:
        names = [
            f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            for number in range(1, len(shards) + 1)
        ]
    for name, shard in zip(names, shards, strict=True):
        _write_shard(folder / name, shard, params, dtype)
    total = stored.itemsize * sum(tensor.num_elements for shard in shards for tensor in shard)
    if len(shards) > 1:
        places = zip(names, shards, strict=True)
        weight_map = {tensor.name: name for name, shard in places for tensor in shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return total


def _shards(tensors: Sequence[StoredTensor], max_elements: int) -> list[list[StoredTensor]]:
    shards: list[list[StoredTensor]] = [[]]
    room = max_elements
    for tensor in tensors:
        if shards[-1] and tensor.num_elements > room:
            shards.append([])
            room = max_elements
        shards[-1].append(tensor)
        room -= tensor.num_elements
    return shards


def _write_shard(
    path: Path, tensors: Sequence[StoredTensor], params: Params, dtype: StoredDtype
) -> None:
    _, stored = _DTYPES[dtype]
    with path.open("wb") as file:
        file.write(_header(tensors, dtype))
        for tensor in tensors:
            array = np.asarray(tensor.of(params))
            rows = max(1, BLOCK_ELEMENTS * len(array) // tensor.num_elements)
            for start in range(0, len(array), rows):
                block = np.ascontiguousarray(array[start : start + rows], dtype=stored)
                file.write(block.view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def _header(tensors: Sequence[StoredTensor], dtype: StoredDtype) -> bytes:
    name, stored = _DTYPES[dtype]
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.num_elements * stored.itemsize
        fields[tensor.name] = {
            "dtype": name,
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
