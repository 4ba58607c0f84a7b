"""What the memorization test says while a small model is overfitted without privacy.

    python analysis/memorization_overfit.py

Trains on units of random tokens, of which some occur 10 and one occurs 100 times, and tests the
model on the way. Nobody can guess random tokens: what matches was memorized. Takes about a minute.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpscale.config import ModelConfig
from dpscale.data.units import UnitArray
from dpscale.evaluation.memorization import MemorizationTest, measure_memorization
from dpscale.evaluation.memorization_rates import Rate
from dpscale.evaluation.memorization_report import MemorizationReport
from dpscale.inference.generation import Generator
from dpscale.model.decoder import init_params, per_example_loss

MODEL = ModelConfig(
    vocab_size=256,
    seq_len=100,
    num_layers=2,
    width=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    feed_forward_width=128,
)
COUNTS = np.array([1] * 100 + [10] * 10 + [100])
"""How often each distinct unit occurs."""
LEARNING_RATE, STEPS, TEST_AT, SEED = 0.01, 160, (0, 40, 80, 120, 160), 0


def unit_array(units: np.ndarray) -> UnitArray:
    """Units in memory, as a prepared folder would give them."""
    return UnitArray([units.astype(np.uint16)], units.shape[1])


def row(step: int, report: MemorizationReport) -> str:
    """A line of the table."""

    def cell(rate: Rate) -> str:
        return "-" if rate.rate is None else f"{rate.matches} of {rate.num_units}"

    once, _, often, most = (bucket.rates.exact for bucket in report.train_by_occurrences)
    compared = report.exact_comparison
    assert compared is not None
    cells = [cell(rate) for rate in (once, often, most, report.train.exact, report.held_out.exact)]
    interval = f"{compared.difference:.2f} [{compared.lower:.2f}, {compared.upper:.2f}]"
    return f"| {step} | {' | '.join(cells)} | {interval} | {compared.p_value:.1e} |"


def main() -> None:
    """Prints the table."""
    generator = np.random.default_rng(SEED)
    units = generator.integers(0, MODEL.vocab_size, (len(COUNTS), 101)).astype(np.int32)
    train = unit_array(np.repeat(units, COUNTS, axis=0))
    held_out = unit_array(generator.integers(0, MODEL.vocab_size, (300, 101)))
    optimizer = optax.adam(LEARNING_RATE)

    @jax.jit
    def train_step(params: Any, state: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            return jnp.sum(per_example_loss(MODEL, params, units) * COUNTS) / COUNTS.sum()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params = init_params(MODEL, jax.random.key(SEED))
    state = optimizer.init(params)
    print("| step | once | 10 times | 100 times | training | held out | difference | p |")
    print("|---|---|---|---|---|---|---|---|")
    for step in range(STEPS + 1):
        if step in TEST_AT:
            report = measure_memorization(
                Generator(MODEL, params), MemorizationTest(), train=train, held_out=held_out
            )
            print(row(step, report), flush=True)
        params, state = train_step(params, state)


if __name__ == "__main__":
    main()
