"""Definitions of tasks, and what is asked of a folder of items."""

import json
from pathlib import Path

import pytest

from dpscale.errors import InputError
from dpscale.evaluation.harness import TaskRequest, require
from dpscale.evaluation.tasks import TASKS, task_names, write_definitions

ITEMS = Path(__file__).parent / "items"


def definitions(folder: Path, names, **options):
    settings = {"items": None, "num_shots": None, **options}
    write_definitions(folder, names, Path("harness"), **settings)
    return {name: json.loads((folder / f"{name}.yaml").read_text()) for name in names}


def test_shots_are_those_of_the_published_table(tmp_path):
    """Catches scores that are compared with others of more examples."""
    found = definitions(tmp_path, list(TASKS))
    shots = {name: found[name]["num_fewshot"] for name in TASKS}
    assert {name for name, count in shots.items() if count == 0} == {
        "boolq", "piqa", "social_iqa", "arc_easy"}  # fmt: skip
    assert (shots["hellaswag"], shots["triviaqa"], shots["arc_challenge"]) == (10, 5, 25)
    assert found["arc_easy"]["include"] == "harness/arc/arc_easy.yaml"
    assert "dataset_path" not in found["piqa"]


def test_items_of_a_folder_replace_the_data_set(tmp_path):
    """Catches items that are fetched although they are there."""
    found = definitions(tmp_path, ["arc_easy"], items=ITEMS, num_shots=2)["arc_easy"]
    files = found["dataset_kwargs"]["data_files"]
    assert found["dataset_path"] == "json"
    assert {split: Path(path).name for split, path in files.items()} == {
        "test": "test.jsonl", "train": "train.jsonl"}  # fmt: skip
    assert (found["test_split"], found["training_split"], found["validation_split"]) == (
        "test", "train", None)  # fmt: skip


def test_missing_items_are_named(tmp_path):
    """Catches a task that is scored on other items than it should be."""
    with pytest.raises(InputError, match=r"piqa/validation\.jsonl is missing.*items to score"):
        definitions(tmp_path, ["piqa"], items=tmp_path)
    (tmp_path / "hellaswag").mkdir()
    (tmp_path / "hellaswag" / "validation.jsonl").write_text("")
    with pytest.raises(InputError, match=r"train\.jsonl is missing.*the 10 examples"):
        definitions(tmp_path, ["hellaswag"], items=tmp_path)


def test_names():
    """Catches a task that is scored twice, and a slip of the pen that scores nothing."""
    assert task_names("all") == list(TASKS)
    assert task_names("piqa, boolq,piqa") == ["piqa", "boolq"]
    with pytest.raises(InputError, match="found 'pika'"):
        task_names("pika")


@pytest.mark.parametrize("fields", [{"num_shots": -1}, {"limit": 0}])
def test_values_out_of_range_are_named(fields):
    """Catches a limit of nothing."""
    with pytest.raises(InputError, match="expected at least"):
        TaskRequest(tasks=("piqa",), **fields)


def test_a_missing_library_says_what_to_install():
    """Catches a traceback where a package was left out."""
    with pytest.raises(InputError, match=r"no_such_thing is not installed.*'dpscale\[eval\]'"):
        require(["json", "no_such_thing"], "eval")


def test_every_task_has_items_of_the_project_s_own():
    """Catches a task that no test scores."""
    for name, task in TASKS.items():
        for split in (task.split, "train"):
            lines = (ITEMS / name / f"{split}.jsonl").read_text().splitlines()
            assert len(lines) >= 6
            assert all(isinstance(json.loads(line), dict) for line in lines)
