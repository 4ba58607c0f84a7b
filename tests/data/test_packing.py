"""Packing tokens into units, with and without kills."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpscale.data.packing import Spool, token_dtype
from dpscale.data.tokenization import Tokenized, TokenizedChunk


def side(tokens: list[int]) -> Tokenized:
    return Tokenized(np.array(tokens, np.int32), 1)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 9)), max_size=8),
    st.integers(0, 8),
    st.integers(0, 8),
)
def test_every_token_stands_in_one_unit_or_the_remainder_also_after_kills(
    tmp_path_factory: pytest.TempPathFactory,
    unit_len: int,
    lengths: list[tuple[int, int]],
    saved_at: int,
    killed_at: int,
) -> None:
    """A kill after the save must neither repeat nor lose a token."""
    folder = tmp_path_factory.mktemp("spool")
    numbers = iter(range(10_000))
    made = [
        TokenizedChunk(side([next(numbers) for _ in range(a)]), side(list(range(b))), 1)
        for a, b in lengths
    ]
    with Spool(folder, unit_len, token_dtype(10_000)) as spool:
        for number, chunk in enumerate(made[:killed_at]):
            if number == saved_at:
                spool.save()
            spool.add(chunk)
    with Spool(folder, unit_len, token_dtype(10_000)) as spool:
        assert spool.num_chunks == (saved_at if saved_at < min(killed_at, len(made)) else 0)
        for chunk in made[spool.num_chunks :]:
            spool.add(chunk)
        spool.save(complete=True)
    for state_of, units, length in (
        (spool.train.state, spool.train.units(), sum(a for a, _ in lengths)),
        (spool.eval.state, spool.eval.units(), sum(b for _, b in lengths)),
    ):
        assert units.shape == units[:].shape == (length // unit_len, unit_len)
        assert units[1:3].tolist() == units[:][1:3].tolist()
        assert len(state_of.remainder) == length % unit_len
        assert state_of.num_tokens == length
        assert state_of.num_documents == len(made)
    assert [*spool.train.units()[:].reshape(-1), *spool.train.state.remainder] == list(
        range(sum(a for a, _ in lengths))
    )
    assert spool.num_empty_documents == len(made)
    with Spool(folder, unit_len, token_dtype(10_000)) as again:
        assert again.complete


def test_ids_up_to_the_vocabulary_fit_the_dtype() -> None:
    assert np.iinfo(token_dtype(2**16)).max == 2**16 - 1
    assert np.iinfo(token_dtype(2**16 + 1)).max >= 2**16
