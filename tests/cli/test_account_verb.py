"""`dpscale account`: the interval, what an attacker gets, the curve, and wrong numbers."""

import json
from typing import Any

import pytest

from dpscale.cli.main import main
from dpscale.cli.numbers import bounds, rounded_up
from dpscale.errors import ExitCode

RUN = {
    "--noise-multiplier": "3",
    "--iterations": "512",
    "--dataset-size": "1e3",
    "--expected-batch-size": "100",
    "--delta": "1e-6",
}


def account(*more: str, **changed: str) -> list[str]:
    options = RUN | {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    return ["account", *(f"{name}={value}" for name, value in options.items()), *more]


def answer(capsys: pytest.CaptureFixture[str], *more: str, **changed: str) -> dict[str, Any]:
    assert main(account("--json", *more, **changed)) == ExitCode.OK
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_machines_get_the_interval_and_the_attackers_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches a claim of the lower end, and keys that scripts rely on going missing."""
    found = answer(capsys)
    assert found["epsilon"] == found["epsilon_upper"] > found["epsilon_lower"]
    assert found["epsilon"] == pytest.approx(3.77, abs=0.005)  # the documented value
    assert found["is_certified"]
    assert found["accountant"].startswith("dpscale certified interval (dpscale ")
    assert set(found["tpr_at_fpr"]) == {"0.01", "0.001"}
    assert 0.001 < found["tpr_at_fpr"]["0.001"] < found["tpr_at_fpr"]["0.01"]
    assert found["tpr_at_fpr"]["0.01"] < 0.01 + found["membership_advantage"] < 1
    assert (found["sampling_prob"], found["noise_batch_ratio"]) == (0.1, 0.03)
    assert "curve" not in found


def test_people_get_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(account()) == ExitCode.OK
    assert capsys.readouterr().out == (
        "epsilon 3.765 to 3.77 at delta 1e-06 (zero-out neighbours, certified)\n"
        "The strongest attacker, who sees every noisy sum, has a membership advantage of at most "
        "0.3\nand finds at most so many members at so many false alarms: 6.1 % at 1 %, "
        "1.06 % at 0.1 %.\n"
    )


def test_the_curve_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "--curve")
    asked = next(point for point in found["curve"] if point["delta"] == 1e-6)
    assert asked["epsilon_upper"] == found["epsilon_upper"]
    assert main(account("--curve")) == ExitCode.OK
    assert "1e-06   3.765 to 3.77" in capsys.readouterr().out


def test_a_cap_that_bites_says_that_it_is_not_certified(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = answer(capsys, truncated_batch_size="110")
    assert found["epsilon_lower"] is None
    assert not found["is_certified"]
    assert not found["is_attacker_certified"]
    assert main(account(truncated_batch_size="110")) == ExitCode.OK
    assert "not certified, by dp_accounting PLDAccountant" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--noise-multiplier", "0", "a finite number above 0"),
        ("--noise-multiplier", "-1", "a finite number above 0"),
        ("--noise-multiplier", "nan", "a finite number above 0"),
        ("--noise-multiplier", "inf", "a finite number above 0"),
        ("--delta", "0", "in (0, 1)"),
        ("--delta", "1", "in (0, 1)"),
        ("--delta", "-1e-6", "in (0, 1)"),
        ("--delta", "nan", "in (0, 1)"),
        ("--iterations", "0", "at least 1"),
        ("--iterations", "-3", "at least 1"),
        ("--iterations", "1.5", "a whole number"),
        ("--iterations", "nan", "a whole number"),
        ("--dataset-size", "0", "at least 1"),
        ("--dataset-size", "nan", "a whole number"),
        ("--expected-batch-size", "1001", "in [1, dataset_size=1000]"),
        ("--expected-batch-size", "0", "in [1, dataset_size=1000]"),
        ("--expected-batch-size", "nan", "a whole number"),
        ("--truncated-batch-size", "99", "at least expected_batch_size=100"),
        ("--truncated-batch-size", "nan", "a whole number"),
    ],
)
def test_a_wrong_number_gets_one_line(
    capsys: pytest.CaptureFixture[str], option: str, value: str, expected: str
) -> None:
    """Catches tracebacks, and lines that leave out the option, its value or its range."""
    assert main(account(**{option.removeprefix("--").replace("-", "_"): value})) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert error.startswith(f"dpscale account: {option}: expected ")
    assert expected in error
    assert f"found {value}" in error or f"found {float(value)}" in error
    assert error.count("\n") == 1


def test_a_cap_with_add_or_remove_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    more = account(truncated_batch_size="200", neighboring_relation="add-or-remove")
    assert main(more) == ExitCode.USAGE
    assert "--neighboring-relation: expected zero-out" in capsys.readouterr().err


def test_too_little_noise_gets_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(account(noise_multiplier="0.01")) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert "noise_multiplier 0.01" in error
    assert error.count("\n") == 1


def test_rounded_bounds_are_still_bounds() -> None:
    """Catches an epsilon that is printed smaller than it is."""
    assert rounded_up(1.71001) == "1.711"
    assert rounded_up(2.7) == "2.701"  # the float is above 2.7
    assert bounds(1.70899, 1.71001) == "1.708 to 1.711"
    assert bounds(0.0, 0.0) == "0"
    assert bounds(None, 123456.0) == "at most 1.235e+05"
