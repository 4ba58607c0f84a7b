"""The memorization test on models that did and did not memorize."""

import json

import numpy as np
import pytest

from dpscale.data.units import UnitArray
from dpscale.errors import InputError
from dpscale.evaluation import memorization
from dpscale.evaluation.memorization import (
    MemorizationTest,
    continuation_distances,
    drawn_texts,
    measure_memorization,
)
from dpscale.evaluation.memorization_report import ContinuedUnits, report
from dpscale.inference.generation import Generator
from dpscale.inference.scoring import Scorer


def measured(overfitted, params, **changes):
    return measure_memorization(
        Generator(overfitted.model, params),
        MemorizationTest(),
        train=changes.get("train", overfitted.train),
        held_out=changes.get("held_out", overfitted.held_out),
    )


def units(rows):
    return UnitArray([np.array(rows, np.uint16)], len(rows[0]))


def test_an_overfitted_model_lights_it_up(overfitted):
    """Catches a prompt, a continuation or a comparison that is off by a token: all would fail."""
    found = measured(overfitted, overfitted.late)
    num_train = overfitted.num_once + overfitted.num_often * overfitted.repeats
    assert (found.train.exact.matches, found.train.exact.num_units) == (num_train, num_train)
    assert (found.held_out.exact.matches, found.held_out.exact.num_units) == (0, 30)
    assert found.held_out.approximate.matches == 0
    assert found.exact_comparison.p_value < 1e-15
    assert found.exact_comparison.lower > 0.8


def test_units_that_occur_more_often_are_memorized_first(overfitted):
    """Catches rates in the wrong bucket, and units of different buckets taken together."""
    found = measured(overfitted, overfitted.early)
    once, few, often, most = found.train_by_occurrences
    assert [bucket.label for bucket in (once, few, often, most)] == ["1", "2-9", "10-99", "100+"]
    num_often = overfitted.num_often * overfitted.repeats
    assert (often.rates.exact.matches, often.rates.exact.num_units) == (num_often, num_often)
    assert once.rates.exact.num_units == overfitted.num_once
    assert once.rates.approximate.matches < overfitted.num_once / 2
    assert few.rates.exact.num_units == most.rates.exact.num_units == 0


def test_a_fresh_model_shows_nothing_and_says_what_that_allows(overfitted):
    """Catches matches out of nowhere, such as a text that is compared with itself."""
    found = measured(overfitted, overfitted.fresh)
    num_train = found.train.exact.num_units
    assert found.train.approximate.matches == 0
    assert found.train.exact.upper == pytest.approx(1 - 0.025 ** (1 / num_train))
    assert found.exact_comparison.p_value == pytest.approx(1.0)


def test_distances_are_those_of_greedy_texts(overfitted, monkeypatch):
    """Catches a match that greedy decoding would not give, and a last batch that mixes rows."""
    monkeypatch.setattr(memorization, "_BATCH_SIZE", 4)
    texts = overfitted.train.gather(np.arange(14))[:, :60]
    test = MemorizationTest(prefix_tokens=50, continuation_tokens=10)
    done = []
    found = continuation_distances(
        Generator(overfitted.model, overfitted.early), texts, test, on_done=done.append
    )
    scores = Scorer(overfitted.model, overfitted.early).score(texts.tolist())
    is_exact = [bool(score.is_likeliest[49:].all()) for score in scores]
    assert (found == 0).tolist() == is_exact
    assert any(is_exact)
    assert not all(is_exact)
    assert done == [4, 8, 12, 14]


def test_held_out_texts_that_occur_in_training_are_no_control(overfitted):
    """Catches a leak of training units into the control, which would hide memorization."""
    leaked = np.concatenate(
        [overfitted.held_out.gather(np.arange(5)), overfitted.train.gather(np.arange(3))]
    )
    found = measured(overfitted, overfitted.late, held_out=units(leaked))
    assert (found.held_out.exact.matches, found.held_out.exact.num_units) == (0, 5)
    apart = found.held_out_in_training.exact
    assert (apart.matches, apart.num_units) == (3, 3)


def test_without_held_out_units_nothing_is_compared(overfitted):
    """Catches a comparison with a control that does not exist."""
    found = measured(overfitted, overfitted.fresh, held_out=UnitArray([], 101))
    assert found.held_out.exact.rate is None
    assert found.exact_comparison is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_tenth_of_the_length_still_matches_and_no_more():
    """Catches < for <=, and a tenth of prefix and continuation together."""
    side = ContinuedUnits(np.array([0, 5, 6, 10, 50]), np.ones(5, np.int64))
    found = report(
        train=side, held_out=side, prefix_tokens=50, continuation_tokens=50, seed=0
    ).train
    assert (found.exact.matches, found.approximate.matches) == (1, 2)


@pytest.mark.parametrize(
    ("occurrences", "expected"),
    [
        (1, (1, 0, 0, 0)),
        (2, (0, 1, 0, 0)),
        (9, (0, 1, 0, 0)),
        (10, (0, 0, 1, 0)),
        (99, (0, 0, 1, 0)),
        (100, (0, 0, 0, 1)),
        (10**6, (0, 0, 0, 1)),
    ],
)
def test_buckets_end_where_they_say(occurrences, expected):
    """Catches a number of occurrences that falls into no bucket, or into two."""
    side = ContinuedUnits(np.zeros(1, np.int32), np.array([occurrences]))
    found = report(train=side, held_out=side, prefix_tokens=1, continuation_tokens=1, seed=0)
    buckets = found.train_by_occurrences
    assert tuple(bucket.rates.exact.num_units for bucket in buckets) == expected


def test_the_draw_is_uniform_without_replacement_and_follows_its_seed():
    """Catches a draw that takes the first units, repeats some, or ignores the seed."""
    rows = units([[index, 0] for index in range(50)])

    def drawn(seed, side=0):
        test = MemorizationTest(num_units=10, prefix_tokens=1, continuation_tokens=1, seed=seed)
        return drawn_texts(rows, test, side=side)[:, 0].tolist()

    assert drawn(3) == drawn(3) != drawn(4)
    assert drawn(3) != drawn(3, side=1)
    counts = np.bincount(np.concatenate([drawn(seed) for seed in range(1000)]), minlength=50)
    assert all(len(set(drawn(seed))) == 10 for seed in range(20))
    # Each unit is drawn with probability 1/5: 200 of 1000 times, deviation 12.6; six of them.
    assert (np.abs(counts - 200) < 76).all()


def test_units_that_are_too_short_are_refused_with_values_that_fit(overfitted):
    """Catches a comparison with tokens that are not there."""
    generator = Generator(overfitted.model, overfitted.fresh)
    short = units([[1, 2, 3, 4, 5]])
    with pytest.raises(InputError, match="--prefix-tokens 2 --continuation-tokens 3") as refused:
        measure_memorization(generator, MemorizationTest(), train=short, held_out=short)
    assert "\n" not in str(refused.value)
    fits = MemorizationTest(prefix_tokens=2, continuation_tokens=3)
    found = measure_memorization(generator, fits, train=short, held_out=short)
    assert found.train.exact.num_units == 1


@pytest.mark.parametrize("name", ["num_units", "prefix_tokens", "continuation_tokens"])
def test_settings_out_of_range_are_refused(name):
    """Catches an empty prompt, or a comparison of nothing, which always matches."""
    with pytest.raises(InputError, match="--" + name.replace("_", "-")):
        MemorizationTest(**{name: 0})
