"""Prompts to texts, through a real tokenizer."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from dpscale.data.assets import resolve
from dpscale.data.tokenizer import Tokenizer
from dpscale.errors import InputError
from dpscale.inference.continuations import _GrowingText, continuations
from dpscale.inference.generation import Generator, generate
from dpscale.inference.sampling import Sampling
from dpscale.inference.trained import TrainedModel
from dpscale.model import decoder
from dpscale.sizes import named_shape

DRAWN = Sampling(temperature=1.0, seed=3)
PROMPTS = ["Call me", "", "the whale and the sea", "Ahab"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(resolve("embedded:moby-1024"))


@pytest.fixture(scope="module")
def trained(tokenizer):
    model = named_shape("w16", vocab_size=tokenizer.vocab_size, seq_len=32)
    generator = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: generator.normal(0, 0.3, x.shape).astype(np.float32),
        decoder.params_shapes(model),
    )
    return TrainedModel(Path("run"), model, params, tokenizer, None)


def texts(trained, prompts, *, batch_size=2, **options):
    return list(
        continuations(
            trained,
            prompts,
            max_new_tokens=12,
            sampling=DRAWN,
            batch_size=batch_size,
            **options,
        )
    )


def test_texts_are_those_of_the_generator(trained, tokenizer):
    """Catches texts that lose their order, their number or their prompt between batches."""
    tokens = [trained.prompt(prompt) for prompt in PROMPTS]
    expected = generate(
        Generator(trained.model, trained.params),
        tokens,
        max_new_tokens=12,
        sampling=DRAWN,
        stop_token=tokenizer.eos_id,
    )
    for batch_size in (1, 3, 16):
        got = texts(trained, PROMPTS, batch_size=batch_size)
        assert [text.prompt for text in got] == PROMPTS
        assert [text.tokens for text in got] == expected
    whole = [tokenizer.decode([*p, *new]) for p, new in zip(tokens, expected, strict=True)]
    assert [tokenizer.decode(p) + t.text for p, t in zip(tokens, got, strict=True)] == whole


def test_an_empty_prompt_begins_a_document(trained, tokenizer):
    """Catches a model that is asked to go on from nothing."""
    assert trained.prompt("") == [tokenizer.eos_id]


def test_an_imported_model_gets_the_beginning_that_it_was_trained_with(trained):
    """Catches a published model that is asked without it."""
    imported = dataclasses.replace(trained, bos_id=2)
    assert imported.prompt("") == [2]
    assert imported.prompt("Ahab") == [2, *trained.prompt("Ahab")]


def test_pieces_add_up_to_the_texts(trained):
    """Catches text that is printed twice, or not at all."""
    pieces = [""] * len(PROMPTS)

    def on_text(number, added):
        pieces[number] += added

    got = texts(trained, PROMPTS, on_text=on_text)
    assert [text.text.rstrip("\ufffd") for text in got] == pieces


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids):
        return bytes(ids).decode("utf-8", errors="replace")


def test_a_character_is_held_back_until_all_of_its_bytes_are_there():
    """Catches half a character on the screen, and one that is lost."""
    text = _GrowingText(Bytes(), list(b"ab"))
    assert [text.grow(byte) for byte in "cé€".encode()] == ["c", "", "é", "", "", "€"]
    assert text.grow(None) == ""
    assert text.grow(0xC3) == ""
    assert text.finished() == "cé€\ufffd"


def test_a_batch_of_nothing_is_refused(trained):
    """Catches a loop that never ends."""
    with pytest.raises(InputError, match="batch_size"):
        texts(trained, PROMPTS, batch_size=0)
