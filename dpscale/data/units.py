"""Reads prepared units: random access over memory-mapped shards."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dpscale.data.bucket_copy import local_copy
from dpscale.data.manifest import TOKENIZER_FILE, FileHashes, Manifest, file_hash, read_manifest
from dpscale.data.packing import token_dtype
from dpscale.data.tokenizer import Tokenizer
from dpscale.errors import InputError
from dpscale.paths import as_path, is_on_bucket


class UnitArray:
    """Units by index, over the shards of one side.

    Args:
      shards: `[n_i, S + 1]` arrays, memory-mapped; unit indices run through them in order.
      unit_len: S + 1.
    """

    def __init__(self, shards: Sequence[npt.NDArray[np.unsignedinteger]], unit_len: int) -> None:
        self.unit_len = unit_len
        self._shards = list(shards)
        self._starts = [0]
        for shard in shards:
            self._starts.append(self._starts[-1] + len(shard))

    def __len__(self) -> int:
        return self._starts[-1]

    def gather(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """The units at `indices`, in that order.

        Args:
          indices: int64[n] in [0, len(self)), in any order, repeats allowed.

        Returns:
          int32[n, S + 1].

        Raises:
          IndexError: An index out of range. Negative ones do not count from the end.
        """
        indices = np.asarray(indices, np.int64)
        wrong = indices[(indices < 0) | (indices >= len(self))]
        if wrong.size:
            raise IndexError(f"Expected unit index {wrong[0]} in [0, {len(self)}).")
        gathered = np.empty((len(indices), self.unit_len), np.int32)
        if len(self._shards) == 1:
            gathered[:] = self._shards[0][indices]
            return gathered
        order = np.argsort(indices, kind="stable")  # one visit to each shard
        start = 0
        while start < len(order):
            number = bisect.bisect_right(self._starts, indices[order[start]]) - 1
            end = int(np.searchsorted(indices[order], self._starts[number + 1]))
            rows = order[start:end]
            gathered[rows] = self._shards[number][indices[rows] - self._starts[number]]
            start = end
        return gathered


def spread_indices(num_units: int, count: int) -> npt.NDArray[np.int64]:
    """`count` of `num_units` indices, spread evenly from the first to the last; all, if above.

    >>> spread_indices(9, 3).tolist()
    [0, 4, 8]
    """
    count = min(count, num_units)
    return np.linspace(0, num_units - 1, count).round().astype(np.int64)


@dataclass(frozen=True)
class PreparedUnits:
    """A prepared folder: its manifest, and the units of both sides."""

    folder: Path
    manifest: Manifest
    train: UnitArray
    eval: UnitArray

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the units, from its copy in the folder.

        Raises:
          InputError: The copy is missing, or is not the one in the manifest.
        """
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        path = self.folder / TOKENIZER_FILE
        tokenizer = Tokenizer(path, where=str(self.folder))
        if tokenizer.sha256 != self.manifest.tokenizer_sha256:
            raise InputError(str(path), "not the tokenizer that made these units; prepare again.")
        return tokenizer

    def verify(self) -> None:
        """Reads every shard and compares its hash with the manifest's.

        Raises:
          InputError: A shard's content has changed since it was prepared.
        """
        for shard in (*self.manifest.train_shards, *self.manifest.eval_shards):
            if file_hash(self.folder / shard.name) != shard:
                raise InputError(
                    str(self.folder / shard.name), "its hash is not the manifest's; prepare again."
                )


def open_units(path: str | Path) -> PreparedUnits:
    """Opens a prepared folder without reading its tokens; one on a bucket comes over first.

    Raises:
      InputError: Not a prepared folder, or one with a shard missing, cut off, or of another
        shape than the manifest says. Changed tokens are found by `PreparedUnits.verify` only.
    """
    folder = as_path(path)
    if is_on_bucket(folder):
        folder = local_copy(folder)
    manifest = read_manifest(folder)
    train = _open_side(folder, manifest, manifest.train_shards, manifest.dataset_size)
    held_out = _open_side(folder, manifest, manifest.eval_shards, manifest.num_eval_units)
    return PreparedUnits(folder, manifest, train, held_out)


def _open_side(folder: Path, manifest: Manifest, shards: FileHashes, num_units: int) -> UnitArray:
    unit_len = manifest.seq_len + 1
    dtype = token_dtype(manifest.vocab_size)
    side = UnitArray(
        [_open_shard(folder / shard.name, shard.num_bytes, unit_len, dtype) for shard in shards],
        unit_len,
    )
    if len(side) != num_units:
        raise InputError(
            str(folder),
            f"the manifest promises {num_units} units, its shards hold {len(side)}; prepare again.",
        )
    return side


def _open_shard(
    path: Path, num_bytes: int, unit_len: int, dtype: np.dtype[Any]
) -> npt.NDArray[np.unsignedinteger]:
    if not path.is_file():
        raise InputError(str(path), "this shard is missing; prepare the data again.")
    if path.stat().st_size != num_bytes:
        raise InputError(
            str(path), f"expected {num_bytes} bytes, found {path.stat().st_size}; prepare again."
        )
    try:
        shard: npt.NDArray[np.unsignedinteger] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise InputError(str(path), f"not a .npy file ({error}); prepare again.") from None
    if shard.dtype != dtype or shard.ndim != 2 or shard.shape[1] != unit_len:
        raise InputError(
            str(path),
            f"expected {dtype}[n, {unit_len}], found {shard.dtype}{list(shard.shape)}; "
            "prepare again.",
        )
    return shard
