"""`dpscale generate`: continue prompts with a trained model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dpscale.cli.output import CommonOptions, Output
from dpscale.cli.paths import BucketPath
from dpscale.errors import ExitCode, InputError
from dpscale.files import to_json, write_text_atomically

if TYPE_CHECKING:
    from dpscale.inference.trained import TrainedModel


_DEFAULT_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Continue prompts with the newest checkpoint of a run, or with an imported model.

    A single text is printed as it grows. Text from a private run is as private as its
    parameters: sampling more of it costs no epsilon.
    """

    run: Annotated[BucketPath, tyro.conf.Positional]
    """The folder of a run, or of an imported model."""
    prompt: str | None = None
    """The text to continue; an empty one begins a new document."""
    prompts: Path | None = None
    """A file of them instead: one a line, or .jsonl with the text under "prompt"."""
    out: Path | None = None
    """Write prompts and continuations to this .jsonl file as well."""
    max_tokens: int | None = None
    """How many tokens to add, unless the text ends before; by default 64, or what is left of the
    length that the model was trained at."""
    temperature: float = 0.8
    """0 takes the likeliest token; higher is more varied."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that hold this share of the probability together."""
    seed: int = 0
    """Of the draws."""
    batch_size: int = 16
    """How many prompts of a file are continued at once."""


def run(options: Options, output: Output) -> ExitCode:
    """Generates one continuation for each prompt."""
    from dpscale.runtime import prepare_process

    prepare_process()  # before JAX is imported
    from dpscale.inference.continuations import continuations
    from dpscale.inference.sampling import Sampling
    from dpscale.inference.trained import open_trained

    prompts = _prompts(options)
    sampling = Sampling(temperature=options.temperature, top_p=options.top_p, seed=options.seed)
    trained = open_trained(options.run)
    is_single = len(prompts) == 1
    coming = continuations(
        trained,
        prompts,
        max_new_tokens=_max_new_tokens(trained, prompts, options, output),
        sampling=sampling,
        batch_size=options.batch_size,
        on_text=(lambda _, added: output.write(added)) if is_single else None,
    )
    if is_single:
        output.write(prompts[0])
    texts = []
    for text in coming:
        texts.append(text.to_dict())
        output.say("" if is_single else f"[{len(texts)}] {text.prompt}{text.text}")
    if options.out is not None:
        write_text_atomically(options.out, "".join(to_json(text) + "\n" for text in texts))
    output.result({"seed": options.seed, "texts": texts})
    return ExitCode.OK


def _max_new_tokens(
    trained: "TrainedModel", prompts: list[str], options: Options, output: Output
) -> int:
    """What was asked for, or the default; warns of text beyond the trained length."""
    longest = max(len(trained.prompt(prompt)) for prompt in prompts)
    room = trained.model.seq_len - longest
    if options.max_tokens is None:
        return max(1, min(_DEFAULT_TOKENS, room))
    if options.max_tokens > room:
        output.warn(
            f"prompt and --max-tokens are {longest + options.max_tokens} tokens; the model was "
            f"trained on {trained.model.seq_len}, and beyond them it is on new ground."
        )
    return options.max_tokens


def _prompts(options: Options) -> list[str]:
    if options.prompt is not None and options.prompts is None:
        return [options.prompt]
    if options.prompts is None or options.prompt is not None:
        raise InputError("--prompt", "expected either this or --prompts.")
    path = options.prompts
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("--prompts", f"{path}: {error}.") from None
    if path.suffix == ".jsonl":
        lines = [_prompt(line, where=f"{path}:{place}") for place, line in enumerate(lines, 1)]
    if not lines:
        raise InputError("--prompts", f"{path} holds no prompt.")
    return lines


def _prompt(line: str, *, where: str) -> str:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, KeyError, TypeError):
        prompt = None
    if not isinstance(prompt, str):
        raise InputError(where, 'expected a JSON object with a text under "prompt".')
    return prompt
