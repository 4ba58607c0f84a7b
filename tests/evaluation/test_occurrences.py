"""Counts of occurrences against a search by hand, honest and colliding hashes alike."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpscale.data.units import UnitArray
from dpscale.evaluation import occurrences
from dpscale.evaluation.occurrences import count_occurrences, window_hashes


def by_hand(units, text):
    length = len(text)
    return sum(
        list(unit[start : start + length]) == list(text)
        for unit in units
        for start in range(len(unit) - length + 1)
    )


@st.composite
def data_sets(draw):
    """Units of two or three tokens in one or two shards, and texts that mostly occur."""
    unit_len = draw(st.integers(1, 9))
    unit = st.lists(st.integers(0, 2), min_size=unit_len, max_size=unit_len)
    shards = draw(st.lists(st.lists(unit, min_size=1, max_size=6), min_size=1, max_size=2))
    length = draw(st.integers(1, unit_len + 1))
    text = st.lists(st.integers(0, 2), min_size=length, max_size=length)
    texts = draw(st.lists(text, min_size=1, max_size=5))
    return unit_len, shards, texts


def everything_collides(units, length):
    return np.zeros((len(units), units.shape[1] - length + 1), np.uint64)


def top_bits_collide(units, length):
    return window_hashes(units, length) >> np.uint64(30)


def last_token_only(units, length):
    return units[:, length - 1 :].astype(np.uint64) << np.uint64(60)


@pytest.mark.parametrize(
    "hashes", [window_hashes, everything_collides, top_bits_collide, last_token_only]
)
def test_counts_are_those_by_hand(hashes):
    """Catches misses at a unit's ends, across blocks and shards, and matches that only collide."""

    @settings(max_examples=150, deadline=None)
    @given(data_sets())
    def check(drawn):
        unit_len, shards, texts = drawn
        units = UnitArray([np.array(shard, np.uint16) for shard in shards], unit_len)
        every_unit = [unit for shard in shards for unit in shard]
        found = count_occurrences(units, np.array(texts, np.int32))
        assert found.tolist() == [by_hand(every_unit, text) for text in texts]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(occurrences, "window_hashes", hashes)
        patch.setattr(occurrences, "_BLOCK_TOKENS", 20)  # several blocks
        patch.setattr(occurrences, "_COMPARED_WINDOWS", 3)
        check()


def test_equal_windows_hash_equally_at_any_offset_and_others_do_not():
    """Catches a hash that depends on the offset (texts missed), or on little (slow)."""
    generator = np.random.default_rng(0)
    units = generator.integers(0, 1000, (40, 60)).astype(np.int32)
    units[3, 10:40] = units[7, 25:55]
    hashes = window_hashes(units, 30)
    assert hashes[3, 10] == hashes[7, 25]
    assert len(np.unique(hashes)) == hashes.size - 1


def test_a_text_across_a_border_of_units_is_missed():
    """Catches a search over the flat tokens: the model never sees two units side by side."""
    units = UnitArray([np.array([[1, 2, 3], [4, 5, 6]], np.uint16)], 3)
    found = count_occurrences(units, np.array([[3, 4], [5, 6]], np.int32))
    assert found.tolist() == [0, 1]


def test_progress_ends_at_all_units(monkeypatch):
    """Catches progress that counts blocks, or stops before the end."""
    monkeypatch.setattr(occurrences, "_BLOCK_TOKENS", 8)
    units = UnitArray([np.ones((5, 4), np.uint16)], 4)
    read = []
    count_occurrences(units, np.ones((1, 2), np.int32), on_read=read.append)
    assert read == [2, 4, 5]
