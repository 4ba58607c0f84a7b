"""`dpscale fit` from a table to a law, in words and in JSON, and its refusals."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dpscale.cli.main import main
from dpscale.scaling.law.lawfile import load_law

HEADER = (
    "run_id,purpose,status,error,seed,num_params,width,seq_len,vocab_size,physical_batch_size,"
    "iterations,steps_taken,noise_batch_ratio,learning_rate,train_loss,eval_loss,step,"
    "step_train_loss,step_eval_loss"
)


def write_table(
    path: Path, *, sizes: tuple[int, ...] = (20_000, 40_000, 80_000, 140_000, 180_000)
) -> Path:
    """A small sweep of form (3): every run ends at a loss known in closed form."""
    lines = [HEADER]
    for size in sizes:
        for ratio in (0.0, 2.0**-11, 2.0**-9, 2.0**-7, 2.0**-5):
            for plan in (200, 300, 400):
                name = f"r{len(lines)}"
                for step in range(50, plan + 1, 50):
                    loss = 1.8 + 250 / size**0.55 + 60 / (64 * step) ** 0.4 + 14 * ratio**0.6
                    run = f"{name},law-fitting,finished,,0,{size},16,64,1024,64,{plan},{plan}"
                    lines.append(f"{run},{ratio},0.03,{loss},,{step},{loss},")
    lines.append("bad,law-fitting,failed,killed,0,20000,16,64,1024,64,400,0,0.0,0.02,,,0,,")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "results.csv")


def test_fit_writes_a_law_its_figures_and_a_report(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    law_path, figures = tmp_path / "law.json", tmp_path / "figures"
    arguments = ["--out", str(law_path), "--figures", str(figures), "--bootstraps", "3"]
    assert main(["fit", str(table), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "75 runs to fit, 1 left out" in printed
    assert "killed (bad)" in printed
    assert "held out: the largest size (180,000 parameters)" in printed
    assert "held out: the highest noise-batch ratio (0.0312)" in printed
    for form in ("semi-parametric", "form-3", "form-5", "effective-noise"):
        assert form in printed
    assert load_law(law_path).form == "form-3"
    assert len(list(figures.glob("*.png"))) == 4


def test_json_holds_errors_coefficients_range_and_reasons(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    law_path = tmp_path / "law.json"
    arguments = ["--out", str(law_path), "--bootstraps", "2", "--form", "semi-parametric", "--json"]
    assert main(["fit", str(table), *arguments]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["form"] == "semi-parametric"
    assert answer["form_chosen_by"] == "request"
    assert answer["num_runs"] == 75
    assert answer["excluded"] == [{"run_id": "bad", "reason": "status is failed: killed"}]
    assert answer["valid_range"]["num_params"] == [20_000, 180_000]
    ways = {each["name"]: each["errors"] for each in answer["held_out"]}
    assert list(ways) == ["largest size", "longest", "least noise", "most noise"]
    assert ways["largest size"]["form-3"]["mean_abs_error"] < 0.005
    assert ways["largest size"]["form-3"]["regret"] == 0.0
    assert "chinchilla" not in ways["most noise"]
    assert answer["coefficients"]["form-3"]["alpha"] == pytest.approx(0.55, abs=0.05)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.replace("learning_rate", "lr"), "'learning_rate' is missing"),
        (lambda text: text.replace("law-fitting", "private"), "no usable law-fitting run"),
        (lambda text: re.sub(r"finished,,0,\d+", "finished,,0,60000", text), "single"),
    ],
)
def test_a_table_that_cannot_be_fitted_is_one_line_and_exit_2(
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[str], str],
    expected: str,
) -> None:
    table.write_text(change(table.read_text()))
    assert main(["fit", str(table), "--out", str(tmp_path / "law.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"dpscale fit: {table}: ")
    assert expected in error
    assert error.count("\n") == 1
    assert not (tmp_path / "law.json").exists()


def test_too_few_bootstraps_are_refused(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--out", str(tmp_path / "law.json"), "--bootstraps", "1"]
    assert main(["fit", str(table), *arguments]) == 2
    assert "--bootstraps: expected at least 2, found 1." in capsys.readouterr().err
