"""Loss and bits per byte, against the loss of training and against sums by hand."""

import math

import jax
import numpy as np
import pytest

from dpscale.data.units import UnitArray, open_units
from dpscale.errors import InputError
from dpscale.evaluation.held_out import measure_held_out, ratio
from dpscale.inference.scoring import Scorer
from dpscale.model.decoder import init_params
from dpscale.training.evaluate import make_eval_loss


@pytest.fixture(scope="module")
def units(prepared):
    return open_units(prepared)


@pytest.fixture(scope="module")
def model(make_config):
    return make_config().model


@pytest.fixture(scope="module")
def params(model):
    return init_params(model, jax.random.key(3))


def test_the_loss_is_that_of_training(units, model, params):
    """Catches other units, another mean, or another loss than a run reports."""
    found = measure_held_out(Scorer(model, params), units.tokenizer(), units.eval, num_units=20)
    expected = make_eval_loss(model, units.eval, num_units=20, chunk_size=8)(params)
    assert found.loss.value == pytest.approx(expected, rel=1e-6)
    assert (found.num_units, found.num_tokens) == (20, 20 * model.seq_len)


def test_bits_per_byte_are_the_same_nats_over_the_text_s_bytes(units, model, params):
    """Catches bytes of tokens that were given, and nats that are taken for bits."""
    tokenizer = units.tokenizer()
    scorer = Scorer(model, params)
    found = measure_held_out(scorer, tokenizer, units.eval, num_units=5)
    tokens = units.eval.gather(np.linspace(0, len(units.eval) - 1, 5).round().astype(np.int64))
    nats = -sum(float(score.log_probs.sum()) for score in scorer.score(tokens.tolist()))
    # Behind a letter every piece decodes to all of its text, a space at its beginning included.
    letter = tokenizer.encode("a").tolist()
    before = len(tokenizer.decode(letter))
    num_bytes = sum(
        len(tokenizer.decode([*letter, *unit[1:].tolist()])[before:].encode()) for unit in tokens
    )
    assert found.num_bytes == num_bytes
    assert found.bits_per_byte is not None
    assert found.bits_per_byte.value == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-6)
    assert found.bits_per_byte.lower < found.bits_per_byte.value < found.bits_per_byte.upper


def test_the_interval_holds_the_ratio_of_the_population_as_often_as_it_says():
    """Catches a variance that forgets the sizes: they go along with the amounts here."""
    generator = np.random.default_rng(0)
    hits, trials = 0, 2000
    for _ in range(trials):
        sizes = generator.integers(1, 40, 200)
        amounts = 2.5 * sizes + generator.normal(0, 3, 200)
        found = ratio(amounts, sizes)
        hits += found.lower <= 2.5 <= found.upper
    assert 0.935 <= hits / trials <= 0.965  # three binomial errors around 95 %


def test_equal_units_have_the_textbook_interval():
    """Catches an error of the wrong size."""
    amounts = np.array([1.0, 2.0, 3.0, 6.0])
    found = ratio(amounts, np.ones(4, int))
    error = 1.959964 * np.std(amounts, ddof=1) / 2
    assert found.value == 3.0
    assert found.upper - 3.0 == pytest.approx(error, rel=1e-6)
    assert ratio(amounts[:1], np.ones(1, int)).upper == math.inf


def test_tokens_without_text_have_no_bits_per_byte(units, model, params):
    """Catches a division by zero bytes."""
    tokenizer = units.tokenizer()
    ends = UnitArray(
        [np.full((3, model.seq_len + 1), tokenizer.eos_id, np.uint16)], model.seq_len + 1
    )
    found = measure_held_out(Scorer(model, params), tokenizer, ends, num_units=3)
    assert (found.num_bytes, found.bits_per_byte) == (0, None)


def test_no_units_are_refused(units, model, params):
    """Catches a loss of nothing."""
    empty = UnitArray([], model.seq_len + 1)
    with pytest.raises(InputError, match="--num-units"):
        measure_held_out(Scorer(model, params), units.tokenizer(), empty, num_units=3)
