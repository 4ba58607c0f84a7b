"""Saved states of a run, by Orbax; a damaged one falls back to the one before.

Beside the train state a checkpoint holds `Counters`: what the host has counted up to there;
and a checksum of each of its files, checked before Orbax reads them. Orbax itself restores
most changed bytes of array data without a word, and files that were cut with pages of it.

Training goes on as soon as the state is copied from the devices; a thread waits until Orbax has
written the files, and adds the checksums. Hosts meet only in `finish`, in their main threads: a
collective in another thread could come between those of a step.
"""

import contextlib
import dataclasses
import logging
import os
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp

from dpscale.buckets.objects import object_checksums
from dpscale.config import ModelConfig
from dpscale.errors import NO_SPACE, InputError
from dpscale.files import read_json, write_json_atomically
from dpscale.model.decoder import Params, params_shapes
from dpscale.paths import absolute, is_on_bucket
from dpscale.records import CHECKPOINTS_DIR, CHECKSUMS_FILE
from dpscale.schema import build
from dpscale.training.hosts import agreed_by_first, is_first, raise_together, wait_for_all
from dpscale.training.step import TrainState

Restored = TypeVar("Restored")


@dataclass(frozen=True)
class Counters:
    """Host-side totals up to a checkpoint. NOT PRIVATE, but for `wall_seconds`.

    `num_truncated_batches` counts the steps whose Poisson batch was cut to the cap,
    `num_truncated_examples` the examples that were cut off.
    """

    num_examples: int = 0
    num_truncated_batches: int = 0
    num_truncated_examples: int = 0
    wall_seconds: float = 0.0


class Checkpoints:
    """The saved states in a run folder.

    Args:
      run_dir: The run's folder.
      keep: How many of the newest are kept, at least 2. None: for reading only; then nothing
        in the folder is touched, so that a running process may be writing there.
    """

    def __init__(self, run_dir: Path, *, keep: int | None) -> None:
        self._folder = absolute(run_dir / CHECKPOINTS_DIR)  # Orbax takes absolute paths only
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # it logs every save at length
        self._reads_only = keep is None
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=not self._reads_only,
                read_only=self._reads_only,
                cleanup_tmp_directories=not self._reads_only,  # of a save that was killed
                enable_async_checkpointing=not self._reads_only,
            ),
        )
        self._writing: threading.Thread | None = None
        self._failure: Exception | None = None
        if not self._reads_only:
            for step in sorted(set(self._manager.all_steps()) - set(self._finished_steps())):
                self._manager.delete(step)  # killed at the end of its save
        wait_for_all("checkpoints are open")

    def save(self, state: TrainState, counters: Counters) -> None:
        """Starts to save the state under its step, unless that step is saved already.

        Returns once the state is copied, so that its arrays may be given to the next step; the
        save before is finished then.

        Raises:
          OSError: The save before failed for want of room.
        """
        self._start_to_save(int(state.step), state, counters)

    def save_params(self, params: Params) -> None:
        """Saves parameters alone, which no training run can go on from, under step 0."""
        self._start_to_save(0, {"params": params}, Counters())
        self.finish()

    def finish(self) -> None:
        """Returns when all that was saved is on disk, on all hosts; all of them call it.

        Raises:
          OSError: There was no room for it. What was saved before is still there.
        """
        if self._writing is None:
            return
        self._writing.join()
        self._writing = None
        failure, self._failure = self._failure, None
        raise_together(None if failure is None else _explained(failure, self._folder))

    def _start_to_save(self, step: int, state: Any, counters: Counters) -> None:
        self.finish()
        if step in self._finished_steps():
            return
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    counters=ocp.args.JsonSave(dataclasses.asdict(counters)),
                ),
            )
        except Exception as error:
            raise _explained(error, self._folder) from error
        self._writing = threading.Thread(target=self._wait_and_mark, args=(step,))
        self._writing.start()

    def _wait_and_mark(self, step: int) -> None:
        """Marks a save as finished once it is; in a thread of its own."""
        try:
            self._manager.wait_until_finished()
            if is_first():
                saved = self._folder / str(step)
                write_json_atomically(saved / CHECKSUMS_FILE, _checksums(saved))
        except Exception as error:  # told by `finish`
            self._failure = error

    def restore_newest(self, like: TrainState) -> tuple[TrainState, Counters] | None:
        """The newest state that can be read, or None when none is saved.

        Newer ones that cannot be read are removed (unless opened for reading only), so that
        a run that goes on from here can save their steps again. Where none can be read, all
        stay as they are.

        Args:
          like: A state of the same shapes.

        Raises:
          InputError: Checkpoints are there, and none can be read.
        """
        return self._newest_readable(lambda step: self._restore(step, like))

    def restore_newest_params(self, like: Params) -> Params | None:
        """As `restore_newest`, for the parameters alone: nothing else is read into memory."""
        return self._newest_readable(lambda step: self._restore_params(step, like))

    def _newest_readable(self, restore: Callable[[int], Restored]) -> Restored | None:
        self.finish()
        damaged: list[int] = []
        for step in sorted(self._finished_steps(), reverse=True):
            try:
                restored = restore(step)
            except Exception as error:  # Orbax raises whatever its storage layers raise
                logging.getLogger("dpscale").warning(
                    "checkpoint %d cannot be read (%s); falling back.", step, type(error).__name__
                )
                damaged.append(step)
                continue
            if not self._reads_only:
                for newer in damaged:
                    self._manager.delete(newer)
            return restored
        if damaged:
            raise InputError(
                str(self._folder),
                f"none of the checkpoints {damaged} can be read; put one back from a copy, or "
                "start over in another folder.",
            )
        return None

    def _finished_steps(self) -> list[int]:
        steps = self._manager.all_steps()
        return [step for step in steps if (self._folder / str(step) / CHECKSUMS_FILE).exists()]

    def _restore(self, step: int, like: TrainState) -> tuple[TrainState, Counters]:
        self._check(step)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), counters=ocp.args.JsonRestore()
            ),
        )
        return restored.state, build(Counters, restored.counters, where=f"checkpoint {step}")

    def _restore_params(self, step: int, like: Params) -> Params:
        """One array at a time: all at once, Orbax holds half as much again while it reads."""
        self._check(step)
        params: Params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: self._restore_array(step, [key.key for key in path], leaf), like
        )
        return params

    def _restore_array(self, step: int, names: list[str], like: jax.ShapeDtypeStruct) -> Any:
        wanted: Any = ocp.utils.to_shape_dtype_struct(like)
        for name in reversed(["params", *names]):
            wanted = {name: wanted}
        arguments = ocp.args.PyTreeRestore(
            wanted,
            restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
            partial_restore=True,
        )
        restored = self._manager.restore(step, args=ocp.args.Composite(state=arguments))
        return jax.tree.leaves(restored.state)[0]

    def _check(self, step: int) -> None:
        """The first host reads the files, and all raise or none."""
        saved = self._folder / str(step)
        is_intact = is_first() and _checksums(saved) == read_json(saved / CHECKSUMS_FILE)
        if not agreed_by_first(is_intact):
            raise InputError(f"checkpoint {step}", "its files are not as they were saved.")

    def close(self) -> None:
        """Waits for what is being written, and lets go of it; `finish` tells whether it was."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        with contextlib.suppress(Exception):  # of a save that has failed: told already
            self._manager.close()


def restore_params(run_dir: Path, model: ModelConfig) -> Params:
    """The parameters in the newest readable checkpoint of a run or an imported model.

    Raises:
      InputError: The folder holds no checkpoint that can be read.
    """
    if not (run_dir / CHECKPOINTS_DIR).is_dir():
        raise InputError(str(run_dir), "holds no checkpoint; expected the folder of a run.")
    checkpoints = Checkpoints(run_dir, keep=None)
    try:
        params = checkpoints.restore_newest_params(params_shapes(model))
    finally:
        checkpoints.close()
    if params is None:
        raise InputError(str(run_dir), "holds no checkpoint yet; let the run get that far.")
    return params


def _explained(error: Exception, folder: Path) -> Exception:
    """What Orbax's storage layers say of a full disk, as the error of the system that it was."""
    for number in NO_SPACE:
        if os.strerror(number) in str(error):
            return OSError(number, os.strerror(number), str(folder))
    return error


def _checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of each file below a folder, but of the checksums themselves; some 5 GB a second.

    On a bucket the CRC-32C that the storage keeps of each object and holds its bytes to.
    """
    if is_on_bucket(folder):
        checksums = object_checksums(folder)
        checksums.pop(CHECKSUMS_FILE, None)
        return checksums
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): _crc32(path)
        for path in paths
        if path.name != CHECKSUMS_FILE
    }


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum
