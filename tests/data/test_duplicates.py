"""Dropping duplicates, against a loop over sets."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpscale.data import duplicates
from dpscale.data.duplicates import find_kept


def slow_kept(
    train: list[int], held_out: list[int], keep_duplicates: bool
) -> tuple[list[bool], list[bool], int, int, int]:
    overlapping = [unit in held_out for unit in train]
    repeated = [unit in train[:i] and not keep_duplicates for i, unit in enumerate(train)]
    repeated_eval = [u in held_out[:i] and not keep_duplicates for i, u in enumerate(held_out)]
    return (
        [not (o or r) for o, r in zip(overlapping, repeated, strict=True)],
        [not r for r in repeated_eval],
        sum(r and not o for o, r in zip(overlapping, repeated, strict=True)),
        sum(repeated_eval),
        sum(overlapping),
    )


def units(numbers: list[int]) -> np.ndarray:
    return np.array([[n, 7, n // 3] for n in numbers], "<u2").reshape(-1, 3)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 12), max_size=30),
    st.lists(st.integers(9, 20), max_size=10),
    st.booleans(),
)
def test_what_stays_agrees_with_a_loop(
    tmp_path_factory: pytest.TempPathFactory, train: list[int], held_out: list[int], keep: bool
) -> None:
    folder = tmp_path_factory.mktemp("dedup")
    kept = find_kept(units(train), units(held_out), folder, keep_duplicates=keep)
    counts = (kept.num_duplicate_units, kept.num_duplicate_eval_units, kept.num_overlapping_units)
    assert (kept.train.tolist(), kept.eval.tolist(), *counts) == slow_kept(train, held_out, keep)


def test_many_blocks_and_buckets_agree_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "_BLOCK_BYTES", 600)
    numbers = np.random.default_rng(0).integers(0, 2000, 3000).tolist()
    kept = find_kept(units(numbers), units([5, 6]), tmp_path, keep_duplicates=False)
    first = {number: index for index, number in reversed(list(enumerate(numbers)))}
    expected = sorted(index for number, index in first.items() if number not in (5, 6))
    assert np.flatnonzero(kept.train).tolist() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval.kept", "train.kept"]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.data())
def test_one_record_less_changes_what_is_kept_by_at_most_one_record(
    tmp_path_factory: pytest.TempPathFactory, train: list[int], data: st.DataObject
) -> None:
    """Else the sensitivity of everything after it would be above one record."""
    without = train.copy()
    del without[data.draw(st.integers(0, len(train) - 1))]
    held_out = units([1, 2])
    contents = []
    for numbers in (train, without):
        made = units(numbers)
        folder = tmp_path_factory.mktemp("dedup")
        kept = find_kept(made, held_out, folder, keep_duplicates=False)
        contents.append(sorted(made[kept.train, 0].tolist()))
    removed = [n for n in set(contents[0]) if n not in contents[1]]
    assert len(removed) <= 1
    assert set(contents[1]) <= set(contents[0])
