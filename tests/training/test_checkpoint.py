"""Saved states: what comes back is what was saved, to the bit, or it is refused."""

import dataclasses
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.config import RunConfig
from dpscale.errors import InputError
from dpscale.records import saved_step
from dpscale.training import checkpoint
from dpscale.training.checkpoint import Checkpoints, Counters, restore_params
from dpscale.training.step import TrainState, Window, init_state

COUNTERS = Counters(
    num_examples=7, num_truncated_batches=2, num_truncated_examples=3, wall_seconds=1.25
)


def state_at(config: RunConfig, step: int) -> TrainState:
    """A state with something in every part of it."""
    fresh = init_state(config.model, config.optimizer, jax.random.key(step))
    return dataclasses.replace(
        fresh,
        adam=jax.tree.map(lambda leaf: leaf + jnp.asarray(step, leaf.dtype), fresh.adam),
        step=jnp.int32(step),
        window=Window(*(jnp.float32(step + index / 3) for index in range(4))),
    )


@pytest.fixture
def config(configs: dict[str, RunConfig]) -> RunConfig:
    return configs["law-fitting"]


@pytest.fixture
def checkpoints(tmp_path: Path) -> Iterator[Checkpoints]:
    opened = Checkpoints(tmp_path, keep=2)
    yield opened
    opened.close()


def assert_equal(restored: tuple[TrainState, Counters] | None, expected: TrainState) -> None:
    assert restored is not None
    jax.tree.map(np.testing.assert_array_equal, restored[0], expected)


def saved_steps(run_dir: Path) -> set[str]:
    return {path.name for path in (run_dir / "checkpoints").iterdir()}


def spoil(run_dir: Path, step: int) -> None:
    """Changes one byte in the middle of the array data."""
    files = (run_dir / "checkpoints" / str(step) / "state").rglob("d/*")
    path = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_all_of_a_state_comes_back(
    config: RunConfig, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    # Catches: a window, a moment or a counter that is left out of the checkpoint.
    state = state_at(config, 3)
    checkpoints.save(state, COUNTERS)
    restored = checkpoints.restore_newest(state_at(config, 0))
    assert_equal(restored, state)
    assert restored is not None
    assert restored[1] == COUNTERS
    params = restore_params(tmp_path, config.model)
    jax.tree.map(np.testing.assert_array_equal, params, state.params)


def test_nothing_saved_is_none(config: RunConfig, checkpoints: Checkpoints) -> None:
    assert checkpoints.restore_newest(state_at(config, 0)) is None


def test_the_newest_are_kept(config: RunConfig, checkpoints: Checkpoints, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoints.save(state_at(config, step), COUNTERS)
    checkpoints.finish()
    checkpoints.save(state_at(config, 3), Counters())  # saved already: nothing happens
    checkpoints.finish()
    assert saved_steps(tmp_path) == {"2", "3"}
    restored = checkpoints.restore_newest(state_at(config, 0))
    assert_equal(restored, state_at(config, 3))
    assert restored is not None
    assert restored[1] == COUNTERS


def test_what_is_saved_is_the_state_as_it_was_whatever_the_next_steps_do(
    config: RunConfig, checkpoints: Checkpoints
) -> None:
    # Catches: steps that write into arrays which the background still reads.
    forward = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    state = state_at(config, 3)
    saved = jax.tree.map(np.array, state)
    checkpoints.save(state, COUNTERS)
    for _ in range(20):
        state = forward(state)
    jax.block_until_ready(state)
    assert_equal(checkpoints.restore_newest(state_at(config, 0)), saved)


def test_training_goes_on_while_a_save_is_written_and_the_next_save_waits_for_it(
    config: RunConfig, checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Catches: a save that blocks until it is on disk; one that counts before it is.
    may_end = threading.Event()

    def slow_checksums(folder: Path) -> dict[str, int]:
        assert may_end.wait(30)
        return checksums(folder)

    checksums = checkpoint._checksums
    monkeypatch.setattr(checkpoint, "_checksums", slow_checksums)
    checkpoints.save(state_at(config, 1), COUNTERS)
    assert saved_step(tmp_path) is None
    threading.Timer(0.3, may_end.set).start()
    checkpoints.save(state_at(config, 2), COUNTERS)
    assert saved_step(tmp_path) == 1
    checkpoints.finish()
    assert saved_step(tmp_path) == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_save_that_found_no_room_is_told_and_the_one_before_stays(
    config: RunConfig,
    checkpoints: Checkpoints,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    # Catches: an error of the background that nobody hears of.
    def fail() -> None:
        if threading.current_thread() is not threading.main_thread():
            raise ValueError(f"INTERNAL: Error writing [{os.strerror(number)}]")  # as tensorstore

    checkpoints.save(state_at(config, 1), COUNTERS)
    checkpoints.finish()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "wait_until_finished", fail)
        checkpoints.save(state_at(config, 2), COUNTERS)
        with pytest.raises(OSError, match=r"checkpoints") as error:
            checkpoints.save(state_at(config, 3), COUNTERS)
    assert error.value.errno == number
    assert saved_step(tmp_path) == 1
    assert_equal(checkpoints.restore_newest(state_at(config, 0)), state_at(config, 1))


def test_any_other_failure_of_a_save_is_told_as_it_is(
    config: RunConfig, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> dict[str, int]:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(checkpoint, "_checksums", fail)
    checkpoints.save(state_at(config, 1), COUNTERS)
    with pytest.raises(PermissionError):
        checkpoints.finish()
    checkpoints.finish()  # told once


def test_a_spoilt_one_is_removed_so_that_its_step_can_be_saved_again(
    config: RunConfig, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    # Catches: a damaged state that stays the newest for ever, because its step "is saved".
    for step in (1, 2):
        checkpoints.save(state_at(config, step), COUNTERS)
    checkpoints.finish()
    spoil(tmp_path, 2)
    assert_equal(checkpoints.restore_newest(state_at(config, 0)), state_at(config, 1))
    assert saved_steps(tmp_path) == {"1"}
    checkpoints.save(state_at(config, 2), COUNTERS)
    assert_equal(checkpoints.restore_newest(state_at(config, 0)), state_at(config, 2))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: next((folder / "counters").glob("metadata")).write_text("{}"),
        lambda folder: (folder / "checksums.json").write_text("{"),
        lambda folder: (folder / "state" / "manifest.ocdbt").unlink(),
        lambda folder: (folder / "state" / "another").touch(),
    ],
)
def test_damage_of_any_kind_is_noticed(
    damage: Callable[[Path], Any], config: RunConfig, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    checkpoints.save(state_at(config, 1), COUNTERS)
    checkpoints.finish()
    damage(tmp_path / "checkpoints" / "1")
    with pytest.raises(InputError, match=r"none of the checkpoints \[1\] can be read"):
        checkpoints.restore_newest(state_at(config, 0))


def test_a_save_that_was_killed_before_its_checksums_is_none(
    config: RunConfig, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    # Catches: a run that cannot go on because its first save was cut short.
    checkpoints.save(state_at(config, 1), COUNTERS)
    checkpoints.finish()
    (tmp_path / "checkpoints" / "1" / "checksums.json").unlink()
    again = Checkpoints(tmp_path, keep=2)
    assert again.restore_newest(state_at(config, 0)) is None
    again.save(state_at(config, 1), COUNTERS)
    assert_equal(again.restore_newest(state_at(config, 0)), state_at(config, 1))
    again.close()


def test_reading_only_touches_nothing(
    config: RunConfig, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    # Catches: `generate` that removes the half-written save of a run that is under way.
    for step in (1, 2):
        checkpoints.save(state_at(config, step), COUNTERS)
    checkpoints.finish()
    spoil(tmp_path, 2)
    (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir()
    params = restore_params(tmp_path, config.model)
    jax.tree.map(np.testing.assert_array_equal, params, state_at(config, 1).params)
    assert saved_steps(tmp_path) == {"1", "2", "3.orbax-checkpoint-tmp"}


def test_a_folder_without_checkpoints_is_named(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no checkpoint"):
        restore_params(tmp_path, config.model)
    assert list(tmp_path.iterdir()) == []
