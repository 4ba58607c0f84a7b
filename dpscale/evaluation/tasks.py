"""The tasks that VaultGemma reports (arXiv 2510.15001), as lm-evaluation-harness defines them.

Templates, choices and metrics are the harness's own. What is set here: which of its files a
task is, how many examples are shown, and where items come from.

A folder of items holds `TASK/SPLIT.jsonl`, in the schema of the original data set:
`hellaswag/validation.jsonl` and, where examples are shown, `hellaswag/train.jsonl`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpscale.errors import InputError
from dpscale.files import write_json_atomically

ANSWER_TOKENS = 32
"""Length of a short answer, at most; the harness would write on for 256 tokens."""


@dataclass(frozen=True)
class Task:
    """A task of the harness.

    Attributes:
      definition: Its file below the harness's folder of tasks.
      num_shots: Solved examples shown before each item, as in VaultGemma's table where that
        says so, else none.
      split: The items that are scored; examples come from `train`.
      quoted: VaultGemma's score, in per cent.
    """

    definition: str
    num_shots: int
    split: str
    quoted: float
    changes: Mapping[str, Any]


TASKS = {
    "hellaswag": Task("hellaswag/hellaswag.yaml", 10, "validation", 39.09, {}),
    "boolq": Task("super_glue/boolq/default.yaml", 0, "validation", 62.04, {}),
    "piqa": Task("piqa/piqa.yaml", 0, "validation", 68.00, {}),
    "social_iqa": Task("siqa/siqa.yaml", 0, "validation", 46.16, {}),
    "triviaqa": Task(
        "triviaqa/default.yaml",
        5,
        "validation",
        11.24,
        {
            "generation_kwargs": {
                "until": ["\n", ".", ","],
                "do_sample": False,
                "temperature": 0.0,
                "max_gen_toks": ANSWER_TOKENS,
            }
        },
    ),
    "arc_challenge": Task("arc/arc_challenge.yaml", 25, "test", 26.45, {}),
    "arc_easy": Task("arc/arc_easy.yaml", 0, "test", 51.78, {}),
}


def task_names(asked: str) -> list[str]:
    """The tasks of a comma-separated list, or `all`.

    Raises:
      InputError: An unknown name.
    """
    names = list(TASKS) if asked == "all" else [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in TASKS:
            raise InputError(
                "--tasks", f"expected all, or some of {', '.join(TASKS)}; found {name!r}."
            )
    return list(dict.fromkeys(names))


def write_definitions(
    folder: Path,
    names: Sequence[str],
    harness_tasks: Path,
    *,
    items: Path | None,
    num_shots: int | None,
) -> None:
    """Writes one definition a task, which includes the harness's and changes what is set here.

    They are JSON, which YAML contains.

    Args:
      folder: Where to; data sets that are read from items are cached there too.
      harness_tasks: The harness's folder of tasks.
      items: Folder of items; None: the harness fetches them from the hub.
      num_shots: Instead of the tasks' own numbers.

    Raises:
      InputError: A file of items is missing.
    """
    for name in names:
        task = TASKS[name]
        shots = task.num_shots if num_shots is None else num_shots
        definition = {
            "include": str(harness_tasks / task.definition),
            "task": name,
            "num_fewshot": shots,
            **task.changes,
        }
        if items is not None:
            definition |= _local_items(items / name, task, shots, cache=folder / "cache")
        write_json_atomically(folder / f"{name}.yaml", definition)


def _local_items(items: Path, task: Task, shots: int, *, cache: Path) -> dict[str, Any]:
    wanted = [task.split] if shots == 0 else [task.split, "train"]
    files = {split: items / f"{split}.jsonl" for split in wanted}
    for split, path in files.items():
        if not path.is_file():
            what = "items to score" if split == task.split else f"the {shots} examples to show"
            raise InputError("--items", f"{path} is missing: it should hold {what}.")
    splits = {"training": "train", "validation": "validation", "test": "test"}
    return {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {split: str(path.resolve()) for split, path in files.items()},
            "cache_dir": str(cache),
        },
        **{f"{key}_split": split if split in files else None for key, split in splits.items()},
    }
