"""`dpscale account` and `dpscale calibrate` agree with each other, and explain wrong numbers."""

import json

import pytest

from dpscale.cli.main import main
from dpscale.errors import ExitCode

RUN = ["--iterations", "512", "--dataset-size", "1e3", "--expected-batch-size", "100"]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, float]:
    assert main([*arguments, "--json"]) == ExitCode.OK
    answer: dict[str, float] = json.loads(capsys.readouterr().out)
    return answer


def test_account_gives_the_documented_epsilon(capsys: pytest.CaptureFixture[str]) -> None:
    answer = printed(capsys, "account", "--noise-multiplier", "3", "--delta", "1e-6", *RUN)
    assert answer["epsilon"] == pytest.approx(3.77, abs=0.005)
    assert answer["sampling_prob"] == 0.1
    assert answer["noise_batch_ratio"] == 0.03
    assert answer["dataset_size"] == 1000


def test_calibrate_is_the_inverse_of_account(capsys: pytest.CaptureFixture[str]) -> None:
    noise = printed(capsys, "calibrate", "--eps", "2", "--delta", "1e-6", *RUN)["noise_multiplier"]
    spent = printed(capsys, "account", "--noise-multiplier", str(noise), "--delta", "1e-6", *RUN)[
        "epsilon"
    ]
    assert spent <= 2.0
    assert spent == pytest.approx(2.0, rel=1e-3)


def test_a_cap_needs_more_noise(capsys: pytest.CaptureFixture[str]) -> None:
    target = ("--epsilon", "2", "--delta", "1e-6", *RUN)
    free = printed(capsys, "calibrate", *target)["noise_multiplier"]
    capped = printed(capsys, "calibrate", *target, "--truncated-batch-size", "110")
    assert capped["noise_multiplier"] > 1.05 * free


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["account", "--noise-multiplier", "0", "--delta", "1e-6", *RUN], "--noise-multiplier: "),
        (["account", "--noise-multiplier", "1", "--delta", "1", *RUN], "--delta: "),
        (["calibrate", "--eps", "0", "--delta", "1e-6", *RUN], "--eps: "),
        (["calibrate", "--eps", "nan", "--delta", "1e-6", *RUN], "--eps: "),
        (
            ["calibrate", "--eps", "1", "--delta", "1e-6", *RUN, "--truncated-batch-size", "50"],
            "--truncated-batch-size: ",
        ),
        (
            ["account", "--noise-multiplier", "1", "--delta", "1e-6", *RUN[:-1], "2e3"],
            "--expected-batch-size: ",
        ),
        (
            ["account", "--noise-multiplier", "1", "--delta", "1e-6", *RUN[:-1], "1.5"],
            "whole number",
        ),
        (["account", "--noise-multiplier", "1", *RUN], "--delta"),
    ],
)
def test_wrong_numbers_get_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], place: str
) -> None:
    assert main(arguments) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert error.startswith(f"dpscale {arguments[0]}: ")
    assert place in error
    assert error.count("\n") == 1
