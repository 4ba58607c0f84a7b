"""The model card (`README.md`) of an exported model: what it is, and what its privacy is worth."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from dpscale.config import ModelConfig, RunConfig
from dpscale.interop.families import Format, StoredDtype
from dpscale.interop.origin import Origin
from dpscale.privacy.receipt import GUARANTEE

NO_CLAIM = "**This model makes no privacy claim.**"

LOADING = """\
## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(FOLDER, attn_implementation="eager")
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
```

FOLDER is the folder of this file. `eager` attention applies the cap on attention scores."""


def model_card(
    model: ModelConfig,
    origin: Origin,
    *,
    format: Format,
    dtype: StoredDtype,
    num_params: int,
    tokenizer_note: str | None,
) -> str:
    """Markdown with Hugging Face's front matter.

    It repeats a private run's receipt, and nothing of such a run that is not private.

    Args:
      tokenizer_note: Why there is no `tokenizer.json`; None where there is one.
    """
    tags = ["differential-privacy"] if _has_guarantee(origin) else []
    front = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    front += ["tags:", *(f"- {tag}" for tag in [format, *tags]), "---"]
    shape = {
        "parameters": f"{num_params:,}, stored as {dtype}",
        "vocabulary": f"{model.vocab_size:,}",
        "sequence length": f"{model.seq_len:,}",
        "layers": f"{model.num_layers}",
        "width": f"{model.width}, feed-forward {model.feed_forward_width}",
        "heads": f"{model.num_heads} of {model.head_dim}, key-value heads {model.num_kv_heads}",
        "sliding window": f"{model.sliding_window or 'none'}",
        **({"tokenizer.json": f"none: {tokenizer_note}"} if tokenizer_note else {}),
    }
    sections = [
        "\n".join(front),
        f"# A {format} decoder, exported by dpscale",
        "## Privacy\n\n" + _privacy(origin),
        "## Model\n\n" + _rows(shape),
        "## Training\n\n" + _training(origin),
        LOADING,
    ]
    return "\n\n".join(sections) + "\n"


def _has_guarantee(origin: Origin) -> bool:
    return origin.receipt is not None and origin.receipt["guarantee"] == GUARANTEE


def _privacy(origin: Origin) -> str:
    if origin.receipt is None:
        why = (
            "It was imported, and a guarantee that its makers give is theirs to state."
            if origin.config is None
            else "It comes from a law-fitting run, whose noise was not calibrated to a guarantee."
        )
        return f"{NO_CLAIM} {why}"
    receipt = origin.receipt
    if not _has_guarantee(origin):
        return f"{NO_CLAIM} Its run's receipt says: {receipt['guarantee']}."
    certainty = "certified" if receipt["is_certified"] else "not certified"
    # Rounded up, so that the card never promises more than the receipt.
    epsilon = f"{math.ceil(receipt['epsilon'] * 1e4) / 1e4:.4f}"
    claim = {
        "guarantee": receipt["guarantee"],
        "epsilon": f"at most {epsilon} ({certainty}, by {receipt['accountant']})",
        "delta": f"{receipt['delta']:g}",
        "privacy unit": f"{receipt['privacy_unit']}. {receipt['unit_origin']}",
        "neighbouring relation": receipt["neighboring_relation"],
        "units": f"{receipt['dataset_size']:,}",
    }
    tuning = f"Tuning before the run: {receipt['tuning_not_covered']}"
    return "\n\n".join(
        [
            _rows(claim),
            "Assumed:\n\n" + _listed(receipt["assumptions"]),
            "Not covered:\n\n" + _listed([*receipt["not_covered"], tuning]),
        ]
    )


def _training(origin: Origin) -> str:
    if origin.config is None:
        return _rows(_imported(origin.imported or {}))
    loss = origin.eval_loss
    rows = {
        "run": origin.run_id,
        "data hash": origin.data_hash,
        **_settings(origin.config),
        **({} if loss is None else {"held-out loss": f"{loss:.4f} nats per token"}),
    }
    if origin.receipt is not None:
        rows["iterations"] = (
            f"{origin.receipt['iterations']:,} accounted for, of {rows['iterations']}"
        )
    return _rows(rows)


def _settings(config: RunConfig) -> dict[str, str]:
    settings = {
        "purpose": config.purpose,
        "iterations": f"{config.training.iterations:,}",
        "learning rate": f"{config.optimizer.learning_rate:g}",
        "clip norm": f"{config.clipping.l2_clip_norm:g}",
    }
    if config.private is not None:
        settings["expected batch size"] = f"{config.private.expected_batch_size:,}"
        settings["noise multiplier"] = f"{config.private.noise_multiplier}"
    if config.law_fitting is not None:
        settings["physical batch size"] = f"{config.law_fitting.physical_batch_size:,}"
        settings["noise-batch ratio"] = f"{config.law_fitting.noise_batch_ratio:g}"
    return settings


def _imported(imported: Mapping[str, Any]) -> dict[str, Any]:
    source = imported.get("source")
    told = source if isinstance(source, Mapping) else {}
    return {
        "imported from": f"a {told.get('format', 'Hugging Face')} folder",
        "SHA-256 of its config.json": told.get("config_sha256", "not known"),
    }


def _rows(values: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in values.items())])


def _listed(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)
