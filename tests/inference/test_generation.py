"""Generation against greedy search done by hand on the plain logits."""

import dataclasses

import jax
import numpy as np
import pytest

from dpscale.errors import InputError
from dpscale.inference.generation import Generator, generate
from dpscale.inference.sampling import Sampling
from dpscale.model import decoder

GREEDY = Sampling()
PROMPTS = ([3, 1, 4], [5], [9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2])


@pytest.fixture(scope="module")
def generator(model, params):
    return Generator(model, params)


def continuations(generator, prompts, *, max_new_tokens=9, sampling=GREEDY, **options):
    return generate(generator, prompts, max_new_tokens=max_new_tokens, sampling=sampling, **options)


def test_a_batch_of_prompts_continues_as_each_alone_by_hand(generator, greedy_by_hand):
    """Catches padding that is seen, positions off by one, a window over the wrong slots."""
    expected = [greedy_by_hand(prompt, 9) for prompt in PROMPTS]
    assert all(len(set(text)) > 2 for text in expected), "a dull text would not tell faults apart"
    assert continuations(generator, PROMPTS) == expected


def test_text_goes_on_beyond_the_length_of_training(generator, greedy_by_hand, model):
    """Catches a cache that is too short, and positions that start again."""
    new = 2 * model.seq_len
    assert continuations(generator, [[3, 1]], max_new_tokens=new) == [greedy_by_hand([3, 1], new)]


@pytest.mark.parametrize("changes", [{"post_norms": False, "sliding_window": None},
                                     {"attn_logit_softcap": None, "num_kv_heads": 1},
                                     {"compute_dtype": "bfloat16"}])  # fmt: skip
def test_cached_logits_are_those_of_the_whole_text(model, changes):
    """Catches a setting that only one of the two paths heeds. The paths round apart."""
    from dpscale.model.continuation import continued, empty_memory, unstacked

    model = dataclasses.replace(model, **changes)
    numbers = np.random.default_rng(3)
    params = jax.tree.map(
        lambda x: numbers.normal(0, 0.5, x.shape).astype(np.float32), decoder.params_shapes(model)
    )
    text = numbers.integers(0, model.vocab_size, (2, 12))
    expected = np.asarray(decoder.logits(model, params, text))[:, 4:]
    memory = empty_memory(model, np.zeros(2, np.int32), 12)
    weights = unstacked(model, params)
    first, memory = continued(model, weights, memory, text[:, :5])
    actual = [first]
    for position in range(5, 12):
        logits, memory = continued(model, weights, memory, text[:, position : position + 1])
        actual.append(logits)
    tolerance = 0.3 if model.compute_dtype == "bfloat16" else 2e-5
    np.testing.assert_allclose(np.stack(actual, 1), expected, rtol=0, atol=tolerance)


def test_padding_leaves_no_trace(generator):
    """Catches NaN from rows that see nothing, and pads that a sliding window lets in."""
    alone = continuations(generator, [PROMPTS[1]])
    beside_a_long_one = continuations(generator, [PROMPTS[1], [4] * 60])
    assert beside_a_long_one[0] == alone[0]


def test_greedy_ignores_the_seed_and_draws_follow_it(generator):
    """Catches a draw at temperature 0, and draws that ignore their seed."""
    greedy = [continuations(generator, [[3]], sampling=Sampling(seed=seed)) for seed in (1, 2)]
    assert greedy[0] == greedy[1]
    drawn = [
        continuations(generator, [[3]], sampling=Sampling(temperature=1.0, seed=seed))
        for seed in (1, 1, 2, 2**32 - 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2] != drawn[3]


def test_draws_do_not_depend_on_the_rest_of_the_batch(generator):
    """Catches one key for a whole batch, and keys that follow the place in it."""
    sampling = Sampling(temperature=1.0, seed=5)
    together = continuations(generator, [[3], [3], [7]], sampling=sampling)
    assert together[0] != together[1]
    last = continuations(generator, [[7]], sampling=sampling, first_number=2)
    assert together[2] == last[0]


def test_draws_have_the_softmax_frequencies(generator, model, params):
    """Catches a temperature that multiplies, and draws that repeat one key."""
    count, temperature = 1000, 0.7
    sampling = Sampling(temperature=temperature, seed=1)
    drawn = continuations(generator, [[3, 1]] * count, max_new_tokens=1, sampling=sampling)
    logits = np.asarray(decoder.logits(model, params, np.array([[3, 1]]))[0, -1], np.float64)
    shares = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    frequencies = np.bincount([text[0] for text in drawn], minlength=model.vocab_size) / count
    # Total variation of 1000 draws over 23 tokens stays near 0.05.
    assert np.abs(frequencies - shares).sum() / 2 < 0.1


def test_the_stop_token_ends_a_text_and_is_not_part_of_it(generator, greedy_by_hand):
    """Catches text that runs on behind its end, and one end that ends all."""
    full = continuations(generator, PROMPTS)
    stop = full[0][-1]
    expected = [text[: text.index(stop)] if stop in text else text for text in full]
    assert continuations(generator, PROMPTS, stop_token=stop) == expected
    assert len({len(text) for text in expected}) > 1


def test_a_stream_ends_with_the_last_text_and_gives_none_for_ended_ones(generator):
    """Catches tokens after the end, and a stream that waits for its full length."""
    full = continuations(generator, [PROMPTS[0]])[0]
    stop = full[-1]
    end = full.index(stop)
    options = {"max_new_tokens": 9, "sampling": GREEDY, "stop_token": stop}
    assert len(list(generator.stream([PROMPTS[0]], **options))) == end
    both = list(generator.stream([PROMPTS[0], PROMPTS[2]], **options))
    assert [tokens[0] for tokens in both] == [*full[:end], *[None] * (len(both) - end)]


def test_nothing_is_asked_and_nothing_given(generator):
    """Catches a first token that nobody asked for."""
    assert continuations(generator, [[3]], max_new_tokens=0) == [[]]
    assert continuations(generator, []) == []


@pytest.mark.parametrize(
    ("prompts", "options", "place"),
    [
        ([[1], []], {}, r"prompts\[1\]"),
        ([[23]], {}, r"prompts\[0\].*found 23"),
        ([[-1]], {}, r"prompts\[0\].*found -1"),
        ([[1]], {"max_new_tokens": -1}, "max_tokens"),
    ],
)
def test_wrong_arguments_are_named(generator, prompts, options, place):
    """Catches a bad prompt that is silently continued as something else."""
    with pytest.raises(InputError, match=place):
        continuations(generator, prompts, **options)
