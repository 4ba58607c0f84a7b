import json
import os
import time
from pathlib import Path

import pytest

from dpscale.cli.main import main


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "the-run"
    path.mkdir()
    fields = {
        "status": "running",
        "step": 50,
        "iterations": 200,
        "updated_unix": time.time(),
        "process_id": os.getpid(),
        "wall_seconds": 20.0,
        "train_loss": 4.2,
        "epsilon": 1.25,
    }
    (path / "status.json").write_text(json.dumps(fields))
    return path


def test_status_tells_step_loss_epsilon_and_time_left(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(run_dir)]) == 0
    words = capsys.readouterr().out.split()
    for word in ("the-run", "running", "50/200", "4.200", "1.25"):
        assert word in words
    assert "1 min 0 s" in " ".join(words)


def test_status_of_a_folder_of_runs_counts_them(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(run_dir.parent), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["counts"]["running"] == 1
    assert answer["counts"]["finished"] == 0
    (run,) = answer["runs"]
    assert (run["run_id"], run["step"], run["iterations"]) == ("the-run", 50, 200)
    assert answer["seconds_left"] == pytest.approx(60.0)


def test_status_reads_only(run_dir: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    main(["status", str(run_dir.parent)])
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


def test_a_damaged_heartbeat_is_one_line(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_dir / "status.json").write_text('{"status": "runn')
    assert main(["status", str(run_dir)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "status.json" in line


def test_a_folder_without_runs_is_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dpscale status: {tmp_path}: no run in it")


def test_watching_ends_when_all_runs_have_ended(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        fields = json.loads((run_dir / "status.json").read_text())
        step = fields["step"] + 50
        fields |= {"step": step, "status": "running" if step < 200 else "failed"}
        (run_dir / "status.json").write_text(json.dumps(fields))

    monkeypatch.setattr(time, "sleep", sleep)
    assert main(["status", str(run_dir), "--watch"]) == 0
    assert len(looks) == 3
    assert "200/200" in capsys.readouterr().out


def test_who_stops_watching_gets_the_picture_as_it_is(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    assert main(["status", str(run_dir), "--watch"]) == 0
    assert "50/200" in capsys.readouterr().out
