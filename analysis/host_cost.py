"""What it costs to train on two processes instead of one: the same step, the same devices.

    python analysis/host_cost.py --shape w64 --shape w256 --rounds 10

On one side a process with two CPU devices, on the other two processes with one device each, which
talk over loopback (gloo); both sides hold two cores. They take turns: while one side takes its
steps, the other waits. Times are those of the first process.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys

STEPS, SEQ_LEN, VOCAB_SIZE, BATCH = 10, 64, 1024, 16


def work(shape: str, place: list[str]) -> None:
    """One process: takes some steps whenever a line comes in, and says how long one took."""
    import time

    import jax
    import numpy as np

    from dpscale.config import ClippingConfig, LawFittingConfig, MeshConfig, OptimizerConfig
    from dpscale.privacy.mechanism import law_fitting_noisy_mean
    from dpscale.sizes import named_shape
    from dpscale.training.hosts import Hosts, is_first, join
    from dpscale.training.optimizer import make_schedule
    from dpscale.training.placement import Placement
    from dpscale.training.step import StepSettings, init_state, make_train_step, state_shapes

    if place:
        join(Hosts(coordinator=place[0], num_hosts=2, host_index=int(place[1])))
    model = named_shape(shape, vocab_size=VOCAB_SIZE, seq_len=SEQ_LEN)
    optimizer = OptimizerConfig(learning_rate=0.01)
    clipping = ClippingConfig(microbatch_size=BATCH, strategy="bookkeeping", norm_rule="auto")
    placement = Placement.of(MeshConfig(), model)
    step = make_train_step(model, optimizer, clipping, placement)
    settings = placement.put_whole(
        StepSettings(
            law_fitting_noisy_mean(clipping, LawFittingConfig(BATCH, 1e-3)),
            make_schedule(optimizer, iterations=10_000),
            jax.random.key(0),
        )
    )
    shardings = placement.of_state(state_shapes(model, optimizer))
    start = jax.jit(init_state, static_argnums=(0, 1), out_shardings=shardings)
    state = start(model, optimizer, jax.random.key(1))
    rows = np.random.default_rng(0).integers(0, VOCAB_SIZE, (BATCH, SEQ_LEN + 1))
    tokens = placement.put_examples(rows.astype(np.int32))
    is_padding = placement.put_examples(np.zeros(BATCH, bool))
    for _ in sys.stdin:
        started = time.perf_counter()
        for _ in range(STEPS):
            state = step(state, tokens, is_padding, settings)
            jax.block_until_ready(state)
        if is_first():
            print((time.perf_counter() - started) / STEPS, flush=True)


class Side:
    """The processes of one side, which run when they are asked."""

    def __init__(self, shape: str, num_processes: int) -> None:
        place = [""]
        if num_processes > 1:
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                address = f"127.0.0.1:{listener.getsockname()[1]}"
            place = [f"{address} {index}" for index in range(num_processes)]
        devices = f"--xla_force_host_platform_device_count={2 // num_processes}"
        self._processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--work", shape, *words.split()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"XLA_FLAGS": devices, "JAX_PLATFORMS": "cpu"},
                text=True,
            )
            for words in place
        ]

    def seconds(self) -> float:
        """Of one step."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        out = self._processes[0].stdout
        assert out is not None
        while True:
            line = out.readline()
            try:
                return float(json.loads(line))
            except ValueError:
                if not line:
                    raise RuntimeError("Expected a time, and the process has gone.") from None

    def end(self) -> None:
        """Lets the processes go."""
        for process in self._processes:
            process.kill()
            process.wait()


def compare(shape: str, rounds: int) -> str:
    """A line: step times of both sides, and the median of their ratio."""
    one, two = Side(shape, 1), Side(shape, 2)
    one.seconds(), two.seconds()  # compile
    pairs = [(one.seconds(), two.seconds()) for _ in range(rounds)]
    one.end(), two.end()
    ratios = statistics.quantiles([b / a for a, b in pairs], n=4, method="inclusive")
    alone, both = (1e3 * statistics.median(side) for side in zip(*pairs, strict=True))
    return (
        f"{shape}: {alone:.1f} ms on one process, {both:.1f} ms on two: "
        f"{ratios[1]:.3f} [{ratios[0]:.3f}, {ratios[2]:.3f}]"
    )


def main() -> None:
    """Prints a line a shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", action="append")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work[0], options.work[1:])
        return
    for shape in options.shape or ["w64", "w256"]:
        print(compare(shape, options.rounds), flush=True)


if __name__ == "__main__":
    main()
