"""The prepared data that a model is evaluated on."""

from pathlib import Path

from dpscale.data.units import PreparedUnits, open_units
from dpscale.errors import InputError
from dpscale.inference.trained import TrainedModel
from dpscale.paths import as_path


def units_for(trained: TrainedModel, data: Path | None) -> PreparedUnits:
    """The units in `data`; absent: those of the model's run.

    Raises:
      InputError: Not a prepared folder, one of another tokenizer, or none for an imported model.
    """
    if data is None:
        if trained.config is None:
            raise InputError("--data", "an imported model has no data of its own; name a folder.")
        data = as_path(trained.config.data.path)
    units = open_units(data)
    if units.manifest.tokenizer_sha256 != trained.tokenizer.sha256:
        raise InputError("--data", f"{data} was prepared with another tokenizer than the model's.")
    return units
