"""Documents to tokens: which side they go to, and that processes change nothing."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dpscale.data import tokenization
from dpscale.data.corpus import RawDocument
from dpscale.data.tokenization import ChunkTokenizer, chunks, is_held_out, tokenize_chunks
from dpscale.data.tokenizer import Tokenizer
from dpscale.errors import InputError


def raw(number: int, text: str) -> RawDocument:
    return RawDocument("a.jsonl", number, f'{{"text": "{text}"}}'.encode())


def test_a_chunk_is_its_documents_in_order_each_ended_by_eos(
    tokenizer_path: Path, tokenizer: Tokenizer
) -> None:
    texts = [f"whale number {i}" for i in range(40)]
    work = ChunkTokenizer(tokenizer_path, "text", 0.3)
    result = work.run([raw(i + 1, text) for i, text in enumerate([*texts, ""])], tokenizer)
    for held_out, side in ((False, result.train), (True, result.eval)):
        mine = [text for text in texts if is_held_out(text, 0.3) == held_out]
        expected = [[*tokenizer.encode(text), tokenizer.eos_id] for text in mine]
        np.testing.assert_array_equal(side.tokens, np.concatenate(expected))
        assert side.num_documents == len(mine) > 5
    assert result.num_empty_documents == 1


def test_the_held_out_share_is_the_fraction_asked_for() -> None:
    held_out = {f: {i for i in range(20_000) if is_held_out(str(i), f)} for f in (0.0, 0.05, 0.2)}
    assert not held_out[0.0]
    # Three standard deviations of a binomial: 0.05 and 0.2 of 20,000.
    assert abs(len(held_out[0.05]) - 1000) < 3 * (20_000 * 0.05 * 0.95) ** 0.5
    assert abs(len(held_out[0.2]) - 4000) < 3 * (20_000 * 0.2 * 0.8) ** 0.5
    assert held_out[0.05] < held_out[0.2]  # a larger fraction moves no document back to training


def test_the_split_is_the_documented_hash() -> None:
    # SHA-256 of "abc" begins with ba7816bf: 0.7284 of all.
    assert not is_held_out("abc", 0.728)
    assert is_held_out("abc", 0.729)


def test_chunks_are_bounded_and_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenization, "CHUNK_BYTES", 100)
    documents = [RawDocument("a", i, b"x" * (i * 37 % 150)) for i in range(1, 50)]
    made = list(chunks(documents))
    assert [document for chunk in made for document in chunk] == documents
    assert all(sum(len(d.content) for d in chunk[:-1]) < 100 for chunk in made)
    assert all(sum(len(d.content) for d in chunk) >= 100 for chunk in made[:-1])


def test_workers_give_the_chunks_in_order_and_the_first_mistake(tokenizer_path: Path) -> None:
    work = ChunkTokenizer(tokenizer_path, "text", 0.1)
    good = [[raw(i, f"whale {i} " * (1 + 300 * (i % 3 == 0)))] for i in range(1, 12)]
    alone = list(tokenize_chunks(work, good, workers=1))
    together = list(tokenize_chunks(work, good, workers=2))
    assert len(alone) == len(together) == len(good)
    for left, right in zip(alone, together, strict=True):
        np.testing.assert_array_equal(left.train.tokens, right.train.tokens)
        np.testing.assert_array_equal(left.eval.tokens, right.eval.tokens)
    bad = [*good, [RawDocument("a.jsonl", 90, b"{")], [RawDocument("a.jsonl", 91, b"[")]]
    with pytest.raises(InputError, match=r"^a\.jsonl:90: not JSON"):
        list(tokenize_chunks(work, bad, workers=2))
    assert not multiprocessing.active_children()


def test_reading_runs_ahead_of_the_workers_by_a_bounded_number_of_chunks(
    tokenizer_path: Path,
) -> None:
    taken = 0

    def source() -> Iterator[list[RawDocument]]:
        nonlocal taken
        for number in range(1, 100):
            taken = number
            yield [raw(number, "whale")]

    work = ChunkTokenizer(tokenizer_path, "text", 0.1)
    tokenized = tokenize_chunks(work, source(), workers=2)
    next(tokenized)
    assert taken <= 5
    tokenized.close()
    assert not multiprocessing.active_children()
