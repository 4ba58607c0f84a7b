"""Sums in their own forms: a running total is what adding up arrays would give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.ops.sums import (
    Joined,
    SomeRows,
    Sum,
    Whole,
    added_up,
    as_sums,
    finished,
    nothing_like,
)

VOCAB, WIDTH = 5, 3
INDEX = jnp.asarray([[0, 2, 2], [4, VOCAB, -1]])  # one twice, two that do not exist


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def rows(seed: int) -> SomeRows:
    return SomeRows(INDEX, normal(seed, 2, 3, WIDTH), VOCAB)


def in_form(form: str, seed: int) -> Sum:
    whole = Whole(normal(seed, VOCAB, WIDTH))
    turned = Whole(normal(seed, WIDTH, VOCAB), is_turned=True)
    forms: dict[str, Sum] = {
        "whole": whole,
        "turned": turned,
        "rows": rows(seed),
        "joined": Joined(whole, rows(seed)),
        "joined-turned": Joined(turned, rows(seed)),
    }
    return forms[form]


def expected(form: str, seed: int) -> np.ndarray:
    """By NumPy, entry by entry, in float64."""
    array = np.zeros((VOCAB, WIDTH))
    if form in ("whole", "joined"):
        array += np.asarray(normal(seed, VOCAB, WIDTH))
    if form in ("turned", "joined-turned"):
        array += np.asarray(normal(seed, WIDTH, VOCAB)).T
    if form in ("rows", "joined", "joined-turned"):
        for number, row in zip(INDEX.ravel(), normal(seed, 6, WIDTH), strict=True):
            if 0 <= number < VOCAB:
                array[number] += row
    return array


FORMS = ["whole", "turned", "rows", "joined", "joined-turned"]


@pytest.mark.parametrize("form", FORMS)
def test_a_sum_takes_the_shape_of_its_parameter(form: str) -> None:
    # Catches: a swap too many or too few, a row that is clamped, or counts once instead of twice.
    np.testing.assert_allclose(in_form(form, 0).finished(), expected(form, 0), atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_running_total_is_the_sum(form: str) -> None:
    sums = [{"weight": in_form(form, seed)} for seed in range(3)]
    totals = nothing_like(jax.eval_shape(lambda: sums[0]))
    for one in sums:
        totals = added_up(one, totals, jnp.asarray(True))
    by_numpy = np.sum([expected(form, seed) for seed in range(3)], axis=0)
    np.testing.assert_allclose(finished(totals)["weight"], by_numpy, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_added_leaves_no_trace(form: str) -> None:
    # Catches: a microbatch that is run again, because of a NaN in it, and added all the same.
    one, bad = (
        in_form(form, 0),
        jax.tree.map(
            lambda leaf: leaf if leaf.dtype == INDEX.dtype else leaf * jnp.nan, in_form(form, 1)
        ),
    )
    total = added_up(one, nothing_like(one), jnp.asarray(True))
    after = added_up(bad, total, jnp.asarray(False))
    np.testing.assert_array_equal(finished(after), finished(total))


def test_plain_arrays_are_whole_sums() -> None:
    array, turned = normal(0, 2, 4), Whole(normal(1, 2, 4), is_turned=True)
    sums = as_sums({"plain": array, "turned": turned})
    assert sums["turned"] is turned
    assert {name: sum.shape for name, sum in finished(sums).items()} == {
        "plain": (2, 4),
        "turned": (4, 2),
    }


def test_only_a_turned_table_needs_two_arrays() -> None:
    # Memory: a table may be most of a model.
    assert len(jax.tree.leaves(in_form("joined", 0).nothing())) == 1
    assert len(jax.tree.leaves(in_form("joined-turned", 0).nothing())) == 2
