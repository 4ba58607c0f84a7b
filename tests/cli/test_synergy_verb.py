"""`dpscale synergy`: its table, its JSON, its figures and its refusals."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dpscale.cli.main import main
from dpscale.errors import ExitCode, InputError
from dpscale.scaling import synergy

RUN = ["--eps", "2", "--delta", "1e-6", "--dataset-size", "1e4"]
RUN += ["--expected-batch-size", "100", "--iterations", "500"]


def test_the_defaults_are_stated_and_rows_agree_with_calibrate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["synergy"]) == ExitCode.OK
    text = capsys.readouterr().out
    first, header, *lines = text.splitlines()
    assert first == (
        "epsilon 2 (privacy), expected batch size 517,989 (compute), dataset size 12,695,312,500 "
        "(data); delta 1.1e-10 and 100,000 iterations stay"
    )
    assert header.split("  ")[0] == "doubled"
    assert [line.split("  ")[0] for line in lines[:8]] == [
        "nothing",
        "privacy",
        "compute",
        "data",
        "privacy + compute",
        "privacy + data",
        "compute + data",
        "all three",
    ]
    assert "x0.500" in lines[6]
    assert lines[8].startswith("Alone, compute gains most")


def test_json_holds_the_same_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synergy", *RUN, "--json"]) == ExitCode.OK
    answer = json.loads(capsys.readouterr().out)
    rows = {tuple(row["doubled"]): row for row in answer["rows"]}
    assert len(rows) == 8
    assert (answer["delta"], answer["iterations"], answer["figures"]) == (1e-6, 500, [])
    batch = rows["compute",]
    assert (batch["expected_batch_size"], batch["dataset_size"], batch["epsilon"]) == (
        200,
        10_000,
        2.0,
    )
    calibrate = ["calibrate", *RUN, "--json"]
    calibrate[calibrate.index("100")] = "200"
    assert main(calibrate) == ExitCode.OK
    calibrated = json.loads(capsys.readouterr().out)
    assert batch["noise_multiplier"] == calibrated["noise_multiplier"]
    assert batch["noise_batch_ratio"] == calibrated["noise_multiplier"] / 200
    base = rows[()]["noise_batch_ratio"]
    assert batch["relative_ratio"] == pytest.approx(batch["noise_batch_ratio"] / base)


def test_a_table_needs_neither_jax_nor_matplotlib() -> None:
    code = (
        "import sys; from dpscale.cli.main import main\n"
        f"assert main(['synergy', *{RUN}]) == 0\n"
        "assert not {'jax', 'flax', 'matplotlib', 'pandas'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_figures_are_written_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synergy, "_calibrated", lambda setting: setting.sampling_prob**0.5)
    folder = tmp_path / "figures"
    assert main(["synergy", *RUN, "--figures", str(folder), "--json"]) == ExitCode.OK
    answer = json.loads(capsys.readouterr().out)
    names = ["synergy_privacy_compute", "synergy_privacy_data", "synergy_compute_data"]
    assert [Path(path).stem for path in answer["figures"]] == names
    assert [Path(path).stem for path in answer["arrows"]] == names
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{name}.{kind}" for name in names for kind in ("csv", "png")
    )


def test_a_point_that_no_noise_meets_leaves_a_hole_not_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def calibrated(setting: synergy.Setting) -> float | InputError:
        return 1.0 if setting.epsilon < 10 else InputError("epsilon", "needs no noise.")

    monkeypatch.setattr(synergy, "_calibrated", calibrated)
    assert main(["synergy", *RUN, "--figures", str(tmp_path)]) == ExitCode.OK
    table = (tmp_path / "synergy_privacy_data.csv").read_text()
    assert table.count(",ok\n") == 5 * 8  # epsilon 0.25 to 4: doubled, still below 10
    assert table.count(",epsilon: needs no noise.\n") == 3 * 8


def test_interrupting_leaves_whole_files_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def calibrated(setting: synergy.Setting) -> float:
        if setting.dataset_size > 4e4 and setting.expected_batch_size < 50:
            raise KeyboardInterrupt  # in the last of the three fields only
        return 1.0

    monkeypatch.setattr(synergy, "_calibrated", calibrated)
    assert main(["synergy", *RUN, "--figures", str(tmp_path)]) == ExitCode.INTERRUPTED
    assert capsys.readouterr().err.endswith("interrupted; run the same command again.\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "synergy_privacy_compute.csv",
        "synergy_privacy_compute.png",
        "synergy_privacy_data.csv",
        "synergy_privacy_data.png",
    ]


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["--eps", "0"], "--eps: "),
        (["--delta", "1"], "--delta: "),
        (["--iterations", "0"], "--iterations: "),
        (["--iterations", "1.5"], "--iterations: expected a whole number"),
        (["--dataset-size", "0"], "dataset"),
        (["--expected-batch-size", "0"], "--expected-batch-size: "),
        (["--expected-batch-size", "-4"], "--expected-batch-size: "),
        (["--expected-batch-size", "nan"], "--expected-batch-size: "),
        (["--expected-batch-size", "6e3"], "at most half of dataset_size=10000"),
        (["--figures", __file__], "--figures: expected a folder"),
    ],
)
def test_wrong_numbers_get_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], place: str
) -> None:
    assert main(["synergy", *RUN, *arguments]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert error.startswith("dpscale synergy: ")
    assert place in error
    assert error.count("\n") == 1
