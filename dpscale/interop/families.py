"""A model's shape as the `config.json` of Transformers says it, and back.

Two families are spoken: `gemma2` (norms also after each block) and `vaultgemma` (without).
Reading refuses what our decoder does not compute; keys that change nothing it computes
(dropout, initial ranges, versions, ...) are not looked at. Names and defaults are those of
Transformers' `Gemma2Config` and `VaultGemmaConfig`, 5.23.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from dpscale.config import ModelConfig
from dpscale.errors import InputError

Format = Literal["vaultgemma", "gemma2"]
StoredDtype = Literal["float32", "bfloat16"]

ARCHITECTURES = {"vaultgemma": "VaultGemmaForCausalLM", "gemma2": "Gemma2ForCausalLM"}

SIZES = {
    "vocab_size": "vocab_size",
    "seq_len": "max_position_embeddings",
    "num_layers": "num_hidden_layers",
    "width": "hidden_size",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "feed_forward_width": "intermediate_size",
}
"""Whole numbers: our name and theirs."""

ACTIVATION = "gelu_pytorch_tanh"
SLIDING, FULL = "sliding_attention", "full_attention"

FIXED = {
    "hidden_activation": ACTIVATION,
    "attention_bias": False,
    "tie_word_embeddings": True,
    "use_bidirectional_attention": None,
    "rope_scaling": None,
    "quantization_config": None,
}
"""What our decoder cannot do otherwise: the only value that is read, also where none is given."""


def format_of(model: ModelConfig) -> Format:
    """The family that a model belongs to."""
    return "gemma2" if model.post_norms else "vaultgemma"


def check_format(model: ModelConfig, asked: Format) -> None:
    """Refuses a format that cannot express the model.

    Raises:
      InputError: The other family's, or a shape that Transformers does not take.
    """
    fitting = format_of(model)
    if asked != fitting:
        norms = "norms" if model.post_norms else "no norms"
        raise InputError(
            "format", f"the model has {norms} after its blocks: expected {fitting}, found {asked}."
        )
    if model.width % model.num_heads:
        raise InputError(
            "format",
            f"{asked} needs a width that num_heads divides, found width={model.width}, "
            f"num_heads={model.num_heads}.",
        )
    if _query_scalar(model) % 1:
        raise InputError(
            "format",
            f"{asked} needs a whole query_pre_attn_scalar, found {model.query_pre_attn_scalar}.",
        )


def to_hf_config(
    model: ModelConfig, *, dtype: StoredDtype, eos_id: int, bos_id: int, pad_id: int | None
) -> dict[str, Any]:
    """The content of `config.json`.

    A model without sliding layers says so in `layer_types`. Its `sliding_window` is the
    sequence length: Transformers wants a number, and versions that know no `layer_types` then
    compute the same up to that length.
    """
    family = format_of(model)
    return {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        **{theirs: getattr(model, ours) for ours, theirs in SIZES.items()},
        "hidden_activation": ACTIVATION,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": model.attn_logit_softcap,
        "final_logit_softcapping": model.final_logit_softcap,
        "query_pre_attn_scalar": int(_query_scalar(model)),
        "rms_norm_eps": model.norm_eps,
        "rope_parameters": {"rope_theta": model.rope_theta, "rope_type": "default"},
        "rope_theta": model.rope_theta,  # read before Transformers 5
        "sliding_window": model.sliding_window or model.seq_len,
        "layer_types": _layer_types(model.num_layers, slides=model.sliding_window is not None),
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "use_cache": True,
        "eos_token_id": eos_id,
        "bos_token_id": bos_id,
        "pad_token_id": pad_id,
        "dtype": dtype,
        "torch_dtype": dtype,  # read before Transformers 5
    }


def from_hf_config(fields: Mapping[str, Any], *, where: str) -> ModelConfig:
    """The model that a `config.json` describes, computing in float32.

    Raises:
      InputError: A key is missing or of the wrong type, or says what our decoder does not
        do; `where` (the file) heads the message.
    """
    family = fields.get("model_type")
    if family not in get_args(Format):
        raise InputError(
            f"{where}: model_type",
            f"expected one of {', '.join(get_args(Format))}, found {family!r}.",
        )
    for key, only in FIXED.items():
        found = fields.get(key, only)
        if (found or None) != (only or None):
            raise InputError(f"{where}: {key}", f"only {only!r} is supported, found {found!r}.")
    sizes: dict[str, Any] = {
        ours: _whole_number(fields, theirs, where=where) for ours, theirs in SIZES.items()
    }
    scalar = _number(fields, "query_pre_attn_scalar", where=where)
    try:
        return ModelConfig(
            **sizes,
            sliding_window=_sliding_window(fields, sizes["num_layers"], where=where),
            attn_logit_softcap=_softcap(fields, "attn_logit_softcapping", where=where),
            final_logit_softcap=_softcap(fields, "final_logit_softcapping", where=where),
            post_norms=family == "gemma2",
            rope_theta=_rope_theta(fields, where=where),
            norm_eps=_number(fields, "rms_norm_eps", where=where),
            query_pre_attn_scalar=None if scalar == sizes["head_dim"] else scalar,
        )
    except InputError as error:
        if error.where.startswith(where):
            raise
        raise InputError(f"{where}: {SIZES.get(error.where, error.where)}", error.message) from None


def _query_scalar(model: ModelConfig) -> float:
    return model.query_pre_attn_scalar or model.head_dim


def _layer_types(num_layers: int, *, slides: bool) -> list[str]:
    return [SLIDING if slides and layer % 2 == 0 else FULL for layer in range(num_layers)]


def _sliding_window(fields: Mapping[str, Any], num_layers: int, *, where: str) -> int | None:
    sliding = _layer_types(num_layers, slides=True)
    types = fields.get("layer_types")
    if types == _layer_types(num_layers, slides=False):
        return None
    if types is not None and types != sliding:
        raise InputError(
            f"{where}: layer_types",
            f"only all {FULL}, or {SLIDING} and {FULL} in turn, are supported, found {types!r}.",
        )
    return _whole_number(fields, "sliding_window", where=where)


def _softcap(fields: Mapping[str, Any], key: str, *, where: str) -> float | None:
    if key in fields and fields[key] is None:
        return None
    return _number(fields, key, where=where)


def _rope_theta(fields: Mapping[str, Any], *, where: str) -> float:
    rope = fields.get("rope_parameters")
    if rope is None:
        return _number(fields, "rope_theta", where=where)
    place = f"{where}: rope_parameters"
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise InputError(place, f"only rope_type 'default' is supported, found {rope!r}.")
    unknown = sorted(rope.keys() - {"rope_theta", "rope_type"})
    if unknown:
        raise InputError(place, f"{unknown[0]} is not supported.")
    return _number(rope, "rope_theta", where=place)


def _whole_number(fields: Mapping[str, Any], key: str, *, where: str) -> int:
    found = fields.get(key)
    if not isinstance(found, int) or isinstance(found, bool):
        raise InputError(f"{where}: {key}", f"expected a whole number, found {found!r}.")
    return found


def _number(fields: Mapping[str, Any], key: str, *, where: str) -> float:
    found = fields.get(key)
    if not isinstance(found, int | float) or isinstance(found, bool):
        raise InputError(f"{where}: {key}", f"expected a number, found {found!r}.")
    return float(found)
