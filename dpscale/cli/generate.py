"""`dpscale generate`: continue a prompt with a trained model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dpscale.cli.output import CommonOptions, Output
from dpscale.errors import ExitCode, InputError


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Continue a prompt with the newest checkpoint of a run.

    Text from a private run is as private as its parameters: sampling more of it costs no
    epsilon. Every token is computed from the full prefix; there is no cache yet.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    prompt: str
    """The text to continue."""
    max_tokens: int = 64
    """How many tokens to add, unless the text ends before."""
    temperature: float = 0.8
    """0 takes the likeliest token; higher is more varied."""
    seed: int = 0
    """Of the draws."""


def run(options: Options, output: Output) -> ExitCode:
    """Generates one continuation."""
    from dpscale.runtime import prepare_process

    prepare_process()  # before JAX is imported
    from dpscale.config import RunConfig
    from dpscale.data.units import open_units
    from dpscale.files import read_json
    from dpscale.inference.generation import generate
    from dpscale.records import CONFIG_FILE
    from dpscale.training.checkpoint import restore_params

    path = options.run / CONFIG_FILE
    if not path.exists():
        raise InputError(str(options.run), f"no run here ({CONFIG_FILE} is missing).")
    config = RunConfig.from_dict(read_json(path)["config"], where=str(path))
    tokenizer = open_units(config.data.path).tokenizer()
    tokens = [int(token) for token in tokenizer.encode(options.prompt)]
    if not tokens:
        raise InputError("--prompt", "expected some text, found none.")
    params = restore_params(options.run, config)
    added = generate(
        config.model,
        params,
        tokens,
        max_new_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
        stop_token=tokenizer.eos_id,
    )
    text = tokenizer.decode([*tokens, *added])
    output.say(text)
    output.result({"text": text, "prompt": options.prompt, "tokens": added, "seed": options.seed})
    return ExitCode.OK
