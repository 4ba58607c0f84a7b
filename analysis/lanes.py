"""What it saves on a CPU to compute a microbatch in two lanes side by side.

    python analysis/lanes.py --shape tiny --microbatch-size 16 --rounds 20

Times of the non-private gradient and of bookkeeping, each in one lane and in two, to that of the
non-private one in one lane: interleaved round by round in one process, medians and quartiles.
"""

import argparse
from random import Random

from dpscale.runtime import prepare_process

prepare_process()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from dpscale.bench.candidates import Candidate  # noqa: E402
from dpscale.bench.programs import (  # noqa: E402
    Gradient,
    Workbench,
    finished,
    non_private_gradient,
    private_gradient,
)
from dpscale.bench.shapes import shape_called  # noqa: E402
from dpscale.bench.timing import Call, Ratio, Stopwatch  # noqa: E402
from dpscale.training.interruption import StopRequest  # noqa: E402

L2_CLIP_NORM = 1.0


def compiled(gradient: Gradient, bench: Workbench) -> Call:
    """The gradient of the whole batch, as a call that returns when it is there."""
    tokens = jnp.asarray(bench.tokens_BxS1)
    arguments = (bench.params, tokens, jnp.zeros(len(tokens), bool), jnp.float32(L2_CLIP_NORM))
    run = jax.jit(gradient).lower(*arguments).compile()
    finished(run(*arguments))
    return lambda _: finished(run(*arguments))


def main() -> None:
    """Prints one line a program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="tiny", help="tiny, small, wide, or w32 and the like")
    parser.add_argument("--microbatch-size", type=int, default=16, help="a divisor of the batch")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    bench = Workbench.of(shape_called(options.shape), 0)
    model, size = bench.shape.model, options.microbatch_size
    bookkeeping = Candidate("bookkeeping", "auto", size)
    calls = {}
    for lanes in (1, 2):
        non_private = non_private_gradient(model, size, lanes=lanes)
        private = private_gradient(model, bookkeeping, rescale_to_unit_norm=True, lanes=lanes)
        calls["non-private", lanes] = compiled(non_private, bench)
        calls["bookkeeping", lanes] = compiled(private, bench)
    seconds = Stopwatch(Random(0), StopRequest()).rounds(calls, options.rounds)
    for (name, lanes), times in seconds.items():
        print(f"{name}, {lanes} of {size}: {Ratio.of(times, seconds['non-private', 1])}")


if __name__ == "__main__":
    main()
