"""Weights as safetensors: what is written, read by their library; and what is refused."""

import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dpscale.errors import InputError
from dpscale.interop import weights_file
from dpscale.interop.tensors import stored_tensors
from dpscale.interop.weights_file import write_weights
from dpscale.interop.weights_reader import read_params
from dpscale.sizes import NAMED_SHAPES


def test_vaultgemma_1b_has_the_reports_parameters() -> None:
    # 992,734,848 with multi-query attention; no lm_head, and no norm after a block.
    tensors = {
        tensor.name: tensor.shape for tensor in stored_tensors(NAMED_SHAPES["vaultgemma-1b"])
    }
    assert sum(int(np.prod(shape)) for shape in tensors.values()) == 992_734_848
    assert tensors["model.layers.25.self_attn.k_proj.weight"] == (256, 1152)
    assert tensors["model.layers.0.mlp.down_proj.weight"] == (1152, 6912)
    assert len(tensors) == 2 + 26 * 9


@pytest.fixture
def params(gemma2, as_imported):
    return as_imported(gemma2).params


@pytest.fixture
def folder(gemma2, params, tmp_path: Path) -> Path:
    """Weights of the Gemma 2 model, in one file."""
    made = tmp_path / "weights"
    made.mkdir()
    write_weights(made, gemma2, params, dtype="float32")
    return made


def test_the_library_reads_what_is_written(gemma2, params, folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(weights_file, "BLOCK_ELEMENTS", 100)  # tensors of several blocks
    write_weights(folder, gemma2, params, dtype="float32")
    stored = load_file(folder / "model.safetensors")
    layer = params["layers"]["attention"]["query"]["kernel"][1]
    np.testing.assert_array_equal(stored["model.layers.1.self_attn.q_proj.weight"], layer.T)
    down = params["layers"]["feed_forward"]["down"]["kernel"][2]
    np.testing.assert_array_equal(stored["model.layers.2.mlp.down_proj.weight"], down.T)
    post_norm = params["layers"]["post_attention_norm"]["scale"][0]
    np.testing.assert_array_equal(
        stored["model.layers.0.post_attention_layernorm.weight"], post_norm
    )
    np.testing.assert_array_equal(stored["model.embed_tokens.weight"], params["embedding"]["table"])
    assert len(stored) == 2 + 3 * 11
    with safe_open(folder / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
    length = int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little")
    assert length % 8 == 0  # so that the tensors are aligned


def test_bfloat16_is_rounded_to_nearest(gemma2, params, tmp_path: Path) -> None:
    num_bytes = write_weights(tmp_path, gemma2, params, dtype="bfloat16")
    assert num_bytes == 2 * sum(leaf.size for leaf in jax.tree.leaves(params))
    read = read_params(tmp_path, gemma2)
    table = params["embedding"]["table"]
    expected = table.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(read["embedding"]["table"], expected)
    assert (expected != table).any()


@pytest.mark.parametrize("shard_bytes", [1, 20_000, 150_000, 10**9])
def test_shards_hold_everything_once_and_come_back(
    gemma2, params, tmp_path: Path, shard_bytes: int
) -> None:
    write_weights(tmp_path, gemma2, params, dtype="float32", shard_bytes=shard_bytes)
    files = sorted(tmp_path.glob("*.safetensors"))
    if shard_bytes == 10**9:
        assert [file.name for file in files] == ["model.safetensors"]
    else:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
        for file in files:
            tensors = load_file(file)
            assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= shard_bytes
            assert {index["weight_map"][name] for name in tensors} == {file.name}
        assert index["metadata"]["total_size"] == 4 * sum(x.size for x in jax.tree.leaves(params))
    jax.tree.map(np.testing.assert_array_equal, read_params(tmp_path, gemma2), params)


def changed(folder: Path, **tensors) -> Path:
    path = folder / "model.safetensors"
    stored = {**load_file(path), **{n.replace("__", "."): t for n, t in tensors.items()}}
    save_file({name: tensor for name, tensor in stored.items() if tensor is not None}, path)
    return folder


NORM = "model__norm__weight"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"lm_head__weight": np.zeros((2, 2), np.float32)}, "lm_head.weight is no tensor"),
        ({NORM: None}, "model.norm.weight is missing"),
        ({NORM: np.zeros(31, np.float32)}, r"expected \[32\] by its config.json, found \[31\]"),
        ({NORM: np.zeros(32, np.int8)}, "expected one of F32, BF16, F16, found I8"),
        ({NORM: np.zeros(32, np.float64)}, "found F64"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(gemma2, folder: Path, tensors, message) -> None:
    with pytest.raises(InputError, match=message):
        read_params(changed(folder, **tensors), gemma2)


@pytest.mark.parametrize("keep", [0, 5, 400, -1])
def test_a_truncated_file_is_refused(gemma2, folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="truncated, or not safetensors") as refusal:
        read_params(folder, gemma2)
    assert "\n" not in str(refusal.value)


def test_a_pickle_is_not_read(gemma2, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InputError, match=r"only pytorch_model.bin, and pickles are never read"):
        read_params(tmp_path, gemma2)
    with pytest.raises(InputError, match="found none"):
        read_params(tmp_path / "nothing", gemma2)


def test_shards_are_looked_for_beside_their_index_only(gemma2, params, tmp_path: Path) -> None:
    write_weights(tmp_path, gemma2, params, dtype="float32", shard_bytes=150_000)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match="this file of weights is missing"):
        read_params(tmp_path, gemma2)
    index = tmp_path / "model.safetensors.index.json"
    for name in ("../other.safetensors", "model.bin"):
        index.write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
        with pytest.raises(InputError, match=r"expected a \.safetensors beside it"):
            read_params(tmp_path, gemma2)


def test_a_tensor_in_two_shards_is_refused(gemma2, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    save_file({"model.norm.weight": np.zeros(32, np.float32)}, folder / "b.safetensors")
    weight_map = {"model.norm.weight": "a.safetensors", "x": "b.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(InputError, match=r"model.norm.weight is also in a.safetensors"):
        read_params(folder, gemma2)
