"""`dpscale predict` answers for a single point of the law that ships."""

import json

import pytest

from dpscale.cli.main import main
from dpscale.errors import ExitCode

POINT = ["predict", "--params", "1e9", "--iterations", "1e4", "--noise-batch-ratio", "1e-5"]


def test_people_read_the_loss_its_intervals_and_what_is_outside(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(POINT) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("predicted_loss")
    assert lines[0].endswith("(train_loss, nats per token)")
    assert lines[3].startswith("law: ceiling, fitted to Table 2 of arXiv 2501.18914")
    assert (
        lines[4]
        == "outside the law: 1e+09 parameters is 2.99x beyond the largest model the law saw"
    )


def test_machines_get_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*POINT, "--form", "form-5", "--json"]) == ExitCode.OK
    answer = json.loads(capsys.readouterr().out)
    assert answer["form"] == "form-5"
    low, high = answer["run_interval"]
    assert low < answer["predicted_loss"] < high
    assert [each["coordinate"] for each in answer["extrapolations"]] == ["num_params"]


def test_a_log_in_place_of_a_ratio_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", "--params", "1e7", "--iterations", "1e4", "--noise-batch-ratio=-9"]
    assert main(words) == ExitCode.USAGE
    assert "--noise-batch-ratio: expected a number at least 0" in capsys.readouterr().err
