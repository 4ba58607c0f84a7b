"""A trained model as a folder that Hugging Face Transformers loads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpscale.config import ModelConfig
from dpscale.errors import InputError
from dpscale.files import write_json_atomically
from dpscale.inference.trained import TrainedModel
from dpscale.interop.families import Format, StoredDtype, check_format, to_hf_config
from dpscale.interop.model_card import model_card
from dpscale.interop.new_folder import check_is_new, new_folder
from dpscale.interop.origin import read_origin
from dpscale.interop.tensors import stored_tensors
from dpscale.interop.tokenizer_files import pad_id, write_tokenizer_files
from dpscale.interop.weights_file import SHARD_BYTES, write_weights

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
MODEL_CARD = "README.md"


@dataclass(frozen=True)
class Exported:
    """A folder that was written.

    `weight_bytes` counts the tensors; `tokenizer_note` says why there is no `tokenizer.json`,
    None where there is one.
    """

    folder: Path
    num_params: int
    weight_bytes: int
    tokenizer_note: str | None


def export_model(
    trained: TrainedModel,
    out: Path,
    *,
    format: Format,
    dtype: StoredDtype = "float32",
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Writes weights, configs, tokenizer and model card into the new folder `out`.

    The folder is there whole or not at all. Beside the parameters, memory holds a block of one
    tensor.

    Args:
      format: Must be the model's family: `gemma2` where norms follow its blocks.
      shard_bytes: A file of weights holds at most this many bytes of tensors, or one tensor.

    Raises:
      InputError: The format does not fit the model, `out` holds something, the tokenizer has
        more tokens than the model, or a private run has no receipt for its newest checkpoint.
    """
    model, tokenizer = trained.model, trained.tokenizer
    check_format(model, format)
    check_is_new(out)
    if tokenizer.vocab_size > model.vocab_size:
        raise InputError(
            str(trained.folder),
            f"the tokenizer's {tokenizer.vocab_size} tokens do not fit the model's "
            f"{model.vocab_size}.",
        )
    origin = read_origin(trained)
    num_params = sum(tensor.num_elements for tensor in stored_tensors(model))
    with new_folder(out) as folder:
        weight_bytes = write_weights(
            folder, model, trained.params, dtype=dtype, shard_bytes=shard_bytes
        )
        note = write_tokenizer_files(
            folder, tokenizer, bos_id=trained.start_id, max_length=model.seq_len
        )
        _write_configs(folder, trained, dtype)
        card = model_card(
            model,
            origin,
            format=format,
            dtype=dtype,
            num_params=num_params,
            tokenizer_note=note,
        )
        (folder / MODEL_CARD).write_text(card, encoding="utf-8")
    return Exported(out, num_params, weight_bytes, note)


def _write_configs(folder: Path, trained: TrainedModel, dtype: StoredDtype) -> None:
    tokens: dict[str, Any] = {
        "eos_id": trained.tokenizer.eos_id,
        "bos_id": trained.start_id,
        "pad_id": pad_id(trained.tokenizer),
    }
    model: ModelConfig = trained.model
    config = to_hf_config(model, dtype=dtype, **tokens)
    write_json_atomically(folder / CONFIG, config)
    generation = {key.replace("_id", "_token_id"): token for key, token in tokens.items()}
    write_json_atomically(folder / GENERATION_CONFIG, generation)
