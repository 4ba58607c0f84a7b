"""Opening prepared folders, and gathering units."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpscale.data.prepare import prepare
from dpscale.data.request import PrepareRequest
from dpscale.data.tokenizer import Tokenizer
from dpscale.data.units import UnitArray, open_units
from dpscale.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, corpus: Path, tokenizer_path: Path) -> Path:
    prepare(PrepareRequest((corpus,), tokenizer_path, 7), tmp_path / "out", workers=1)
    return tmp_path / "out"


@given(st.lists(st.integers(1, 5), max_size=5), st.data())
def test_gather_is_plain_indexing_over_all_shards(sizes: list[int], data: st.DataObject) -> None:
    whole = np.arange(sum(sizes) * 3, dtype="<u4").reshape(-1, 3)
    shards = np.split(whole, np.cumsum(sizes)[:-1]) if sizes else []
    units = UnitArray(shards, 3)
    assert len(units) == len(whole)
    inside = st.integers(0, max(0, len(whole) - 1))
    indices = np.array(data.draw(st.lists(inside, max_size=20 * bool(sizes))), np.int64)
    gathered = units.gather(indices)
    assert gathered.dtype == np.int32
    np.testing.assert_array_equal(gathered, whole[indices])


@pytest.mark.parametrize("index", [-1, 4, 2**40])
def test_an_index_out_of_range_is_an_error(index: int) -> None:
    units = UnitArray([np.ones((4, 3), "<u2")], 3)
    with pytest.raises(IndexError, match=f"unit index {index} in "):
        units.gather(np.array([0, index]))


def test_large_ids_survive() -> None:
    units = UnitArray([np.array([[65_535, 65_534]], "<u2")], 2)
    assert units.gather(np.array([0])).tolist() == [[65_535, 65_534]]


def test_a_prepared_folder_opens_with_its_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    opened = open_units(folder)
    assert len(opened.train) == opened.manifest.dataset_size
    assert opened.tokenizer().sha256 == tokenizer.sha256
    assert "whale" in opened.tokenizer().decode(opened.train.gather(np.arange(20)).reshape(-1))
    opened.verify()


def test_folders_that_are_not_prepared_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no prepared data here .* run dpscale prepare"):
        open_units(tmp_path)
    with pytest.raises(InputError, match="no prepared data here"):
        open_units(tmp_path / "missing")


def test_damage_is_named(folder: Path) -> None:
    shard = folder / "train-00000.npy"
    content = shard.read_bytes()
    shard.write_bytes(content[:-2])
    with pytest.raises(InputError, match=r"train-00000\.npy: expected \d+ bytes, found"):
        open_units(folder)
    shard.write_bytes(b"\x00" * len(content))
    with pytest.raises(InputError, match=r"train-00000\.npy: not a \.npy file"):
        open_units(folder)
    shard.write_bytes(content[:-1] + b"\xff")
    with pytest.raises(InputError, match=r"train-00000\.npy: its hash is not the manifest's"):
        open_units(folder).verify()
    shard.unlink()
    with pytest.raises(InputError, match=r"train-00000\.npy: this shard is missing"):
        open_units(folder)


def test_a_shard_of_another_shape_is_refused(folder: Path) -> None:
    shard = folder / "train-00000.npy"
    units = np.load(shard)
    np.save(shard, units.reshape(-1, 4))
    with pytest.raises(InputError, match=r"expected uint16\[n, 8\], found uint16\["):
        open_units(folder)
    np.save(shard, units.view(np.int16))
    with pytest.raises(InputError, match=r"found int16\["):
        open_units(folder)


def test_a_manifest_that_promises_other_counts_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "dataset_size": fields["dataset_size"] + 1}))
    with pytest.raises(InputError, match=r"promises .* its shards hold"):
        open_units(folder)


def test_another_tokenizer_in_the_folder_is_refused(folder: Path) -> None:
    from dpscale.data.assets import resolve

    (folder / "tokenizer.model").write_bytes(resolve("embedded:moby-2048").read_bytes())
    with pytest.raises(InputError, match="not the tokenizer that made these units"):
        open_units(folder).tokenizer()
