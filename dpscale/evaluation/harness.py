"""Runs tasks of lm-evaluation-harness on a model of ours, or on an exported folder.

Our model answers through an adapter and needs no torch. A Hugging Face folder is scored by the
harness's own model of Transformers, which is the check that an export is what it should be.
"""

import dataclasses
import importlib.metadata
import importlib.util
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpscale.errors import InputError
from dpscale.evaluation.answers import Answers
from dpscale.evaluation.progress import OnProgress
from dpscale.evaluation.tasks import write_definitions
from dpscale.inference.trained import TrainedModel


@dataclass(frozen=True, kw_only=True)
class TaskRequest:
    """What to score.

    Attributes:
      tasks: Names in `TASKS`.
      items: Folder of items; None: the harness fetches them from the hub.
      num_shots: Examples shown before each item, instead of the tasks' own numbers.
      limit: The first so many items of each task only.
    """

    tasks: tuple[str, ...]
    items: Path | None = None
    num_shots: int | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.num_shots is not None and self.num_shots < 0:
            raise InputError("--num-fewshot", f"expected at least 0, found {self.num_shots}.")
        if self.limit is not None and self.limit < 1:
            raise InputError("--limit", f"expected at least 1, found {self.limit}.")


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task, in [0, 1]; `stderr` is None where the harness gives none."""

    task: str
    metric: str
    score: float
    stderr: float | None
    num_items: int
    num_shots: int


@dataclass(frozen=True)
class TaskScores:
    """All scores, and the harness's answers to each item (`samples`, by task)."""

    scores: list[TaskScore]
    samples: dict[str, list[dict[str, Any]]]
    harness_version: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the samples."""
        return {
            "harness_version": self.harness_version,
            "scores": [dataclasses.asdict(score) for score in self.scores],
        }


def require(packages: Sequence[str], extra: str) -> None:
    """Says what to install where one of the packages is missing.

    Raises:
      InputError: In one line.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise InputError(
                "--tasks", f"{package} is not installed; run: pip install 'dpscale[{extra}]'"
            )


def score_tasks(
    trained: TrainedModel,
    request: TaskRequest,
    *,
    on_progress: OnProgress = lambda _doing, _done, _total: None,
) -> TaskScores:
    """Scores a model of ours.

    Raises:
      InputError: lm-evaluation-harness is not installed, items are missing or cannot be
        fetched, or one does not fit the model.
    """
    require(["lm_eval"], "eval")
    _prefer_local(request)
    if request.items is not None:
        os.environ.setdefault("TQDM_DISABLE", "1")  # `on_progress` tells how far it is
    from dpscale.evaluation.adapter import make_adapter

    return _evaluated(make_adapter(Answers(trained), on_progress), {}, request)


def score_exported(folder: Path, request: TaskRequest) -> TaskScores:
    """Scores a Hugging Face folder by Transformers, in float32.

    Raises:
      InputError: As `score_tasks`, or Transformers is not installed.
    """
    require(["lm_eval"], "eval")
    require(["torch", "transformers", "accelerate"], "hf")
    _prefer_local(request)
    import torch

    arguments = {
        "pretrained": str(folder),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "dtype": "float32",
        "attn_implementation": "eager",  # the one that caps scores
    }
    return _evaluated("hf", arguments, request)


def _prefer_local(request: TaskRequest) -> None:
    """Keeps the libraries off the network where all items are at hand; before their import."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # else it warns of every retry, twice
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if request.items is not None:
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")


def _evaluated(model: Any, arguments: dict[str, Any], request: TaskRequest) -> TaskScores:
    import lm_eval
    import lm_eval.tasks
    from lm_eval.evaluator import simple_evaluate

    with tempfile.TemporaryDirectory() as folder:
        write_definitions(
            Path(folder),
            request.tasks,
            Path(lm_eval.tasks.__file__).parent,
            items=request.items,
            num_shots=request.num_shots,
        )
        manager = lm_eval.tasks.TaskManager(include_path=folder, include_defaults=False)
        found = simple_evaluate(
            model=model,
            model_args=arguments,
            tasks=_loaded(manager, request),
            limit=request.limit,
            task_manager=manager,
            batch_size=8,
            log_samples=True,
        )
    if found is None:
        raise RuntimeError("Expected results of the harness, found none.")
    return TaskScores(
        scores=[score for name in request.tasks for score in _scores(name, found)],
        samples=found["samples"],
        harness_version=importlib.metadata.version("lm_eval"),
    )


def _loaded(manager: Any, request: TaskRequest) -> list[Any]:
    """The tasks with their items, which loading fetches."""
    try:
        return list(manager.load(list(request.tasks))["tasks"].values())
    except Exception as error:  # whatever the hub's and the data sets' libraries raise
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        if request.items is None:
            raise InputError(
                "--items", f"items could not be fetched ({why}); name a folder that holds them."
            ) from error
        raise InputError("--items", f"{request.items} cannot be read as items ({why}).") from error


def _scores(task: str, found: dict[str, Any]) -> list[TaskScore]:
    results = found["results"][task]
    metrics = {key.partition(",")[0]: key for key in results if "," in key}
    return [
        TaskScore(
            task=task,
            metric=metric,
            score=float(results[key]),
            stderr=_number(results.get(key.replace(",", "_stderr,"))),
            num_items=int(found["n-samples"][task]["effective"]),
            num_shots=int(found["n-shot"][task]),
        )
        for metric, key in metrics.items()
        if not metric.endswith("_stderr")
    ]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
