"""Writing .npy shards."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from dpscale.data import duplicates
from dpscale.data.shards import write_shards


@pytest.mark.parametrize("shard_bytes", [1, 5 * 8, 1000])
@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_shards_hold_what_stays_in_order_whatever_their_size(
    tmp_path: Path, shard_bytes: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "_BLOCK_BYTES", 3 * 4 * 4)
    units = np.arange(23 * 4).reshape(23, 4).astype(dtype)
    kept = np.arange(23) % 3 != 1
    seen: list[np.ndarray] = []
    shards = write_shards(units, kept, tmp_path, "train", shard_bytes=shard_bytes, see=seen.append)
    arrays = [np.load(tmp_path / shard.name, mmap_mode="r") for shard in shards]
    np.testing.assert_array_equal(np.concatenate(arrays), units[kept])
    np.testing.assert_array_equal(np.concatenate(seen), units[kept])
    assert {array.dtype for array in arrays} == {np.dtype(dtype)}
    assert all(len(array) * 4 * units.itemsize <= max(shard_bytes, 16) for array in arrays)
    for shard in shards:
        content = (tmp_path / shard.name).read_bytes()
        assert shard.num_bytes == len(content)
        assert shard.sha256 == hashlib.sha256(content).hexdigest()
    assert [shard.name for shard in shards] == [f"train-{i:05d}.npy" for i in range(len(shards))]
    assert len(list(tmp_path.iterdir())) == len(shards)


def test_no_unit_makes_no_shard(tmp_path: Path) -> None:
    units = np.ones((4, 3), "<u2")
    assert write_shards(units, np.zeros(4, np.bool_), tmp_path, "eval") == ()
    assert write_shards(units[:0], np.zeros(0, np.bool_), tmp_path, "eval") == ()
