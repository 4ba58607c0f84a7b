"""Trains one run, from whatever its folder holds to its `result.json`.

Each pass of the loop dispatches one step. At the end of a window a metric line is written, then
a checkpoint where one is due; everything that decides what follows is in the checkpoint, so
that a run killed at any moment and started again ends as one that was never killed. Between
the ends of windows nothing waits for the step just dispatched: batches are read, moved and
dispatched while the device computes.
"""

import dataclasses
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dpscale.config import RunConfig
from dpscale.data.pipeline import Batch, step_batches
from dpscale.data.units import PreparedUnits, open_units
from dpscale.errors import RunInterrupted
from dpscale.paths import is_on_bucket
from dpscale.privacy.mechanism import law_fitting_noisy_mean
from dpscale.privacy.noise import noise_key
from dpscale.records import RECEIPT_FILE, RunResult, Status, read_result
from dpscale.training.batches import batch_source
from dpscale.training.checkpoint import Checkpoints, Counters
from dpscale.training.ending import write_ending
from dpscale.training.evaluate import make_eval_loss
from dpscale.training.heartbeat import Heartbeat
from dpscale.training.hosts import (
    AgreedStop,
    check_agreement,
    first_then_others,
    is_first,
    records_folder,
)
from dpscale.training.interruption import StopRequest
from dpscale.training.metrics import MetricsLog, metric_line
from dpscale.training.optimizer import make_schedule
from dpscale.training.placement import Placement
from dpscale.training.run_ahead import RunAhead
from dpscale.training.run_folder import StartedRun, locked, start_or_resume
from dpscale.training.run_keys import check_place
from dpscale.training.spending import SpentEpsilon
from dpscale.training.step import (
    StepSettings,
    TrainState,
    empty_window,
    init_state,
    make_train_step,
    state_shapes,
)

Observer = Callable[[dict[str, Any]], None]
"""Called with each metric line as it is written."""


def train(
    config: RunConfig,
    run_dir: Path,
    *,
    keys_dir: Path | None = None,
    stop: StopRequest | None = None,
    observe: Observer = lambda line: None,
) -> RunResult:
    """Runs a config in its folder, to the end.

    A folder that holds the finished run is left as it is; one that holds a part of it is
    continued. The process's own settings (allocator, compile cache) are the caller's: see
    `dpscale.runtime.prepare_process`.

    Args:
      keys_dir: The local folder for a private run's keys; None: the run's own, also local.
      stop: Where a request to stop appears; the run then saves its state and leaves.

    Raises:
      RunInterrupted: A stop was requested; starting again continues the run.
      PrivacyRefusal: The run must not start, or not go on in this folder.
      InputError: Config and data do not fit each other.
    """
    check_place(config, run_dir, keys_dir)
    units = open_units(config.data.path)
    placement = Placement.of(config.mesh, config.model)
    if not is_on_bucket(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
    with locked(run_dir) if is_first() else nullcontext():
        run = first_then_others(
            lambda: start_or_resume(
                config,
                run_dir,
                units.manifest,
                keys_dir=keys_dir,
                num_shards=placement.num_batch_shards,
            )
        )
        check_agreement(f"{run.config_hash} {run.keys and dataclasses.astuple(run.keys)}")
        finished = first_then_others(lambda: read_result(run_dir))
        if finished is not None:
            return finished
        with records_folder(run_dir) as records_dir:
            training = _Training(run, units, placement, records_dir, stop or StopRequest(), observe)
            return training.run()


class _Training:
    """One process's work on one run."""

    def __init__(
        self,
        run: StartedRun,
        units: PreparedUnits,
        placement: Placement,
        records_dir: Path,
        stop: StopRequest,
        observe: Observer,
    ) -> None:
        config = run.config
        self._placement = placement
        # What is written for readers; checkpoints are written by all hosts together.
        self._records = dataclasses.replace(run, run_dir=records_dir)
        self._run, self._units, self._observe = run, units, observe
        self._stop = AgreedStop(lambda: stop.is_set)
        self._iterations = config.training.iterations
        self._source = batch_source(run, dataset_size=units.manifest.dataset_size)
        self._settings = placement.put_whole(_step_settings(run))  # once, not at every step
        self._step = make_train_step(config.model, config.optimizer, config.clipping, placement)
        self._eval_loss = None
        if config.data.num_eval_units:
            self._eval_loss = make_eval_loss(
                config.model,
                units.eval,
                num_units=config.data.num_eval_units,
                chunk_size=64,
                placement=placement,
            )
        self._spent = None
        if run.mechanism is not None and config.private is not None:
            self._spent = SpentEpsilon(run.mechanism, delta=config.private.target_delta)
        self._checkpoints = Checkpoints(run.run_dir, keep=config.training.keep_checkpoints)
        self._heartbeat = Heartbeat(records_dir, iterations=self._iterations)

    def run(self) -> RunResult:
        """Takes all steps that are left."""
        self._started = time.monotonic()
        try:
            state, counters = self._restored_or_new()
            self._started = time.monotonic() - counters.wall_seconds
            step = int(state.step)
            self._heartbeat.beat(Status.RUNNING, step=step, wall_seconds=counters.wall_seconds)
            return self._take_steps(state, counters)
        except RunInterrupted:
            raise
        except KeyboardInterrupt:
            self._heartbeat.beat(Status.INTERRUPTED, wall_seconds=self._wall_seconds())
            raise
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            self._heartbeat.beat(Status.FAILED, wall_seconds=self._wall_seconds(), error=reason)
            raise
        finally:
            self._heartbeat.stop()
            self._checkpoints.close()

    def _take_steps(self, state: TrainState, counters: Counters) -> RunResult:
        training = self._run.config.training
        first = int(state.step)
        # The receipt of an interruption states fewer steps than this process will take.
        (self._records.run_dir / RECEIPT_FILE).unlink(missing_ok=True)
        metrics = MetricsLog(self._records.run_dir, keep_until=first)
        last_line = metrics.last
        batches = step_batches(
            self._units.train,
            self._source.plan,
            slots=self._source.slots,
            start=first,
            stop=self._iterations,
            rows=self._placement.own_rows(self._source.slots),
        )
        run_ahead = RunAhead()
        for batch in batches:
            tokens, is_padding = map(self._placement.put_examples, (batch.tokens, batch.is_padding))
            state = self._step(state, tokens, is_padding, self._settings)
            run_ahead.follow(state)
            counters = self._count(counters, batch)
            done = batch.step + 1
            is_last = done == self._iterations
            window_ends = is_last or done % training.metrics_every == 0
            is_stopping = self._stop.at(done)  # asked once: a signal can come between two lines
            saves = is_last or done % training.checkpoint_every == 0 or is_stopping
            if (window_ends or saves) and not bool(state.is_finite):
                return self._end(Status.DIVERGED, done, counters, last_line)
            if window_ends:
                last_line = self._measure(state, counters, done)
                metrics.append(last_line)
                state = dataclasses.replace(state, window=self._placement.put_whole(empty_window()))
                self._report(last_line)
            if saves:
                self._checkpoints.save(
                    state, dataclasses.replace(counters, wall_seconds=self._wall_seconds())
                )
            if is_stopping and not is_last:
                self._interrupt(done, counters, last_line)
        return self._end(Status.FINISHED, self._iterations, counters, last_line)

    def _restored_or_new(self) -> tuple[TrainState, Counters]:
        config = self._run.config
        key = jax.random.fold_in(jax.random.key(config.seed), _INITIALISATION)
        shardings = self._placement.of_state(state_shapes(config.model, config.optimizer))
        start = jax.jit(init_state, static_argnums=(0, 1), out_shardings=shardings)
        state = start(config.model, config.optimizer, key)
        restored = self._checkpoints.restore_newest(state)
        return restored or (state, Counters())

    def _count(self, counters: Counters, batch: Batch) -> Counters:
        cut = self._source.num_drawn(batch.step) - batch.num_examples
        return dataclasses.replace(
            counters,
            num_examples=counters.num_examples + batch.num_examples,
            num_truncated_batches=counters.num_truncated_batches + (cut > 0),
            num_truncated_examples=counters.num_truncated_examples + cut,
        )

    def _measure(self, state: TrainState, counters: Counters, done: int) -> dict[str, Any]:
        every = self._run.config.training.eval_every
        is_due = done == self._iterations or (every and done % every == 0)
        return metric_line(
            step=done,
            window=state.window,
            eval_loss=self._eval_loss(state.params) if self._eval_loss and is_due else None,
            tokens=counters.num_examples * self._run.config.model.seq_len,
            learning_rate=float(self._settings.schedule(jnp.asarray(done - 1))),
            epsilon=self._spent(done) if self._spent else None,
            wall_seconds=self._wall_seconds(),
        )

    def _report(self, line: dict[str, Any]) -> None:
        self._heartbeat.beat(
            Status.RUNNING,
            step=line["step"],
            wall_seconds=line["wall_seconds"],
            train_loss=line["train_loss"],
            epsilon=line.get("epsilon"),
        )
        self._observe(line)

    def _interrupt(self, done: int, counters: Counters, last_line: dict[str, Any] | None) -> None:
        self._checkpoints.finish()
        write_ending(
            self._records, self._units.manifest, Status.INTERRUPTED, done, counters, last_line
        )
        self._heartbeat.beat(Status.INTERRUPTED, step=done, wall_seconds=self._wall_seconds())
        raise RunInterrupted(
            f"{self._run.run_dir}: interrupted after {done} of {self._iterations} iterations, "
            "with its state saved; run the same command again to go on."
        )

    def _end(
        self, status: Status, done: int, counters: Counters, last_line: dict[str, Any] | None
    ) -> RunResult:
        self._checkpoints.finish()  # `result.json` is written last of all
        counters = dataclasses.replace(counters, wall_seconds=self._wall_seconds())
        result = write_ending(
            self._records, self._units.manifest, status, done, counters, last_line
        )
        self._heartbeat.beat(
            status, step=done, wall_seconds=counters.wall_seconds, error=result.error
        )
        return result

    def _wall_seconds(self) -> float:
        return time.monotonic() - self._started


_INITIALISATION, _LAW_FITTING_NOISE = 0, 1
"""Streams that `seed` is split into."""


def _step_settings(run: StartedRun) -> StepSettings:
    config = run.config
    schedule = make_schedule(config.optimizer, iterations=config.training.iterations)
    if run.mechanism is not None and run.keys is not None:
        return StepSettings(run.mechanism.noisy_mean, schedule, noise_key(run.keys.noise))
    assert config.law_fitting is not None
    key = jax.random.fold_in(jax.random.key(config.seed), _LAW_FITTING_NOISE)
    return StepSettings(law_fitting_noisy_mean(config.clipping, config.law_fitting), schedule, key)
