"""`dpscale calibrate` solves for the one number that is left out, and says how sure it is."""

import json
from typing import Any

import pytest

from dpscale.cli.main import main
from dpscale.errors import ExitCode

GIVEN = {
    "--noise-multiplier": "3",
    "--iterations": "512",
    "--expected-batch-size": "100",
    "--dataset-size": "1e3",
}


def without(*names: str) -> list[str]:
    """The documented run's options, some left out."""
    kept = [[name, value] for name, value in GIVEN.items() if name not in names]
    return [word for pair in kept for word in pair]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["calibrate", *arguments, "--json"]) == ExitCode.OK
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("--noise-multiplier", "noise_multiplier", pytest.approx(3.0, rel=1e-3)),
        ("--iterations", "iterations", 512),
        ("--expected-batch-size", "expected_batch_size", 100),
        ("--dataset-size", "dataset_size", 1000),
    ],
)
def test_each_number_is_found_again(
    name: str, field: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    # The documented run: sigma 3, T 512, q 0.1 spends 3.77 at 1e-6.
    answer = printed(capsys, "--eps", "3.77", "--delta", "1e-6", *without(name))
    assert answer["solved_for"] == field
    assert answer[field] == value
    assert 3.76 < answer["epsilon_lower"] < answer["epsilon_upper"] <= 3.77
    assert answer["is_certified"]
    ratio = answer["noise_multiplier"] / answer["expected_batch_size"]
    assert answer["noise_batch_ratio"] == ratio


def test_people_get_the_value_and_what_it_spends(capsys: pytest.CaptureFixture[str]) -> None:
    target = ["--epsilon", "1", "--delta", "1e-6"]
    assert main(["calibrate", *target, *without("--noise-multiplier")]) == ExitCode.OK
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("noise multiplier 9.66")
    assert second.startswith("epsilon 0.99")
    assert "at delta 1e-06 (zero-out neighbours, certified)" in second


def test_a_cap_that_bites_is_not_called_certified(capsys: pytest.CaptureFixture[str]) -> None:
    cap = ["--truncated-batch-size", "130"]
    answer = printed(capsys, "--eps", "5", "--delta", "1e-3", *without("--iterations"), *cap)
    assert not answer["is_certified"]
    assert answer["epsilon_lower"] is None
    assert answer["epsilon_upper"] <= 5.0
    assert answer["accountant"].startswith("dp_accounting")
    assert answer["truncated_batch_size"] == 130


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (without(), "--noise-multiplier, --iterations, --expected-batch-size, --dataset-size: exp"),
        (without("--iterations", "--dataset-size"), "--iterations, --dataset-size: expected one"),
        ([*without("--iterations"), "--delta", "0"], "--delta: expected a number in (0, 1)"),
        ([*without("--iterations"), "--eps", "-1"], "--eps: expected a finite number above 0"),
        ([*without("--iterations"), "--eps", "1e-3"], "--eps: 0.001 is out of reach: iterations=1"),
        ([*without("--dataset-size"), "--iterations", "0"], "--iterations: expected at least 1"),
        ([*without("--dataset-size"), "--iterations", "1.5"], "--iterations: expected a whole"),
        ([*without("--iterations"), "--noise-multiplier", "0"], "--noise-multiplier: expected a"),
        ([*without("--iterations"), "--expected-batch-size", "2e3"], "--expected-batch-size: exp"),
    ],
)
def test_wrong_numbers_get_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "--eps", "1", "--delta", "1e-6", *arguments]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert error.startswith("dpscale calibrate: ")
    assert message in error
    assert error.count("\n") == 1
