"""Which candidates there are, and who stays in the running, on made-up times."""

from dpscale.bench.candidates import (
    NON_PRIVATE,
    PEER,
    Candidate,
    all_candidates,
    baselines,
    candidate_of,
    contenders,
    still_in,
)
from dpscale.config import ClippingConfig


def ghost(size: int) -> Candidate:
    return Candidate("ghost", "auto", size)


def book(size: int) -> Candidate:
    return Candidate("bookkeeping", "gram", size)


def plain(size: int) -> Candidate:
    return Candidate(NON_PRIVATE, None, size)


VMAP = Candidate("vmap", None, 1)


def test_everything_is_a_candidate_once() -> None:
    candidates = all_candidates(24, with_peer=True)
    assert len(set(candidates)) == len(candidates) == (1 + 3 + 3 + 1) * 5
    assert {c.microbatch_size for c in candidates} == {1, 2, 4, 8, 16}
    assert {c.norm_rule for c in candidates if c.strategy == "bookkeeping"} == {
        "auto",
        "gram",
        "direct",
    }
    assert {c.norm_rule for c in candidates if c.strategy in ("vmap", PEER)} == {None}


def test_without_a_peer_and_with_restrictions() -> None:
    assert PEER not in {c.strategy for c in all_candidates(8)}
    few = all_candidates(8, strategies=["vmap", PEER], sizes=[3], with_peer=True)
    assert few == [Candidate("vmap", None, 3), Candidate(PEER, None, 3)]


def test_the_full_batch_is_always_a_baseline() -> None:
    assert [c.microbatch_size for c in baselines(24)] == [1, 2, 4, 8, 16, 24]
    assert [c.microbatch_size for c in baselines(24, [4, 32])] == [4, 24]


def test_a_settled_config_is_a_candidate_and_back() -> None:
    settled = ClippingConfig(strategy="vmap", norm_rule="gram", microbatch_size=4)
    candidate = candidate_of(settled)
    assert candidate == Candidate("vmap", None, 4)
    assert candidate.settings == {"strategy": "vmap", "norm_rule": "auto", "microbatch_size": 4}


def test_who_falls_behind_its_own_strategy_leaves() -> None:
    # Catches: measuring a slow strategy against a fast one, which would drop all of it.
    seconds = {
        book(1): [1.0, 9.0],
        book(2): [1.6, 1.5],
        ghost(1): [5.0],
        ghost(2): [2.0],
        VMAP: [9.0],
    }
    assert still_in(seconds, factor=1.4, keep=VMAP) == [book(1), ghost(2), VMAP]
    assert still_in(seconds, factor=1.4, keep=ghost(1)) == [book(1), ghost(1), ghost(2), VMAP]


def test_contenders_are_those_in_front_the_best_of_each_and_autos_choice() -> None:
    seconds = {
        **{book(size): [1.0 + 0.01 * size] * 3 for size in range(1, 10)},
        ghost(1): [2.0],
        ghost(2): [1.9],
        VMAP: [1.3],
        Candidate(PEER, None, 1): [1.05],
        Candidate(PEER, None, 2): [1.06],
        plain(1): [0.9],
        plain(2): [0.95],
        plain(4): [1.2],
    }
    chosen = contenders(seconds, keep=ghost(1))
    # The six fastest of ours within 10 %, not the rest of them, nor a second peer.
    assert set(chosen) == {
        *(book(size) for size in range(1, 7)),
        ghost(1),
        ghost(2),
        VMAP,
        Candidate(PEER, None, 1),
        plain(1),
        plain(2),
    }
    assert chosen[0] == plain(1)
