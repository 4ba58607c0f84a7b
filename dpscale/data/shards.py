"""Writes the units that stay as .npy shards of bounded size."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dpscale.data.duplicates import UnitRows, Units, blocks
from dpscale.data.manifest import FileHash, FileHashes

SHARD_BYTES = 512 * 2**20


def write_shards(
    units: UnitRows,
    kept: npt.NDArray[np.bool_],
    folder: Path,
    side: str,
    *,
    shard_bytes: int = SHARD_BYTES,
    see: Callable[[Units], None] = lambda _: None,
) -> FileHashes:
    """Writes `units[kept]` to `folder/{side}-00000.npy` and so on, in order.

    Args:
      units: `[n, S + 1]` tokens; read block by block.
      kept: bool[n].
      folder: An existing folder.
      side: `train` or `eval`.
      shard_bytes: Upper bound on the tokens of one shard (a shard holds one unit at least).
      see: Is called with every block of units that stay.

    Returns:
      The shards, in order; none when nothing stays.
    """
    rows_per_shard = max(1, shard_bytes // (units.shape[1] * units.itemsize))
    left = sum(int(kept[start : start + len(block)].sum()) for start, block in blocks(units))
    shards: list[FileHash] = []
    shard: _Shard | None = None
    for start, block in blocks(units):
        staying = block[kept[start : start + len(block)]]
        see(staying)
        while len(staying):
            if shard is None:
                name = f"{side}-{len(shards):05d}.npy"
                shape = (min(left, rows_per_shard), units.shape[1])
                shard = _Shard(folder / name, shape, units.dtype)
            staying = shard.fill(staying)
            if shard.is_full:
                shards.append(shard.close())
                left -= shard.num_units
                shard = None
    return FileHashes(shards)


class _Shard:
    """One .npy file, written front to back and hashed on the way."""

    def __init__(self, path: Path, shape: tuple[int, int], dtype: np.dtype[np.unsignedinteger]):
        self.num_units = shape[0]
        self._path = path
        self._digest = hashlib.sha256()
        self._file = path.open("wb+")
        header = {"shape": shape, "fortran_order": False, "descr": dtype.str}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._file.seek(0)
        self._digest.update(self._file.read())
        self._written = 0

    @property
    def is_full(self) -> bool:
        return self._written == self.num_units

    def fill(self, units: Units) -> Units:
        """Writes as many units as fit; returns the others."""
        fitting = units[: self.num_units - self._written]
        content = fitting.tobytes()
        self._file.write(content)
        self._digest.update(content)
        self._written += len(fitting)
        return units[len(fitting) :]

    def close(self) -> FileHash:
        size = self._file.tell()
        self._file.close()
        return FileHash(self._path.name, size, self._digest.hexdigest())
