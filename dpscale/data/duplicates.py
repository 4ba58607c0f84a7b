"""Which units to keep: exact duplicates found in bounded memory.

Units are told apart by 128-bit hashes. The hashes are spread over files by their first byte,
and each file is sorted alone: 100 GB of text in units of 65 tokens (4e8 units) makes 256
files of about 40 MB. Whether a unit is kept is one byte in a memory-mapped file.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

NUM_BUCKETS = 256
_BLOCK_BYTES = 16 * 2**20
_ENTRY = np.dtype([("hash_high", "<u8"), ("hash_low", "<u8"), ("index", "<u8"), ("side", "u1")])
_EVAL, _TRAIN = 0, 1

Units = npt.NDArray[np.unsignedinteger]


class UnitRows(Protocol):
    """Units `[n, S + 1]` that are read slice by slice: an array, or `packing.RawUnits`."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102
    @property
    def itemsize(self) -> int: ...  # noqa: D102
    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Units: ...


@dataclass(frozen=True)
class Kept:
    """The units that stay, as bool[n] for each side, and how many went for which reason.

    Counts: `num_duplicate_units` and `num_duplicate_eval_units` repeat an earlier unit of
    their side; `num_overlapping_units` are training units that equal an evaluation unit.
    """

    train: npt.NDArray[np.bool_]
    eval: npt.NDArray[np.bool_]
    num_duplicate_units: int
    num_duplicate_eval_units: int
    num_overlapping_units: int


def find_kept(
    train: UnitRows,
    held_out: UnitRows,
    folder: Path,
    *,
    keep_duplicates: bool,
    progress: Callable[[float], None] = lambda _: None,
) -> Kept:
    """Decides which units stay, of `[n, S + 1]` training and evaluation units.

    A training unit that equals an evaluation unit always goes, so that no record stands on
    both sides. It is the training unit, because the evaluation set must not depend on the
    protected units: its loss is published without noise. Of equal units on one side the first
    stays, unless `keep_duplicates`.

    Both rules drop a record for what it is or for an equal one that stays, so that removing one
    record from the corpus of units changes what is kept by at most one record.

    Args:
      folder: An existing folder for temporary files; they are removed again, but for the two
        memory-mapped arrays of the result.
      progress: Is called with the share done, in [0, 1].
    """
    buckets = folder / "buckets"
    shutil.rmtree(buckets, ignore_errors=True)
    buckets.mkdir()
    _scatter(held_out, train, buckets, lambda share: progress(share / 2))
    kept = {
        _TRAIN: _all_kept(folder / "train.kept", len(train)),
        _EVAL: _all_kept(folder / "eval.kept", len(held_out)),
    }
    duplicates = {_TRAIN: 0, _EVAL: 0}
    overlapping = 0
    for number, path in enumerate(sorted(buckets.iterdir())):
        entries = _sorted(np.fromfile(path, _ENTRY))
        same = np.zeros(len(entries), np.bool_)  # as the entry before
        same[1:] = (entries["hash_high"][1:] == entries["hash_high"][:-1]) & (
            entries["hash_low"][1:] == entries["hash_low"][:-1]
        )
        first = np.maximum.accumulate(np.where(same, 0, np.arange(len(entries))))
        on_train = entries["side"] == _TRAIN
        overlap = on_train & (entries["side"][first] == _EVAL)
        repeat = same & ~overlap & (not keep_duplicates)
        overlapping += int(overlap.sum())
        for side in (_TRAIN, _EVAL):
            mine = entries["side"] == side
            duplicates[side] += int((repeat & mine).sum())
            kept[side][entries["index"][(repeat | overlap) & mine]] = False
        progress(0.5 + (number + 1) / NUM_BUCKETS / 2)
    shutil.rmtree(buckets)
    return Kept(kept[_TRAIN], kept[_EVAL], duplicates[_TRAIN], duplicates[_EVAL], overlapping)


def unit_hash(unit: bytes) -> bytes:
    """128 bits that tell units apart: two of 4e8 agree by chance with probability below 1e-21."""
    return hashlib.blake2b(unit, digest_size=16).digest()


def _sorted(entries: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Equal hashes together; among them evaluation units first, and earlier units first.

    The sort is stable, and that is the order in which `_scatter` wrote them.
    """
    return entries[np.lexsort((entries["hash_low"], entries["hash_high"]))]


def _scatter(
    held_out: UnitRows, train: UnitRows, folder: Path, progress: Callable[[float], None]
) -> None:
    """Writes an entry for each unit into the file that its hash belongs to."""
    total, done = max(1, len(held_out) + len(train)), 0
    files = [(folder / f"{number:03d}").open("wb") for number in range(NUM_BUCKETS)]
    try:
        for side, units in ((_EVAL, held_out), (_TRAIN, train)):
            for start, block in blocks(units):
                entries = np.empty(len(block), _ENTRY)
                hashes = b"".join(unit_hash(unit.tobytes()) for unit in block)
                high_low = np.frombuffer(hashes, "<u8").reshape(-1, 2)
                entries["hash_high"], entries["hash_low"] = high_low[:, 0], high_low[:, 1]
                entries["index"] = np.arange(start, start + len(block))
                entries["side"] = side
                bucket = entries["hash_high"] >> np.uint64(56)
                order = np.argsort(bucket, kind="stable")
                bounds = np.searchsorted(bucket[order], np.arange(NUM_BUCKETS + 1))
                for number, file in enumerate(files):
                    file.write(entries[order[bounds[number] : bounds[number + 1]]].tobytes())
                done += len(block)
                progress(done / total)
    finally:
        for file in files:
            file.close()


def blocks(units: UnitRows) -> Iterator[tuple[int, Units]]:
    """Consecutive blocks of units of bounded size, each with the index of its first unit."""
    rows = max(1, _BLOCK_BYTES // max(1, units.shape[1] * units.itemsize))
    for start in range(0, len(units), rows):
        yield start, units[start : start + rows]


def _all_kept(path: Path, num_units: int) -> npt.NDArray[np.bool_]:
    path.write_bytes(b"")
    if not num_units:
        return np.empty(0, np.bool_)
    kept = np.memmap(path, np.bool_, mode="w+", shape=(num_units,))
    kept[:] = True
    return kept
