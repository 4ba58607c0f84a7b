"""Holds an exported folder to the model it came from, with Transformers."""

import dataclasses
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from dpscale.data.units import open_units
from dpscale.errors import InputError
from dpscale.inference.trained import TrainedModel
from dpscale.model.decoder import logits

NUM_TOKENS = 512
"""Length of the text that is compared, at most."""

LOGIT_TOLERANCE = 1e-3
"""What float32 round-off stays below in any model we have seen; a real mistake exceeds 0.1."""


@dataclass(frozen=True)
class Comparison:
    """Largest difference of a logit, over `num_tokens` positions and the vocabulary.

    `has_same_ids` says whether Transformers' tokenizer gives our ids for the text; None where
    there is no `tokenizer.json`.
    """

    num_tokens: int
    max_logit_difference: float
    has_same_ids: bool | None


def require_transformers() -> None:
    """Raises an `InputError` that says what to install where Transformers or torch is missing."""
    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            raise InputError("check", f"needs {name}: pip install 'dpscale[hf]'.")


def compare(trained: TrainedModel, folder: Path, *, has_tokenizer: bool) -> Comparison:
    """Loads an exported folder with Transformers, in float32, and compares logits and token ids.

    The text is a held-out unit where the run's data is there, else random tokens. Ours is
    computed in float32 too; parameters stored as bfloat16 make the difference larger.
    """
    require_transformers()
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    tokens_1xS = _tokens(trained)[None]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        theirs_SxV = theirs(torch.from_numpy(tokens_1xS.astype(np.int64))).logits[0].numpy()
    model = dataclasses.replace(trained.model, compute_dtype="float32")
    ours_SxV = np.asarray(logits(model, trained.params, jnp.asarray(tokens_1xS)))[0]
    difference = float(np.max(np.abs(ours_SxV - theirs_SxV)))
    same_ids = None
    if has_tokenizer:
        text = trained.tokenizer.decode(tokens_1xS[0])
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        ours = trained.tokenizer.encode(text).tolist()
        same_ids = tokenizer.encode(text, add_special_tokens=False) == ours
    return Comparison(tokens_1xS.shape[1], difference, same_ids)


def _tokens(trained: TrainedModel) -> npt.NDArray[np.int32]:
    """int32[S] of a held-out unit, or random."""
    num_tokens = min(trained.model.seq_len, NUM_TOKENS)
    if trained.config is not None:
        held_out = open_units(trained.config.data.path).eval
        if len(held_out):
            return held_out.gather(np.zeros(1, np.int64))[0, :num_tokens]
    generator = np.random.default_rng(0)
    return generator.integers(trained.tokenizer.vocab_size, size=num_tokens, dtype=np.int32)
