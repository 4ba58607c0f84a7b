"""Metric lines: their keys, their means, and what is cut when a run goes on from a checkpoint."""

import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from dpscale.records import METRIC_KEYS, read_metrics
from dpscale.training.metrics import NOT_PRIVATE_KEYS, MetricsLog, metric_line
from dpscale.training.step import Window, empty_window


def line(step: int, **changes: Any) -> dict[str, Any]:
    window = Window(jnp.float32(12), jnp.float32(6), jnp.float32(1), jnp.float32(4))
    fields: dict[str, Any] = {
        "window": window,
        "eval_loss": None,
        "tokens": 800,
        "learning_rate": 0.1,
        "epsilon": None,
        "wall_seconds": 2.0,
    }
    return metric_line(step=step, **{**fields, **changes})


def test_means_are_over_the_examples_of_the_window() -> None:
    found = line(4)
    assert (found["train_loss"], found["mean_grad_norm"]) == (3.0, 1.5)
    assert found["clipped_fraction"] == 0.25


@pytest.mark.parametrize("eval_loss", [None, 3.5])
@pytest.mark.parametrize("epsilon", [None, 1.5])
def test_keys_are_the_documented_ones(eval_loss: float | None, epsilon: float | None) -> None:
    found = line(4, eval_loss=eval_loss, epsilon=epsilon)
    absent = {"eval_loss"} if eval_loss is None else set()
    absent |= {"epsilon", "not_private"} if epsilon is None else set()
    assert set(found) == set(METRIC_KEYS) - absent


def test_a_private_line_marks_all_that_is_computed_from_the_data_without_noise() -> None:
    # Catches: a key that is documented as not private and is not marked in the line.
    documented = {key for key, text in METRIC_KEYS.items() if text.endswith("NOT PRIVATE")}
    assert set(NOT_PRIVATE_KEYS) == documented
    assert set(line(4, epsilon=1.0)["not_private"]) == documented


def test_a_window_without_examples_has_no_means(tmp_path: Path) -> None:
    # A Poisson batch can be empty. Catches: a division by zero, or a NaN that is not JSON.
    found = line(4, window=empty_window())
    assert math.isnan(found["train_loss"])
    MetricsLog(tmp_path, keep_until=0).append(found)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text)["train_loss"] is None
    assert "NaN" not in text


def test_lines_after_the_restored_step_are_cut(tmp_path: Path) -> None:
    # Catches: windows that stand twice in the file of a resumed run.
    log = MetricsLog(tmp_path, keep_until=0)
    assert log.last is None
    for step in (4, 8, 12):
        log.append(line(step))
    resumed = MetricsLog(tmp_path, keep_until=10)
    assert resumed.last == line(8)
    resumed.append(line(12))
    assert read_metrics(tmp_path) == [line(4), line(8), line(12)]


def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, keep_until=0)
    log.append(line(4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "train')
    MetricsLog(tmp_path, keep_until=8).append(line(8))
    assert read_metrics(tmp_path) == [line(4), line(8)]
