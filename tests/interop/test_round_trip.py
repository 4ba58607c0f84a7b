"""Export and import together: nothing is lost, nothing half-written, nothing private told."""

import dataclasses
import filecmp
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from dpscale.data.assets import resolve
from dpscale.errors import InputError
from dpscale.inference.trained import open_trained
from dpscale.interop import exporting
from dpscale.interop.exporting import export_model
from dpscale.interop.families import format_of
from dpscale.interop.importing import import_model

FILES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
}


def test_import_of_an_export_is_the_same_model_bit_for_bit(model, as_imported, tmp_path) -> None:
    before = as_imported(model)
    export_model(before, tmp_path / "hf", format=format_of(model))
    imported = import_model(tmp_path / "hf", tmp_path / "run")
    after = open_trained(tmp_path / "run")
    assert imported == after.model == model
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    assert after.tokenizer.sha256 == before.tokenizer.sha256
    export_model(after, tmp_path / "again", format=format_of(model))
    for name in FILES - {"README.md"}:
        assert filecmp.cmp(tmp_path / "again" / name, tmp_path / "hf" / name, shallow=False)


def test_the_folder_holds_these_files_and_no_more(gemma2, as_imported, tmp_path: Path) -> None:
    exported = export_model(as_imported(gemma2), tmp_path / "hf", format="gemma2")
    assert {path.name for path in (tmp_path / "hf").iterdir()} == FILES
    assert exported.weight_bytes == 4 * exported.num_params
    generation = json.loads((tmp_path / "hf/generation_config.json").read_text())
    assert generation == {"eos_token_id": 1, "bos_token_id": 1, "pad_token_id": 0}


def test_the_first_token_of_an_imported_model_is_kept(gemma2, as_imported, tmp_path) -> None:
    export_model(as_imported(gemma2), tmp_path / "hf", format="gemma2")
    path = tmp_path / "hf/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token_id": 2}))
    import_model(tmp_path / "hf", tmp_path / "run")
    assert json.loads((tmp_path / "run/imported.json").read_text())["bos_id"] == 2
    export_model(open_trained(tmp_path / "run"), tmp_path / "again", format="gemma2")
    assert json.loads((tmp_path / "again/config.json").read_text())["bos_token_id"] == 2
    config = json.loads((tmp_path / "again/tokenizer_config.json").read_text())
    assert config["bos_token"] == "<s>"


def test_nothing_is_left_of_an_export_that_fails(
    gemma2, as_imported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = as_imported(gemma2)

    def fail(*arguments: object, **named: object) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(exporting, "model_card", fail)
    there = set(tmp_path.iterdir())
    with pytest.raises(OSError, match="no space left"):
        export_model(trained, tmp_path / "hf", format="gemma2")
    assert set(tmp_path.iterdir()) == there


def test_a_folder_that_holds_something_is_left_alone(gemma2, as_imported, tmp_path: Path) -> None:
    out = tmp_path / "hf"
    out.mkdir()
    export_model(as_imported(gemma2), out, format="gemma2")  # an empty one is fine
    before = (out / "model.safetensors").stat()
    with pytest.raises(InputError, match="expected a new or an empty folder"):
        export_model(as_imported(gemma2), out, format="gemma2")
    with pytest.raises(InputError, match="expected a new or an empty folder"):
        import_model(out, out)
    assert (out / "model.safetensors").stat() == before


@pytest.mark.parametrize("damage", ["weights", "config", "tokenizer", "eos", "folder"])
def test_nothing_is_left_of_an_import_that_is_refused(
    gemma2, as_imported, tmp_path: Path, damage: str
) -> None:
    source = tmp_path / "hf"
    export_model(as_imported(gemma2), source, format="gemma2")
    path = source / "config.json"
    fields = json.loads(path.read_text())
    message = {
        "weights": "truncated",
        "config": "cannot be read as JSON",
        "tokenizer": "no tokenizer.model",
        "eos": "eos_token_id=107 is not",
        "folder": "no such folder",
    }[damage]
    if damage == "weights":
        weights = source / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "config":
        path.write_text(path.read_text()[:-20])
    elif damage == "tokenizer":
        (source / "tokenizer.model").unlink()
    elif damage == "eos":
        path.write_text(json.dumps(fields | {"eos_token_id": 107}))
    else:
        source = tmp_path / "nowhere"
    there = set(tmp_path.iterdir())
    with pytest.raises(InputError, match=message):
        import_model(source, tmp_path / "run")
    assert set(tmp_path.iterdir()) == there


def test_a_tokenizer_of_more_tokens_than_the_model_is_refused(
    gemma2, as_imported, tmp_path: Path
) -> None:
    export_model(as_imported(gemma2), tmp_path / "hf", format="gemma2")
    larger = resolve("embedded:moby-2048").read_bytes()
    (tmp_path / "hf/tokenizer.model").write_bytes(larger)
    with pytest.raises(InputError, match="2048 tokens do not fit the model's 1024"):
        import_model(tmp_path / "hf", tmp_path / "run")
    small = as_imported(dataclasses.replace(gemma2, vocab_size=1000))
    with pytest.raises(InputError, match="1024 tokens do not fit the model's 1000"):
        export_model(small, tmp_path / "small", format="gemma2")


def test_an_imported_model_makes_no_claim(gemma2, as_imported, tmp_path: Path) -> None:
    export_model(as_imported(gemma2), tmp_path / "hf", format="gemma2")
    card = (tmp_path / "hf/README.md").read_text()
    assert "**This model makes no privacy claim.** It was imported" in card
    assert "differential-privacy" not in card
    assert "epsilon" not in card
