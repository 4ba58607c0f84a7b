"""Where a trained model comes from, as far as it may be told: what a model card is written from.

A private run's losses, counts and metrics are statistics without noise: they stay behind. So do
its keys, which nothing here reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpscale.config import RunConfig
from dpscale.errors import InputError
from dpscale.files import read_json
from dpscale.inference.trained import TrainedModel
from dpscale.records import (
    CHECKPOINTS_DIR,
    CHECKSUMS_FILE,
    CONFIG_FILE,
    IMPORTED_FILE,
    RECEIPT_FILE,
    read_result,
)

RECEIPT_FIELDS = (
    "guarantee",
    "epsilon",
    "delta",
    "is_certified",
    "accountant",
    "privacy_unit",
    "unit_origin",
    "neighboring_relation",
    "dataset_size",
    "iterations",
    "assumptions",
    "not_covered",
    "tuning_not_covered",
)
"""What a model card needs of a receipt."""


@dataclass(frozen=True)
class Origin:
    """What is told of a model's making.

    `config`, `run_id` and `data_hash` are a run's, None for an imported model; `receipt` is a
    private run's (`RECEIPT_FIELDS` of it); `eval_loss` (nats per token) a law-fitting run's where
    it has one; `imported` is what the import wrote down.
    """

    config: RunConfig | None
    run_id: str | None
    data_hash: str | None
    receipt: Mapping[str, Any] | None
    eval_loss: float | None
    imported: Mapping[str, Any] | None


def read_origin(trained: TrainedModel) -> Origin:
    """What the folder of a run or of an imported model says.

    Raises:
      InputError: A private run without a receipt that covers its newest checkpoint.
    """
    folder, config = trained.folder, trained.config
    if config is None:
        imported = read_json(folder / IMPORTED_FILE)
        return Origin(None, None, None, None, None, imported)
    record = read_json(folder / CONFIG_FILE)
    names = str(record.get("run_id")), str(record.get("data_hash"))
    if config.private is not None:
        return Origin(config, *names, _receipt(folder), None, None)
    result = read_result(folder)
    eval_loss = None if result is None else result.eval_loss
    return Origin(config, *names, None, eval_loss, None)


def _receipt(folder: Path) -> dict[str, Any]:
    path = folder / RECEIPT_FILE
    if not path.exists():
        raise InputError(
            str(folder), f"no {RECEIPT_FILE} yet: let the private run end, or interrupt it."
        )
    receipt = read_json(path)
    for name in RECEIPT_FIELDS:
        if name not in receipt:
            raise InputError(str(path), f"{name} is missing; see `dpscale receipt --check`.")
    newest = _newest_step(folder)
    if not isinstance(receipt["iterations"], int) or receipt["iterations"] < newest:
        raise InputError(
            str(path),
            f"covers {receipt['iterations']} iterations, and the newest checkpoint has {newest}; "
            "let the private run end, or interrupt it.",
        )
    return {name: receipt[name] for name in RECEIPT_FIELDS}


def _newest_step(folder: Path) -> int:
    saved = (folder / CHECKPOINTS_DIR).glob(f"*/{CHECKSUMS_FILE}")
    return max((int(path.parent.name) for path in saved if path.parent.name.isdigit()), default=0)
