"""What the harness is told, against slow loops on the plain logits."""

from pathlib import Path

import jax
import numpy as np
import pytest

from dpscale.data.assets import resolve
from dpscale.data.tokenizer import Tokenizer
from dpscale.errors import InputError
from dpscale.evaluation.answers import Answers
from dpscale.inference.trained import TrainedModel
from dpscale.model import decoder
from dpscale.sizes import named_shape

SEQ_LEN = 24


@pytest.fixture(scope="module")
def trained():
    tokenizer = Tokenizer(resolve("embedded:moby-1024"))
    model = named_shape("w16", vocab_size=tokenizer.vocab_size, seq_len=SEQ_LEN)
    generator = np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: generator.normal(0, 0.3, x.shape).astype(np.float32),
        decoder.params_shapes(model),
    )
    return TrainedModel(Path("run"), model, params, tokenizer, None)


@pytest.fixture(scope="module")
def logits_of(trained):
    compiled = jax.jit(decoder.logits, static_argnums=0)

    def logits(tokens):
        padded = np.zeros((1, 64), np.int32)
        padded[0, : len(tokens)] = tokens
        return np.asarray(compiled(trained.model, trained.params, padded), np.float64)[0]

    return logits


def by_hand(logits_of, context, continuation):
    """One token after the other, of the last SEQ_LEN + 1 tokens."""
    text = [*context, *continuation][-(SEQ_LEN + 1) :]
    total, is_greedy = 0.0, True
    for place in range(len(text) - len(continuation), len(text)):
        row = logits_of(text[:place])[place - 1]
        total += row[text[place]] - np.log(np.exp(row).sum())
        is_greedy &= int(row.argmax()) == text[place]
    return total, bool(is_greedy)


def test_log_likelihoods_are_those_of_a_slow_loop(trained, logits_of):
    """Catches sums that reach into the context, and a cut at the wrong end."""
    numbers = np.random.default_rng(0)
    requests = [
        (numbers.integers(0, 1024, size).tolist(), numbers.integers(0, 1024, length).tolist())
        for size, length in ((1, 1), (5, 3), (30, 4), (10, SEQ_LEN))
    ]
    context = requests[1][0]
    greedy = int(logits_of(context)[len(context) - 1].argmax())
    requests.append((context, [greedy]))
    done = []
    found = Answers(trained).log_likelihoods(requests, done.append)
    assert sum(done) == len(requests)
    for (log_prob, is_greedy), request in zip(found, requests, strict=True):
        expected = by_hand(logits_of, *request)
        assert (log_prob, is_greedy) == (pytest.approx(expected[0], abs=2e-4), expected[1])
    assert found[-1][1]


def greedy_text(trained, logits_of, prompt, length):
    tokens = list(prompt)
    for _ in range(length):
        tokens.append(int(logits_of(tokens)[len(tokens) - 1].argmax()))
    return trained.tokenizer.decode(tokens[len(prompt) :])


def test_answers_end_where_a_stop_string_begins(trained, logits_of):
    """Catches answers that hold the stop, or that end for all when one does."""
    contexts = ["the whale", "Ahab", "a sea of words"]
    full = [
        greedy_text(trained, logits_of, trained.tokenizer.encode(context), 6)
        for context in contexts
    ]
    answers = Answers(trained)
    assert answers.texts(contexts, until=["\n\n\n"], max_new_tokens=6) == full
    stop = full[0][2]
    cut = [text.split(stop)[0] for text in full]
    assert answers.texts(contexts, until=[stop], max_new_tokens=6) == cut


def test_a_long_question_loses_its_beginning(trained):
    """Catches a question that is cut at its end, where it asks."""
    answers = Answers(trained)
    long = "the whale and the sea " * 10 + "Ahab"
    tokens = trained.tokenizer.encode(long)
    assert len(tokens) > SEQ_LEN
    short = trained.tokenizer.decode(tokens[-(SEQ_LEN - 4) :])
    assert trained.tokenizer.encode(short).tolist() == tokens[-(SEQ_LEN - 4) :].tolist()
    asked = answers.texts([long, short], until=[], max_new_tokens=4)
    assert asked[0] == asked[1]


def test_what_does_not_fit_is_refused(trained):
    """Catches scores of half a continuation, and a question without a token."""
    answers = Answers(trained)
    with pytest.raises(InputError, match="does not fit"):
        answers.log_likelihoods([([1], [2] * (SEQ_LEN + 1))])
    with pytest.raises(InputError, match="no room for a question"):
        answers.texts(["a"], until=[], max_new_tokens=SEQ_LEN)
