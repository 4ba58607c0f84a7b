"""`dpscale import`: read a folder for Hugging Face Transformers into a checkpoint of ours."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dpscale.cli.output import CommonOptions, Output
from dpscale.errors import ExitCode


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Read Gemma 2 or VaultGemma weights into a folder that generate, eval and export take.

    The folder needs config.json, safetensors (one file or shards) and tokenizer.model; pickles
    are never read. What our decoder does not compute exactly is refused.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """A folder that `dpscale export` or Transformers wrote."""
    out: Path
    """The folder to make."""


def run(options: Options, output: Output) -> ExitCode:
    """Imports a model."""
    from dpscale.runtime import prepare_process

    prepare_process()  # before JAX is imported
    from dpscale.interop.importing import import_model

    model = import_model(options.folder, options.out)
    output.say(
        f"{options.out}: {model.num_layers} layers of width {model.width}, "
        f"{model.vocab_size:,} tokens"
    )
    output.result({"folder": str(options.out), "model": dataclasses.asdict(model)})
    return ExitCode.OK
