"""A trained model from its folder, ready for use."""

from dataclasses import dataclass
from pathlib import Path

from dpscale.config import ModelConfig, RunConfig
from dpscale.data.manifest import TOKENIZER_FILE
from dpscale.data.tokenizer import Tokenizer
from dpscale.data.units import open_units
from dpscale.errors import InputError
from dpscale.files import read_json
from dpscale.model.decoder import Params
from dpscale.records import CONFIG_FILE, IMPORTED_FILE
from dpscale.schema import build
from dpscale.training.checkpoint import restore_params


@dataclass(frozen=True)
class TrainedModel:
    """A model, its parameters (float32) and the tokenizer of its text.

    `config` is the run's; None for a model that was imported. `bos_id` is the token that each text
    of an imported model begins with, where it has one; ours have none.
    """

    folder: Path
    model: ModelConfig
    params: Params
    tokenizer: Tokenizer
    config: RunConfig | None
    bos_id: int | None = None

    @property
    def start_id(self) -> int:
        """What a bare text begins with; for ours the end of the document before."""
        return self.tokenizer.eos_id if self.bos_id is None else self.bos_id

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, the model's token for the beginning first if it has one."""
        tokens: list[int] = self.tokenizer.encode(text).tolist()
        return tokens if self.bos_id is None else [self.bos_id, *tokens]

    def prompt(self, text: str) -> list[int]:
        """The tokens that the model is to continue; an empty text begins a new document."""
        return self.encode(text) or [self.start_id]


def open_trained(folder: Path) -> TrainedModel:
    """The newest checkpoint of a run's folder, or the model in an imported one.

    Raises:
      InputError: Neither kind of folder, no checkpoint that can be read, or no tokenizer.
    """
    imported = folder / IMPORTED_FILE
    if imported.exists():
        record = read_json(imported)
        model = build(ModelConfig, record.get("model") or {}, where=f"{imported}: model")
        tokenizer = Tokenizer(folder / TOKENIZER_FILE, where=str(folder))
        bos_id = record.get("bos_id")
        if bos_id == tokenizer.eos_id:
            bos_id = None  # one of ours that was exported: eos begins a bare text only
        params = restore_params(folder, model)
        return TrainedModel(folder, model, params, tokenizer, None, bos_id)
    path = folder / CONFIG_FILE
    if not path.exists():
        raise InputError(str(folder), f"no run here ({CONFIG_FILE} is missing).")
    config = RunConfig.from_dict(read_json(path)["config"], where=str(path))
    tokenizer = open_units(config.data.path).tokenizer()
    params = restore_params(folder, config.model)
    return TrainedModel(folder, config.model, params, tokenizer, config)
