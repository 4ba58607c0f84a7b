"""A whole run: what it computes, what it writes, and how it ends when it cannot go on."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from digest import digest

from dpscale.config import RunConfig
from dpscale.data.pipeline import step_batch
from dpscale.data.units import open_units
from dpscale.files import read_json
from dpscale.privacy import receipt as receipt_module
from dpscale.privacy.noise import noise_key
from dpscale.records import METRIC_KEYS, Status, read_metrics, read_result, read_status
from dpscale.training import loop
from dpscale.training.batches import batch_source
from dpscale.training.metrics import NOT_PRIVATE_KEYS
from dpscale.training.optimizer import make_schedule
from dpscale.training.run_folder import StartedRun
from dpscale.training.step import StepSettings, TrainState, init_state, make_train_step

Finished = Callable[[str], Path]


def replaced(config: RunConfig, section: str, **changes: Any) -> RunConfig:
    return dataclasses.replace(
        config, **{section: dataclasses.replace(getattr(config, section), **changes)}
    )


def test_a_private_run_is_its_steps_and_nothing_else(
    configs: dict[str, RunConfig],
    runs: dict[str, StartedRun],
    finished: Finished,
    traces: Callable[[Path], dict[str, Any]],
    prepared: Path,
) -> None:
    # The loop by hand, without windows and checkpoints. Catches: batches off by one step, the
    # noise of another key, an evaluation or a metric line that changes the parameters.
    config, run, units = configs["private"], runs["private"], open_units(prepared)
    assert run.mechanism is not None
    assert run.keys is not None
    source = batch_source(run, dataset_size=units.manifest.dataset_size)
    settings = StepSettings(
        run.mechanism.noisy_mean,
        make_schedule(config.optimizer, iterations=12),
        noise_key(run.keys.noise),
    )
    step = make_train_step(config.model, config.optimizer, config.clipping)
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    state = init_state(config.model, config.optimizer, key)
    for index in range(12):
        batch = step_batch(units.train, source.plan, index, slots=source.slots)
        tokens, is_padding = jnp.asarray(batch.tokens), jnp.asarray(batch.is_padding)
        state = step(state, tokens, is_padding, settings)
    saved = traces(finished("private"))["state"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        assert digest(np.asarray(leaf).tobytes()) == saved[f".params{jax.tree_util.keystr(path)}"]


@pytest.mark.parametrize("purpose", ["private", "law-fitting"])
def test_metric_lines(purpose: str, finished: Finished) -> None:
    # Catches: a key that the schema does not know, a private line that marks nothing.
    lines = read_metrics(finished(purpose))
    assert [line["step"] for line in lines] == [4, 8, 12]
    private_keys = {"epsilon", "not_private"}
    wanted = set(METRIC_KEYS) - (set() if purpose == "private" else private_keys)
    for line in lines:
        assert set(line) == wanted
        assert 0 < line["train_loss"] < 1.1 * math.log(1024)
        assert 0 < line["eval_loss"] < 1.1 * math.log(1024)
        assert 0 <= line["clipped_fraction"] <= 1
    if purpose == "private":
        assert all(line["not_private"] == list(NOT_PRIVATE_KEYS) for line in lines)
        spent = [line["epsilon"] for line in lines]
        assert spent == sorted(spent)
        receipt = read_json(finished(purpose) / "receipt.json")
        assert spent[-1] >= receipt["epsilon"]
        assert receipt["epsilon"] <= 8.0
    else:
        assert [line["tokens"] for line in lines] == [4 * 20 * 8, 8 * 20 * 8, 12 * 20 * 8]
    assert lines[0]["train_loss"] > lines[-1]["train_loss"]


def test_a_run_is_compiled_once(
    configs: dict[str, RunConfig], finished: Finished, prepared: Path, tmp_path: Path
) -> None:
    # Catches: a compilation for each size of a Poisson batch, or one more after a restart.
    finished("private")
    config = configs["private"]
    step = loop.make_train_step(config.model, config.optimizer, config.clipping)
    before = step._cache_size()  # type: ignore[attr-defined]
    unpinned = replaced(config, "private", insecure_key_seed=None)
    loop.train(unpinned, tmp_path)
    (tmp_path / "result.json").unlink()
    loop.train(unpinned, tmp_path)
    sizes = {line["tokens"] for line in read_metrics(tmp_path)}
    assert len(sizes) == 3
    assert step._cache_size() == before  # type: ignore[attr-defined]


def test_a_step_takes_the_memory_of_the_state_over(
    configs: dict[str, RunConfig], runs: dict[str, StartedRun]
) -> None:
    # Catches: a second copy of parameters and optimizer state while a step computes.
    config = configs["law-fitting"]
    step = loop.make_train_step(config.model, config.optimizer, config.clipping)
    state = init_state(config.model, config.optimizer, jax.random.key(0))
    tokens = jnp.zeros((24, config.model.seq_len + 1), jnp.int32)
    after = step(state, tokens, jnp.zeros(24, bool), loop._step_settings(runs["law-fitting"]))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in (tokens, *jax.tree.leaves(after)))


def test_runs_differ_by_their_seed_and_repeat_with_it(
    configs: dict[str, RunConfig],
    finished: Finished,
    traces: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
) -> None:
    config = configs["law-fitting"]
    loop.train(config, tmp_path / "same")
    loop.train(dataclasses.replace(config, seed=1), tmp_path / "other")
    first = traces(finished("law-fitting"))
    assert traces(tmp_path / "same") == first
    assert traces(tmp_path / "other")["state"] != first["state"]


def test_the_checkpoints_do_not_change_a_run(
    configs: dict[str, RunConfig],
    finished: Finished,
    traces: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
) -> None:
    config = replaced(configs["law-fitting"], "training", checkpoint_every=3, keep_checkpoints=3)
    loop.train(config, tmp_path)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"6", "9", "12"}
    assert traces(tmp_path) == traces(finished("law-fitting"))


def test_without_evaluation_units_a_run_reports_none(
    configs: dict[str, RunConfig], tmp_path: Path
) -> None:
    config = replaced(configs["law-fitting"], "data", num_eval_units=0)
    result = loop.train(config, tmp_path)
    assert (result.status, result.eval_loss) == (Status.FINISHED, None)
    assert not any("eval_loss" in line for line in read_metrics(tmp_path))


def test_evaluation_only_at_the_end(configs: dict[str, RunConfig], tmp_path: Path) -> None:
    config = replaced(configs["law-fitting"], "training", eval_every=0)
    loop.train(config, tmp_path)
    assert ["eval_loss" in line for line in read_metrics(tmp_path)] == [False, False, True]


def poisoned_at(step_number: int) -> Callable[..., Any]:
    """A maker of steps that leave a NaN in the parameters at one step."""

    def make(*arguments: Any) -> Any:
        step = make_cached(*arguments)

        def poisoned(state: TrainState, *rest: Any) -> TrainState:
            state = step(state, *rest)
            if int(state.step) != step_number:
                return state
            return dataclasses.replace(
                state,
                params=jax.tree.map(lambda leaf: leaf * jnp.nan, state.params),
                is_finite=jnp.zeros((), bool),
            )

        return poisoned

    make_cached = loop.make_train_step
    return make


@pytest.mark.parametrize(
    ("at", "noticed", "good"), [(3, 4, set()), (10, 10, {"5"}), (11, 12, {"5", "10"})]
)
def test_parameters_that_are_not_finite_end_the_run_with_a_row(
    at: int,
    noticed: int,
    good: set[str],
    configs: dict[str, RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Catches: NaN parameters in a checkpoint, a run that goes on spending, a missing row.
    monkeypatch.setattr(loop, "make_train_step", poisoned_at(at))
    # The curve of the steps taken is tested elsewhere, and takes longer than they do.
    monkeypatch.setattr(receipt_module, "curve_fields", lambda *_, **__: receipt_module.NO_CURVE)
    result = loop.train(configs["private"], tmp_path)
    assert (result.status, result.steps_taken, result.train_loss) == (
        Status.DIVERGED,
        noticed,
        None,
    )
    assert "not finite" in str(result.error)
    assert read_result(tmp_path) == result
    receipt, status = read_json(tmp_path / "receipt.json"), read_status(tmp_path)
    assert receipt["iterations"] == noticed
    assert 0 < receipt["epsilon"] == result.epsilon
    assert status is not None
    assert (status.status, status.step, status.error) == (Status.DIVERGED, noticed, result.error)
    saved = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert saved == good
    assert [line["step"] for line in read_metrics(tmp_path)] == [4, 8][: (noticed - 1) // 4]
    assert loop.train(configs["private"], tmp_path) == result  # the end stays the end


def test_an_absurd_learning_rate_diverges(configs: dict[str, RunConfig], tmp_path: Path) -> None:
    # The same without a patched step: the step itself must notice.
    config = replaced(configs["law-fitting"], "optimizer", learning_rate=3e38)
    result = loop.train(config, tmp_path)
    assert result.status is Status.DIVERGED
    assert result.steps_taken in (4, 5, 8)


def test_a_failure_is_told_in_the_status(
    configs: dict[str, RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Catches: a run that stays "running" for ever for whoever watches its folder.
    def fail(line: dict[str, Any]) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        loop.train(configs["law-fitting"], tmp_path, observe=fail)
    status = read_status(tmp_path)
    assert status is not None
    assert (status.status, status.step) == (Status.FAILED, 4)
    assert status.error == "OSError: the disk is full"


def test_ctrl_c_twice_is_an_interruption_and_no_failure(
    configs: dict[str, RunConfig], tmp_path: Path
) -> None:
    def interrupt(line: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(configs["law-fitting"], tmp_path, observe=interrupt)
    status = read_status(tmp_path)
    assert status is not None
    assert status.status is Status.INTERRUPTED
