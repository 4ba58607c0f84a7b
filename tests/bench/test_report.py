"""The figures that follow from made-up seconds."""

import json

import pytest

from dpscale.bench.candidates import NON_PRIVATE, PEER, Candidate
from dpscale.bench.report import ClippingReport, Facts, make_report
from dpscale.bench.shapes import SHAPES
from dpscale.files import to_json

FULL, HALF = Candidate(NON_PRIVATE, None, 32), Candidate(NON_PRIVATE, None, 16)
GRAM, VMAP = Candidate("bookkeeping", "gram", 8), Candidate("vmap", None, 4)
JAX_PRIVACY = Candidate(PEER, None, 8)

FACTS = {
    FULL: Facts(1000, 50.0),
    HALF: Facts(500, 50.0),
    GRAM: Facts(600, 60.0, 1e-7, 2e-7),
    VMAP: Facts(None, None, 0.0, 0.0),
    JAX_PRIVACY: Facts(800, None, 3e-7, 0.0),
}
FIRST = {FULL: [1.0] * 3, HALF: [1.2] * 3, GRAM: [1.1] * 3, VMAP: [9.0], JAX_PRIVACY: [1.3] * 3}


def report(**changes: object) -> ClippingReport:
    fields: dict[str, object] = {
        "l2_clip_norm": 2.0,
        "auto": VMAP,
        "first_pass": FIRST,
        "long_rounds": {
            FULL: [1.0, 2.0, 4.0],
            HALF: [0.8, 1.6, 3.2],
            GRAM: [1.0, 2.0, 3.2],
            VMAP: [1.2, 2.0, 4.0],
            JAX_PRIVACY: [0.4, 0.8, 1.6],
        },
        "facts": FACTS,
        "full_batch": FACTS[FULL],
        "failures": {},
        "same_as": {},
        "is_complete": True,
    }
    return make_report(SHAPES["tiny"], **{**fields, **changes})  # type: ignore[arg-type]


def test_the_baseline_is_the_one_that_is_fastest_in_the_long_rounds() -> None:
    # Catches: keeping the baseline that a few noisy rounds put in front.
    measured = report()
    assert measured.baseline.candidate == HALF
    assert [row.candidate for row in measured.rivals] == [FULL]
    assert measured.rivals[0].time_ratio.median == pytest.approx(1.25)


def test_ratios_are_within_rounds_and_to_the_right_memory() -> None:
    rows = {row.candidate: row for row in report().rows}
    assert [row.candidate for row in report().rows] == [JAX_PRIVACY, GRAM, VMAP]
    assert rows[GRAM].time_ratio.median == pytest.approx(1.25)
    assert rows[VMAP].time_ratio.median == pytest.approx(1.25)
    assert rows[VMAP].time_ratio.q75 == pytest.approx(1.375)
    assert rows[GRAM].memory_ratio == pytest.approx(0.6)
    assert rows[GRAM].memory_ratio_to_best == pytest.approx(1.2)
    assert rows[GRAM].flop_ratio == pytest.approx(1.2)
    assert rows[VMAP].memory_ratio is None
    assert rows[JAX_PRIVACY].flop_ratio is None
    assert rows[GRAM].seconds == 2.0


def test_auto_is_compared_with_our_fastest_not_with_the_peer() -> None:
    measured = report()
    assert measured.winner is not None
    assert measured.winner.candidate == GRAM
    assert measured.auto_to_best is not None
    assert measured.auto_to_best.median == pytest.approx(1.2)
    assert measured.is_auto_near_best is False
    assert report(auto=GRAM).is_auto_near_best is True


def test_a_report_that_was_stopped_early_shows_the_first_pass() -> None:
    stopped = report(long_rounds={GRAM: [], FULL: []}, is_complete=False)
    assert stopped.baseline.candidate == FULL
    rows = {row.candidate: (row.rounds, row.time_ratio.median) for row in stopped.rows}
    assert rows[GRAM] == (3, pytest.approx(1.1))
    assert rows[VMAP] == (1, pytest.approx(9.0))  # had dropped out
    assert stopped.to_dict()["is_complete"] is False


def test_an_auto_that_does_not_fit_is_told_and_not_invented() -> None:
    seconds = {candidate: times for candidate, times in FIRST.items() if candidate != VMAP}
    measured = report(first_pass=seconds, long_rounds=seconds, failures={VMAP: "out of memory"})
    assert (measured.auto_to_best, measured.is_auto_near_best) == (None, None)
    assert measured.to_dict()["failures"] == [
        {"strategy": "vmap", "norm_rule": None, "microbatch_size": 4, "error": "out of memory"}
    ]


def test_the_answer_is_json() -> None:
    answer = json.loads(to_json(report().to_dict()))
    assert answer["shape"]["num_params"] == SHAPES["tiny"].num_params
    assert answer["rows"][1] == {
        "strategy": "bookkeeping",
        "norm_rule": "gram",
        "microbatch_size": 8,
        "rounds": 3,
        "seconds": 2.0,
        "time_ratio": pytest.approx(1.25),
        "time_ratio_q25": pytest.approx(1.125),
        "time_ratio_q75": pytest.approx(1.25),
        "memory_ratio": pytest.approx(0.6),
        "memory_ratio_to_best": pytest.approx(1.2),
        "flop_ratio": pytest.approx(1.2),
        "temp_bytes": 600,
        "flops": 60.0,
        "gradient_error": 1e-7,
        "norm_error": 2e-7,
    }
    assert answer["auto"]["strategy"] == "vmap"
    assert answer["auto"]["is_within_5_percent"] is False
