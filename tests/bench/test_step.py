"""The batches of the whole step, and a real measurement of a minuscule one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.bench.draws import Draws, default_cap
from dpscale.bench.programs import some_tokens
from dpscale.bench.shapes import Shape
from dpscale.bench.step import StepReport, measure_step
from dpscale.bench.step_parts import StepParts
from dpscale.bench.timing import Ratio, Stopwatch
from dpscale.config import ClippingConfig, OptimizerConfig
from dpscale.model.decoder import per_example_loss

CLIPPING = ClippingConfig(strategy="bookkeeping", norm_rule="gram", microbatch_size=2)
OPTIMIZER = OptimizerConfig(learning_rate=1e-3)


@pytest.fixture(scope="module")
def draws(minuscule: Shape) -> Draws:
    units = (
        np.arange(400, dtype=np.int32)[:, None]
        % 32
        * np.ones(minuscule.model.seq_len + 1, np.int32)
    )
    return Draws.of(
        units,
        expected_batch_size=5,
        truncated_batch_size=9,
        microbatch_size=2,
        rounds=300,
        seed=3,
    )


def test_private_batches_are_poisson_and_truncated(draws: Draws) -> None:
    sizes = np.array([len(drawn) for drawn in draws.poisson])
    assert sizes.max() == 9
    assert sizes.mean() == pytest.approx(5, abs=0.4)  # three standard deviations of the mean
    assert len(set(sizes)) > 5
    assert draws.slots == 10


def test_padding_is_behind_the_examples_that_were_drawn(draws: Draws) -> None:
    for index in range(5):
        tokens, is_padding = draws.poisson_batch(index)
        count = len(draws.poisson[index])
        assert tokens.shape[0] == 10
        np.testing.assert_array_equal(tokens[:count], draws.units[draws.poisson[index]])
        np.testing.assert_array_equal(is_padding, [False] * count + [True] * (10 - count))


def test_the_non_private_step_meets_the_same_examples_in_a_batch_of_the_expected_size(
    draws: Draws,
) -> None:
    for drawn, fixed in zip(draws.poisson, draws.fixed, strict=True):
        assert len(set(fixed)) == len(fixed) == 5
        common = min(5, len(drawn))
        np.testing.assert_array_equal(fixed[:common], drawn[:common])
    tokens, is_padding = draws.fixed_batch(0, 4)
    assert (tokens.shape[0], int(np.sum(~is_padding))) == (8, 5)


def test_the_default_cap_is_five_standard_deviations_up() -> None:
    # Of a binomial with a small probability, whose variance is nearly its mean.
    assert [default_cap(size) for size in (1, 100, 10_000)] == [6, 150, 10_500]


@pytest.fixture(scope="module")
def one_draw(minuscule: Shape) -> Draws:
    return Draws.of(
        some_tokens(minuscule.model, 320, seed=0),
        expected_batch_size=5,
        truncated_batch_size=default_cap(5),
        microbatch_size=2,
        rounds=1,
        seed=0,
    )


def test_a_step_is_what_its_parts_do_in_turn(minuscule: Shape, one_draw: Draws) -> None:
    # Catches: a part that leaves out work, so that its share looks small.
    parts = StepParts(minuscule, CLIPPING, OPTIMIZER, one_draw, seed=0)
    parts.mean_grad = parts.gradient()(0).total  # type: ignore[attr-defined]
    parts.noise()(0)
    parts.optimizer()(0)
    state = StepParts(minuscule, CLIPPING, OPTIMIZER, one_draw, seed=0).private_step()(0)
    assert_equal(parts.adam_state.mu, state.adam.mu)  # type: ignore[attr-defined]
    assert_equal(parts.params, state.params)  # type: ignore[attr-defined]


def test_the_non_private_step_takes_the_mean_gradient_of_its_batch(
    minuscule: Shape, one_draw: Draws
) -> None:
    parts = StepParts(minuscule, CLIPPING, OPTIMIZER, one_draw, seed=0)
    tokens = jnp.asarray(one_draw.units[one_draw.fixed[0]])
    mean_grad = jax.grad(
        lambda params: jnp.mean(per_example_loss(minuscule.model, params, tokens))
    )(parts.params)
    parts.non_private_step(2)(0)
    assert_equal(parts.adam_state.mu, jax.tree.map(lambda leaf: 0.1 * leaf, mean_grad))


def assert_equal(one: Any, other: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, other)


def test_a_minuscule_step_is_measured(minuscule: Shape, stopwatch: Stopwatch) -> None:
    report = measure_step(minuscule, CLIPPING, OPTIMIZER, stopwatch, rounds=2, seed=0)
    assert report is not None
    assert report.is_complete
    assert report.rounds == len(report.drawn) == 2
    assert report.baseline_microbatch_size in (1, 2, 4, 5)
    assert all(share > 0 for share in report.shares.values())
    answer = report.to_dict()
    assert answer["mean_drawn"] == sum(report.drawn) / 2
    assert answer["time_ratio"]["median"] == report.time_ratio.median
    # The ratio of the sums is a mean of the two rounds' ratios, which the quartiles give.
    beyond = (report.time_ratio.q75 - report.time_ratio.q25) / 2
    least, most = report.time_ratio.q25 - beyond, report.time_ratio.q75 + beyond
    assert least * 0.999 <= report.time_ratio_in_all <= most * 1.001


def test_the_ratio_for_each_example_takes_the_size_of_the_draw_into_account() -> None:
    ratio = Ratio(1.0, 1.0, 1.0)
    report = StepReport(
        shape=Shape("s", None, 4),  # type: ignore[arg-type]
        clipping=CLIPPING,
        baseline_microbatch_size=2,
        rounds=2,
        private_seconds=4.0,
        non_private_seconds=2.0,
        time_ratio=ratio,
        time_ratio_per_example=ratio,
        time_ratio_in_all=1.0,
        drawn=[3, 7],
        slots=8,
        gradient_seconds=3.0,
        noise_seconds=0.5,
        optimizer_seconds=0.25,
        is_complete=True,
    )
    assert report.mean_drawn == 5
    assert report.shares == {"gradient": 0.75, "noise": 0.125, "optimizer": 0.0625}
