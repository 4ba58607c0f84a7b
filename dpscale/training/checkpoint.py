"""Saved states of a run, by Orbax; a damaged one falls back to the one before.

Beside the train state a checkpoint holds `Counters`: what the host has counted up to there.
"""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from dpscale.config import build
from dpscale.errors import InputError
from dpscale.records import CHECKPOINTS_DIR
from dpscale.training.step import TrainState


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
      keep: How many of the newest are kept, at least 2.
    """

    def __init__(self, run_dir: Path, *, keep: int) -> None:
        folder = (run_dir / CHECKPOINTS_DIR).resolve()  # Orbax takes absolute paths only
        logging.getLogger("absl").setLevel(logging.ERROR)  # it logs every save at length
        self._manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=False
            ),
        )

    def save(self, state: TrainState, counters: Counters) -> None:
        """Saves the state under its step, unless that step is saved already."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                counters=ocp.args.JsonSave(dataclasses.asdict(counters)),
            ),
        )

    def restore_newest(
        self, like: TrainState, *, remove_damaged: bool = False
    ) -> tuple[TrainState, Counters] | None:
        """The newest state that can be read, or None when none is saved.

        Args:
          like: A state of the same shapes.
          remove_damaged: Whether a checkpoint that cannot be read is removed, so that a run
            that goes on from the one before can save its step again.

        Raises:
          InputError: Checkpoints are there, and none can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                return self._restore(step, like)
            except Exception as error:  # Orbax raises whatever its storage layers raise
                logging.getLogger("dpscale").warning(
                    "checkpoint %d cannot be read (%s); falling back.", step, type(error).__name__
                )
                if remove_damaged:
                    self._manager.delete(step)
        if steps:
            raise InputError(CHECKPOINTS_DIR, f"none of the checkpoints {steps} can be read.")
        return None

    def _restore(self, step: int, like: TrainState) -> tuple[TrainState, Counters]:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), counters=ocp.args.JsonRestore()
            ),
        )
        return restored.state, build(Counters, restored.counters, where=f"checkpoint {step}")

    def close(self) -> None:
        """Waits for what is being written, and lets go of it."""
        self._manager.close()


def restore_params(run_dir: Path, like: Any) -> Any:
    """The parameters in the newest readable checkpoint of a run.

    Args:
      like: A train state of the run's shapes.

    Raises:
      InputError: The folder holds no checkpoint that can be read.
    """
    checkpoints = Checkpoints(run_dir, keep=2)
    try:
        restored = checkpoints.restore_newest(like)
    finally:
        checkpoints.close()
    if restored is None:
        raise InputError(str(run_dir), "holds no checkpoint; expected the folder of a run.")
    return restored[0].params
