"""`config.json` of Transformers to our shapes and back, and what is refused."""

import dataclasses
from typing import Any

import pytest

from dpscale.config import ModelConfig
from dpscale.errors import InputError
from dpscale.interop.families import check_format, from_hf_config, to_hf_config
from dpscale.sizes import NAMED_SHAPES

IDS = {"eos_id": 1, "bos_id": 1, "pad_id": 0}


def exported(model: ModelConfig) -> dict[str, Any]:
    return to_hf_config(model, dtype="float32", **IDS)


def test_a_shape_survives_the_way_out_and_back(model: ModelConfig) -> None:
    assert from_hf_config(exported(model), where="config.json") == model


@pytest.mark.parametrize("name", NAMED_SHAPES)
def test_published_shapes_survive(name: str) -> None:
    assert from_hf_config(exported(NAMED_SHAPES[name]), where="config.json") == NAMED_SHAPES[name]


def test_a_config_from_before_layer_types_slides_on_even_layers(gemma2: ModelConfig) -> None:
    # As the first Gemma 2 folders were published: neither layer_types nor rope_parameters.
    fields = exported(gemma2)
    for key in ("layer_types", "rope_parameters", "tie_word_embeddings", "dtype"):
        del fields[key]
    fields |= {
        "rope_theta": 10_000.0,
        "cache_implementation": "hybrid",
        "transformers_version": "4",
    }
    assert from_hf_config(fields, where="config.json") == gemma2


def test_full_attention_says_so_and_slides_nowhere_below_seq_len(vaultgemma: ModelConfig) -> None:
    fields = exported(vaultgemma)
    assert set(fields["layer_types"]) == {"full_attention"}
    assert fields["sliding_window"] == vaultgemma.seq_len


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"model_type": "llama"}, "model_type"),
        ({"hidden_activation": "silu"}, "hidden_activation"),
        ({"attention_bias": True}, "attention_bias"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_parameters"),
        ({"rope_parameters": {"rope_theta": 1e4, "factor": 2.0}}, "rope_parameters"),
        ({"rope_parameters": {"full_attention": {}}}, "rope_parameters"),
        ({"layer_types": ["full_attention", "sliding_attention"] * 2}, "layer_types"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types"),
        ({"sliding_window": None}, "sliding_window"),
        ({"hidden_size": 32.5}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"num_hidden_layers": 0, "layer_types": []}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"final_logit_softcapping": "30"}, "final_logit_softcapping"),
    ],
)
def test_what_the_decoder_does_not_do_is_refused(
    gemma2: ModelConfig, change: dict[str, Any], place: str
) -> None:
    with pytest.raises(InputError, match=f"config.json: {place}"):
        from_hf_config({**exported(gemma2), **change}, where="config.json")


@pytest.mark.parametrize(
    "key", ["head_dim", "final_logit_softcapping", "query_pre_attn_scalar", "rms_norm_eps"]
)
def test_a_missing_key_is_never_guessed(gemma2: ModelConfig, key: str) -> None:
    fields = exported(gemma2)
    del fields[key]
    with pytest.raises(InputError, match=key):
        from_hf_config(fields, where="config.json")


def test_the_other_familys_format_is_refused_with_the_fitting_one(gemma2, vaultgemma) -> None:
    check_format(gemma2, "gemma2")
    with pytest.raises(InputError, match="expected gemma2, found vaultgemma"):
        check_format(gemma2, "vaultgemma")
    with pytest.raises(InputError, match="expected vaultgemma, found gemma2"):
        check_format(vaultgemma, "gemma2")


def test_shapes_that_transformers_refuses_are_refused_before(gemma2) -> None:
    with pytest.raises(InputError, match="width=30"):
        check_format(dataclasses.replace(gemma2, width=30), "gemma2")
    with pytest.raises(InputError, match=r"query_pre_attn_scalar, found 2\.5"):
        check_format(dataclasses.replace(gemma2, query_pre_attn_scalar=2.5), "gemma2")
