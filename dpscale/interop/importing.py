"""A folder of Gemma 2 or VaultGemma weights as a checkpoint of ours."""

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpscale.config import ModelConfig
from dpscale.data.manifest import TOKENIZER_FILE, file_hash
from dpscale.data.tokenizer import Tokenizer
from dpscale.errors import InputError
from dpscale.files import read_json, write_bytes_atomically, write_json_atomically
from dpscale.interop.exporting import CONFIG
from dpscale.interop.families import format_of, from_hf_config
from dpscale.interop.new_folder import check_is_new, new_folder
from dpscale.interop.weights_reader import read_params
from dpscale.records import IMPORTED_FILE
from dpscale.training.checkpoint import Checkpoints

PACKAGES = ("dpscale", "jax", "orbax-checkpoint", "safetensors")
"""Whose versions an import writes down."""


def import_model(folder: Path, out: Path) -> ModelConfig:
    """Reads a folder in the format of Transformers into the new folder `out`.

    `out` then holds `imported.json`, `checkpoints/` with float32 parameters and
    `tokenizer.model`, and is there whole or not at all. Only JSON, safetensors and the
    sentencepiece model are read.

    Returns:
      The model, which computes in float32.

    Raises:
      InputError: A setting that our decoder does not have, weights that do not fit it or are
        damaged, no sentencepiece model, or `out` holds something.
    """
    check_is_new(out)
    if not folder.is_dir():
        raise InputError(str(folder), "no such folder.")
    where = str(folder / CONFIG)
    fields = read_json(folder / CONFIG)
    model = from_hf_config(fields, where=where)
    tokenizer = _tokenizer(folder, model, fields)
    params = read_params(folder, model)
    bos_id = fields.get("bos_token_id")
    record = {
        "model": dataclasses.asdict(model),
        "source": {
            "format": format_of(model),
            "config_sha256": file_hash(folder / CONFIG).sha256,
            "tokenizer_sha256": tokenizer.sha256,
        },
        "bos_id": bos_id if isinstance(bos_id, int) else None,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    with new_folder(out) as beside:
        write_bytes_atomically(beside / TOKENIZER_FILE, tokenizer.model)
        write_json_atomically(beside / IMPORTED_FILE, record)
        checkpoints = Checkpoints(beside, keep=2)
        try:
            checkpoints.save_params(params)
        finally:
            checkpoints.close()
    return model


def _tokenizer(folder: Path, model: ModelConfig, fields: Mapping[str, Any]) -> Tokenizer:
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise InputError(str(folder), f"no {TOKENIZER_FILE}; put its sentencepiece model there.")
    tokenizer = Tokenizer(path, where=str(folder))
    if tokenizer.vocab_size > model.vocab_size:
        raise InputError(
            str(path),
            f"its {tokenizer.vocab_size} tokens do not fit the model's {model.vocab_size}.",
        )
    eos = fields.get("eos_token_id")
    if eos is not None and tokenizer.eos_id not in (eos if isinstance(eos, list) else [eos]):
        raise InputError(
            str(folder / CONFIG),
            f"eos_token_id={eos} is not {TOKENIZER_FILE}'s {tokenizer.eos_id}; expected the "
            "model's own tokenizer.",
        )
    return tokenizer
