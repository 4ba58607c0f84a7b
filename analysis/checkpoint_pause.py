"""What a checkpoint costs the training loop: written in the background, or waited for.

    python analysis/checkpoint_pause.py --shape w256 --steps 100 --rounds 5

Three blocks of steps a round, one after the other in one process: without a save, with one that
is written while training goes on, and with one that is waited for. A save comes in the middle of
its block, so that its writing falls into the block too.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dpscale.runtime import prepare_process

SEQ_LEN, VOCAB_SIZE, BATCH = 64, 8192, 8


def main(shape: str, steps: int, rounds: int) -> None:
    """Prints a line a round, then medians."""
    prepare_process()
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dpscale.compute import count_params
    from dpscale.config import ClippingConfig, LawFittingConfig, MeshConfig, OptimizerConfig
    from dpscale.privacy.mechanism import law_fitting_noisy_mean
    from dpscale.sizes import named_shape
    from dpscale.training.checkpoint import Checkpoints, Counters
    from dpscale.training.optimizer import make_schedule
    from dpscale.training.placement import Placement
    from dpscale.training.step import StepSettings, init_state, make_train_step

    model = named_shape(shape, vocab_size=VOCAB_SIZE, seq_len=SEQ_LEN)
    optimizer = OptimizerConfig(learning_rate=0.01)
    clipping = ClippingConfig(microbatch_size=BATCH, strategy="bookkeeping", norm_rule="auto")
    step = make_train_step(model, optimizer, clipping, Placement.of(MeshConfig(), model))
    settings = StepSettings(
        law_fitting_noisy_mean(clipping, LawFittingConfig(BATCH, 1e-3)),
        make_schedule(optimizer, iterations=10_000),
        jax.random.key(0),
    )
    tokens = jnp.asarray(
        np.random.default_rng(0).integers(0, VOCAB_SIZE, (BATCH, SEQ_LEN + 1)), jnp.int32
    )
    is_padding = jnp.zeros(BATCH, bool)
    state = init_state(model, optimizer, jax.random.key(1))

    def block(save: Callable[[], None]) -> tuple[float, float]:
        """Seconds of a block of steps, and of the save in it."""
        nonlocal state
        started, pause = time.perf_counter(), 0.0
        for number in range(steps):
            state = step(state, tokens, is_padding, settings)
            jax.block_until_ready(state)
            if number == steps // 2:
                before = time.perf_counter()
                save()
                pause = time.perf_counter() - before
        return time.perf_counter() - started, pause

    params = count_params(model).total
    print(f"{shape}: {params:,} parameters, {12 * params / 1e6:.0f} MB a checkpoint", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), keep=2)

        def start_to_save() -> None:
            checkpoints.save(state, Counters())

        def save_and_wait() -> None:
            checkpoints.save(state, Counters())
            checkpoints.finish()

        block(save_and_wait)  # compiles, and warms the disk up
        for _ in range(rounds):
            plain, _ = block(lambda: None)
            background, pause = block(start_to_save)
            checkpoints.finish()
            waited, wait = block(save_and_wait)
            rows.append((plain, pause / plain, background / plain, wait / plain, waited / plain))
            print("  ".join(f"{value:.4f}" for value in rows[-1]), flush=True)
        checkpoints.close()
    names = ("seconds", "pause", "whole", "pause if waited for", "whole if waited for")
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        print(f"{name}: {median:.4f} [{low:.4f}, {high:.4f}]")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="w256")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    main(**vars(parser.parse_args()))
