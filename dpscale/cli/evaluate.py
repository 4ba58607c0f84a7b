"""`dpscale eval`: how good a model is, and what it remembers."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from dpscale.cli.memorization_text import run_memorization
from dpscale.cli.output import CommonOptions, Output
from dpscale.cli.paths import BucketPath
from dpscale.errors import ExitCode, InputError
from dpscale.files import read_json, write_json_atomically

if TYPE_CHECKING:
    from dpscale.evaluation.harness import TaskRequest, TaskScores
    from dpscale.inference.trained import TrainedModel

_HELD_OUT_UNITS = 512
"""Held-out units of a model whose config does not say how many."""


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Score a model: its loss, and bits per byte, on held-out units; or what is asked for below.

    Tasks are those that VaultGemma reports, through lm-evaluation-harness. A folder that holds a
    Hugging Face model (`dpscale export`) is scored on tasks by Transformers itself.
    """

    run: Annotated[BucketPath, tyro.conf.Positional]
    """The folder of a run, of an imported model, or (with --tasks) of an exported one."""
    data: BucketPath | None = None
    """Prepared data to score on; by default the run's own."""
    num_units: int | None = None
    """How many held-out units; by default the run's. With --memorization: units of each side, by
    default 1000."""
    tasks: str | None = None
    """all, or some of hellaswag, boolq, piqa, social_iqa, triviaqa, arc_challenge, arc_easy."""
    items: Path | None = None
    """Folder with the tasks' items, TASK/SPLIT.jsonl; by default they are fetched."""
    num_fewshot: int | None = None
    """Examples shown before each item, instead of the number that VaultGemma's table is for."""
    limit: int | None = None
    """Only the first so many items of each task."""
    memorization: bool = False
    """Test how many training units the model continues word for word. NOT PRIVATE."""
    prefix_tokens: int = 50
    """--memorization: how many tokens of a unit are the prompt."""
    continuation_tokens: int = 50
    """--memorization: how many tokens after them are compared."""
    seed: int = 0
    """--memorization: of the draw of units."""
    out: Path | None = None
    """Write the answer to this JSON file as well."""


def run(options: Options, output: Output) -> ExitCode:
    """Does what was asked for."""
    _check(options)
    from dpscale.runtime import prepare_process

    prepare_process()  # before JAX is imported
    answer: dict[str, Any] = {"model": str(options.run)}
    if _is_exported(options.run):
        answer |= _exported(options, output)
    else:
        answer |= _ours(options, output)
    if options.out is not None:
        write_json_atomically(options.out, answer)
    output.result(answer)
    return ExitCode.OK


def _check(options: Options) -> None:
    if options.num_units is not None and options.num_units < 1:
        raise InputError("--num-units", f"expected at least 1, found {options.num_units}.")
    if options.tasks is not None:
        return
    for name in ("items", "num_fewshot", "limit"):
        if getattr(options, name) is not None:
            raise InputError(name, "belongs to --tasks.")


def _is_exported(folder: Path) -> bool:
    """Whether the folder holds a Hugging Face model: a run's config names no model type."""
    path = folder / "config.json"
    return path.exists() and "model_type" in read_json(path)


def _ours(options: Options, output: Output) -> dict[str, Any]:
    from dpscale.inference.trained import open_trained

    request = _task_request(options)
    trained = open_trained(options.run)
    answer: dict[str, Any] = {}
    if request is None and not options.memorization:
        answer["held_out"] = _held_out(trained, options, output)
    if options.memorization:
        from dpscale.evaluation.memorization import MemorizationTest

        asked = MemorizationTest(
            num_units=options.num_units or MemorizationTest.num_units,
            prefix_tokens=options.prefix_tokens,
            continuation_tokens=options.continuation_tokens,
            seed=options.seed,
        )
        answer["memorization"] = run_memorization(trained, asked, output, data=options.data)
    if request is not None:
        from dpscale.evaluation.harness import score_tasks

        scores = score_tasks(trained, request, on_progress=output.tenths())
        answer["tasks"] = _shown(scores, output)
    return answer


def _exported(options: Options, output: Output) -> dict[str, Any]:
    request = _task_request(options)
    if request is None or options.memorization:
        raise InputError(
            str(options.run),
            "a Hugging Face model: --tasks scores it; for the rest run dpscale import first.",
        )
    from dpscale.evaluation.harness import score_exported

    return {"tasks": _shown(score_exported(options.run, request), output)}


def _task_request(options: Options) -> "TaskRequest | None":
    if options.tasks is None:
        return None
    from dpscale.evaluation.harness import TaskRequest
    from dpscale.evaluation.tasks import task_names

    return TaskRequest(
        tasks=tuple(task_names(options.tasks)),
        items=options.items,
        num_shots=options.num_fewshot,
        limit=options.limit,
    )


def _held_out(trained: "TrainedModel", options: Options, output: Output) -> dict[str, Any]:
    from dpscale.evaluation.data import units_for
    from dpscale.evaluation.held_out import measure_held_out
    from dpscale.inference.scoring import Scorer

    units, config = units_for(trained, options.data), trained.config
    num_units = options.num_units or (config and config.data.num_eval_units) or _HELD_OUT_UNITS
    found = measure_held_out(
        Scorer(trained.model, trained.params),
        trained.tokenizer,
        units.eval,
        num_units=num_units,
        on_progress=output.tenths(),
    )
    output.say(
        f"{units.folder}: {found.num_units:,} held-out units, {found.num_tokens:,} tokens, "
        f"{found.num_bytes:,} bytes; [95 % interval over units]"
    )
    output.say(f"loss            {found.loss} nats per token")
    if found.bits_per_byte is not None:
        output.say(f"bits_per_byte   {found.bits_per_byte}")
    return {"data": str(units.folder), "data_hash": units.manifest.data_hash, **found.to_dict()}


def _shown(scores: "TaskScores", output: Output) -> dict[str, Any]:
    from dpscale.evaluation.tasks import TASKS

    rows = [
        (
            score.task,
            str(score.num_shots),
            str(score.num_items),
            score.metric,
            f"{100 * score.score:.2f}"
            + ("" if score.stderr is None else f" ± {100 * score.stderr:.2f}"),
            f"{TASKS[score.task].quoted:.2f}",
        )
        for score in scores.scores
    ]
    columns = ("task", "examples shown", "items", "metric", "% ± standard error", "VaultGemma 1B")
    output.table(columns, rows)
    output.say(f"lm-evaluation-harness {scores.harness_version}")
    return scores.to_dict()
