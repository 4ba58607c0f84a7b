"""Saved states of a run, by Orbax; a damaged one falls back to the one before.

Beside the train state a checkpoint holds `Counters`: what the host has counted up to there;
and a checksum over both. Orbax notices missing and cut files, but of the array data not
every changed byte: a run would go on from other parameters without a word.
"""

import dataclasses
import json
import logging
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from dpscale.config import RunConfig
from dpscale.errors import InputError
from dpscale.records import CHECKPOINTS_DIR
from dpscale.schema import build
from dpscale.training.step import TrainState, init_state


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
        folder = (run_dir / CHECKPOINTS_DIR).resolve()  # Orbax takes absolute paths only
        logging.getLogger("absl").setLevel(logging.ERROR)  # it logs every save at length
        self._reads_only = keep is None
        self._manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=not self._reads_only,
                read_only=self._reads_only,
                cleanup_tmp_directories=not self._reads_only,  # of a save that was killed
                enable_async_checkpointing=False,
            ),
        )

    def save(self, state: TrainState, counters: Counters) -> None:
        """Saves the state under its step, unless that step is saved already."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        record = {
            "counters": dataclasses.asdict(counters),
            "checksum": _checksum(state, counters),
        }
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), record=ocp.args.JsonSave(record)
            ),
        )

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
        damaged: list[int] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._restore(step, like)
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
                str(self._manager.directory),
                f"none of the checkpoints {damaged} can be read; put one back from a copy, or "
                "start over in another folder.",
            )
        return None

    def _restore(self, step: int, like: TrainState) -> tuple[TrainState, Counters]:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), record=ocp.args.JsonRestore()
            ),
        )
        where = f"checkpoint {step}"
        counters = build(Counters, restored.record["counters"], where=where)
        if _checksum(restored.state, counters) != restored.record["checksum"]:
            raise InputError(where, "its checksum does not fit its contents.")
        return restored.state, counters

    def close(self) -> None:
        """Waits for what is being written, and lets go of it."""
        self._manager.close()


def restore_params(run_dir: Path, config: RunConfig) -> Any:
    """The parameters in the newest readable checkpoint of a run.

    Raises:
      InputError: The folder holds no checkpoint that can be read.
    """
    if not (run_dir / CHECKPOINTS_DIR).is_dir():
        raise InputError(str(run_dir), "holds no checkpoint; expected the folder of a run.")
    like = jax.eval_shape(
        lambda: init_state(config.model, config.optimizer, jax.random.key(config.seed))
    )
    checkpoints = Checkpoints(run_dir, keep=None)
    try:
        restored = checkpoints.restore_newest(like)
    finally:
        checkpoints.close()
    if restored is None:
        raise InputError(str(run_dir), "holds no checkpoint yet; let the run get that far.")
    return restored[0].params


def _checksum(state: TrainState, counters: Counters) -> int:
    """CRC-32 of everything that a checkpoint holds: some 5 GB a second."""
    checksum = zlib.crc32(json.dumps(dataclasses.asdict(counters), sort_keys=True).encode())
    for leaf in jax.tree.leaves(state):
        checksum = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data, checksum)
    return checksum
