"""Exported folders against Transformers itself: logits, greedy text, names, and the way back."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.config import ModelConfig
from dpscale.data.assets import resolve
from dpscale.inference.generation import Generator, generate
from dpscale.inference.sampling import Sampling
from dpscale.inference.trained import TrainedModel, open_trained
from dpscale.interop.exporting import export_model
from dpscale.interop.families import ARCHITECTURES, format_of
from dpscale.interop.importing import import_model
from dpscale.interop.tensors import stored_tensors
from dpscale.model.decoder import logits
from dpscale.sizes import NAMED_SHAPES

pytestmark = pytest.mark.parity

TOLERANCE = 2e-5


def opened(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report  # nothing missing, unexpected or of another shape
    return model.eval()


def their_logits(theirs: Any, tokens: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return theirs(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()


def difference(trained: TrainedModel, theirs: Any) -> float:
    tokens = np.random.default_rng(0).integers(0, 1024, (2, 40)).astype(np.int32)
    ours = np.asarray(logits(trained.model, trained.params, jnp.asarray(tokens)))
    assert np.std(ours) > 0.5  # logits near 0 would agree whatever the layers do
    return float(np.max(np.abs(ours - their_logits(theirs, tokens))))


def test_logits_agree_beyond_the_window(model, as_imported, tmp_path: Path) -> None:
    trained = as_imported(model)
    export_model(trained, tmp_path / "hf", format=format_of(model))
    assert difference(trained, opened(tmp_path / "hf")) <= TOLERANCE


def test_a_wrong_layer_is_seen(gemma2, as_imported, tmp_path: Path) -> None:
    # Keeps the comparison honest: without the windows the logits must differ.
    trained = as_imported(gemma2)
    export_model(trained, tmp_path / "hf", format="gemma2")
    other = dataclasses.replace(trained, model=dataclasses.replace(gemma2, sliding_window=None))
    assert difference(other, opened(tmp_path / "hf")) > 0.01


def test_shards_and_bfloat16_load(gemma2, as_imported, tmp_path: Path) -> None:
    trained = as_imported(gemma2)
    out = tmp_path / "hf"
    export_model(trained, out, format="gemma2", dtype="bfloat16", shard_bytes=40_000)
    assert len(list(out.glob("*.safetensors"))) > 2
    rounded = jax.tree.map(
        lambda leaf: np.asarray(leaf).astype(jnp.bfloat16).astype(np.float32), trained.params
    )
    assert difference(dataclasses.replace(trained, params=rounded), opened(out)) <= TOLERANCE


def test_greedy_text_is_the_same(model, as_imported, tmp_path: Path) -> None:
    import torch

    trained = as_imported(model)
    # A small embedding and sharp attention, so that tokens do not just repeat themselves.
    trained.params["embedding"]["table"] *= 0.05
    for name in ("query", "key"):
        trained.params["layers"]["attention"][name]["kernel"] *= 3
    export_model(trained, tmp_path / "hf", format=format_of(model))
    theirs = opened(tmp_path / "hf")
    generator = np.random.default_rng(5)
    prompts = [generator.integers(4, 1024, length).tolist() for length in (1, 4, 19)]
    ours = generate(
        Generator(model, trained.params), prompts, max_new_tokens=24, sampling=Sampling()
    )
    for prompt, continuation in zip(prompts, ours, strict=True):
        whole = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=None,
        )
        assert whole[0, len(prompt) :].tolist() == continuation
        assert len(set(continuation)) > 6  # a text that repeats itself would show little


@pytest.mark.parametrize("family", ["vaultgemma", "gemma2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_model_that_transformers_made_imports(
    family: str, dtype: str, gemma2: ModelConfig, tmp_path: Path
) -> None:
    import torch
    import transformers

    model = gemma2
    kind = {"vaultgemma": "VaultGemma", "gemma2": "Gemma2"}[family]
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=model.vocab_size,
        hidden_size=model.width,
        intermediate_size=model.feed_forward_width,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        num_key_value_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        max_position_embeddings=64,
        query_pre_attn_scalar=15,
        sliding_window=6,
        final_logit_softcapping=model.final_logit_softcap,
        attn_logit_softcapping=model.attn_logit_softcap,
        initializer_range=0.2,
        attn_implementation="eager",
    )
    torch.manual_seed(1)
    theirs = getattr(transformers, ARCHITECTURES[family])(config).to(getattr(torch, dtype))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "norm" in name:
                parameter.normal_(0, 0.3)
    theirs.save_pretrained(tmp_path / "hf")
    theirs = opened(tmp_path / "hf")  # float32, its buffers too
    tokenizer = resolve("embedded:moby-1024").read_bytes()
    (tmp_path / "hf/tokenizer.model").write_bytes(tokenizer)
    import_model(tmp_path / "hf", tmp_path / "run")
    trained = open_trained(tmp_path / "run")
    assert (trained.model.sliding_window, trained.model.query_pre_attn_scalar) == (6, 15.0)
    assert difference(trained, theirs) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "family"), [("vaultgemma-1b", "VaultGemma"), ("gemma2-2b", "Gemma2")]
)
def test_published_shapes_have_the_tensors_that_transformers_makes(
    name: str, family: str, as_imported, tmp_path: Path
) -> None:
    import torch
    import transformers

    from dpscale.interop.families import to_hf_config

    fields = to_hf_config(NAMED_SHAPES[name], dtype="float32", eos_id=1, bos_id=2, pad_id=0)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields))
    config = getattr(transformers, f"{family}Config").from_pretrained(path)
    with torch.device("meta"):
        theirs = getattr(transformers, f"{family}ForCausalLM")(config)
    stored = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    del stored["lm_head.weight"]  # tied
    assert stored == {tensor.name: tensor.shape for tensor in stored_tensors(NAMED_SHAPES[name])}


def test_the_auto_tokenizer_gives_our_ids(gemma2, as_imported, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for model in (gemma2, dataclasses.replace(gemma2, post_norms=False)):
        trained = as_imported(model)
        out = tmp_path / format_of(model)
        export_model(trained, out, format=format_of(model))
        theirs = AutoTokenizer.from_pretrained(out)
        for text in ("", " a  b\n\n", "Call me Ishmael.", "</s> é🐳日 <s><pad>", "\u2581x 1234"):
            ids = trained.tokenizer.encode(text).tolist()
            assert theirs(text).input_ids == ids
            assert theirs.decode(ids, skip_special_tokens=True) == text.replace("\u2581", " ")
        assert (theirs.eos_token_id, theirs.bos_token_id, theirs.pad_token_id) == (1, 1, 0)
        assert theirs.decode([*ids, 1], skip_special_tokens=True) == " x 1234"
