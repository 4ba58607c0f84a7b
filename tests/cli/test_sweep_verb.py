"""The verb `sweep` from the command line, with a fake `train` in place of the real one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dpscale.cli import main as command_line
from dpscale.cli import sweep as sweep_verb
from dpscale.sweep.launchers.protocol import PYTHON
from dpscale.sweep.layout import SweepFolder, locked

SWEEP = """
[base]
purpose = "law-fitting"
model = { vocab_size = 64, seq_len = 8, shape = "w16" }
data = { path = "%s" }
optimizer = { learning_rate = 0.1 }
training = { iterations = 20 }
law_fitting = { physical_batch_size = 4, noise_batch_ratio = 0.5 }
[[grid]]
seed = [0, 1]
"""

FAKE_TRAIN = """
import json, os, sys, time, tomllib
config, out, mode = sys.argv[1], sys.argv[2], sys.argv[3]
fields = tomllib.load(open(config, "rb"))
os.makedirs(out, exist_ok=True)
if mode == "hang":
    time.sleep(60)
if mode == "crash" and fields["seed"] == 1:
    sys.exit("MemoryError: no memory left")
model = fields["model"]
result = dict(run_id=os.path.basename(out), purpose="law-fitting", status="finished", error=None,
    seed=fields["seed"], num_params=1000, num_params_non_embedding=500, width=model["width"],
    num_layers=2, seq_len=8, vocab_size=64, physical_batch_size=4, expected_batch_size=None,
    iterations=20, steps_taken=20, noise_batch_ratio=0.5, noise_multiplier=None,
    learning_rate=0.1, l2_clip_norm=1.0, train_loss=3.0, eval_loss=3.1, train_flops=1e6,
    epsilon=None, wall_seconds=2.0, data_hash="abc", dataset_size=100, commit=None, device="cpu")
with open(out + "/result.json.new", "w") as file:
    json.dump(result, file)
os.replace(out + "/result.json.new", out + "/result.json")
"""


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "fake_train.py").write_text(FAKE_TRAIN)
    path = tmp_path / "s.toml"
    path.write_text(SWEEP % (tmp_path / "data"))
    return path


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What the fake train does, to be changed by the test."""
    chosen = ["finish"]

    def command(config: Path, run_dir: Path, *, keys: Path | None) -> list[str]:
        fake = [sys.executable, "-S", str(tmp_path / "fake_train.py")]
        return [*fake, str(config), str(run_dir), chosen[0]]

    monkeypatch.setattr(sweep_verb, "train_command", command)
    return chosen


def dpscale(*arguments: Any) -> int:
    return command_line.main([str(argument) for argument in arguments])


def test_a_sweep_ends_with_a_table_and_one_json_object(
    sweep_file: Path, mode: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert dpscale("sweep", sweep_file, "--out", out, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    table = str(out / "results.parquet")
    counts = {"points": 2, "finished": 2, "diverged": 0, "failed": 0}
    assert answer == {**counts, "table": table, "failures": []}
    assert (out / "results.parquet").exists()
    assert (out / "results.csv").exists()


def test_a_failed_point_is_exit_code_1_and_is_named_in_json_text_and_table(
    sweep_file: Path, mode: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mode[0], out = "crash", tmp_path / "out"
    command = ("sweep", sweep_file, "--out", out, "--retries", "0")
    assert dpscale(*command, "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    (failure,) = answer["failures"]
    assert (answer["finished"], answer["failed"]) == (1, 1)
    assert failure["status"] == "failed"
    assert "MemoryError: no memory left" in failure["error"]
    assert "no memory left" in (out / "results.csv").read_text()
    assert dpscale(*command) == 1
    assert "no memory left" in capsys.readouterr().out


def test_what_failed_is_run_again_by_the_same_command(
    sweep_file: Path, mode: list[str], tmp_path: Path
) -> None:
    mode[0], out = "crash", tmp_path / "out"
    assert dpscale("sweep", sweep_file, "--out", out, "--retries", "0") == 1
    mode[0] = "finish"
    assert dpscale("sweep", sweep_file, "--out", out) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jobs", "0"], "--jobs: expected at least 1, found 0."),
        (["--jobs", "2", "--launcher", "ray"], "--jobs: is for --launcher local; ray has its own."),
        (
            ["--launcher", "k8s"],
            "--launcher: expected one of 'local', 'ray', 'slurm', found 'k8s'.",
        ),
        (["--retries", "-1"], "--retries: expected at least 0, found -1."),
        (["--set", "training.iterations=0"], "s.toml: training: iterations: expected at least 1"),
        (["--set", "data.path=nowhere"], "data.path: no folder 'nowhere'"),
        (["--set", "seed=1"], "--set: seed is an axis"),
    ],
)
def test_a_wrong_option_is_one_line_and_runs_nothing(
    arguments: list[str],
    message: str,
    sweep_file: Path,
    mode: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert dpscale("sweep", sweep_file, "--out", tmp_path / "out", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dpscale sweep: ")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_folder_in_which_another_sweep_works_is_refused(
    sweep_file: Path, mode: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(SweepFolder(tmp_path / "out")):
        assert dpscale("sweep", sweep_file, "--out", tmp_path / "out") == 2
    assert "--out: another sweep works in" in capsys.readouterr().err
    assert not (tmp_path / "out" / "runs").exists()


def test_set_may_be_repeated(sweep_file: Path, mode: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    sets = ("--set", "training.iterations=7", "--set", "optimizer.learning_rate=0.5")
    assert dpscale("sweep", sweep_file, "--out", out, *sets) == 0
    text = next((out / "configs").glob("*.toml")).read_text()
    assert "iterations = 7" in text
    assert "learning_rate = 0.5" in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_exits_75_leaves_no_process_and_can_be_repeated(
    sweep_file: Path, mode: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    code = (
        "import sys; from dpscale.cli import main, sweep\n"
        "fake, *rest = sys.argv[1:]\n"
        "sweep.train_command = lambda config, out, keys: "
        "[sys.executable, '-S', fake, str(config), str(out), 'hang']\n"
        "sys.exit(main.main(rest))"
    )
    fake = str(tmp_path / "fake_train.py")
    process = subprocess.Popen(
        [sys.executable, "-c", code, fake, "sweep", str(sweep_file), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not list(out.glob("runs/*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "interrupted" in errors.splitlines()[-1]
    assert not processes_that_run(fake)
    assert dpscale("sweep", sweep_file, "--out", out) == 0


def processes_that_run(script: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_text().split("\0")
            if script in words and path.parent.name != str(os.getpid()):
                found.append(" ".join(words))
    return found


def test_a_dry_run_prints_order_flops_and_hours_and_writes_nothing(
    sweep_file: Path, mode: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ("sweep", sweep_file, "--out", out, "--dry-run", "--set", "data.path=nowhere")
    assert dpscale(*command) == 0
    text = capsys.readouterr().out
    assert "2 runs to do, 0 have ended" in text
    for kind in ("CPU core", "TPU v5e", "NVIDIA H100"):
        assert kind in text
    assert dpscale(*command, "--jobs", "2", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["order"]) == 2
    assert answer["total_flops"] == pytest.approx(sum(answer["flops"]))
    assert answer["device_hours"]["CPU core"] == pytest.approx(answer["total_flops"] / 3e10 / 3600)
    assert answer["stretch"] == pytest.approx(1.0)
    assert not out.exists()


def test_a_dry_run_leaves_out_what_has_ended(
    sweep_file: Path, mode: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mode[0], out = "crash", tmp_path / "out"
    assert dpscale("sweep", sweep_file, "--out", out, "--retries", "0") == 1
    capsys.readouterr()
    assert dpscale("sweep", sweep_file, "--out", out, "--dry-run", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ended"], len(answer["order"])) == (1, 1)


def test_a_full_disk_fails_points_by_name_and_the_same_command_goes_on(
    sweep_file: Path, tmp_path: Path
) -> None:
    # The sweep's own files are what does not fit here: 600 bytes hold no config.
    out = tmp_path / "out"
    code = (
        "import resource, sys; from dpscale.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))\n"
        "sys.exit(main.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "sweep", str(sweep_file), "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 75
    (line,) = done.stderr.splitlines()
    assert "file too large; make room, and run the same command again" in line
    assert not list(out.rglob("*.toml"))  # nothing half-written


def test_the_command_of_a_point_is_dpscale_train(tmp_path: Path) -> None:
    command = sweep_verb.train_command(tmp_path / "c.toml", tmp_path / "run")
    train = ["train", str(tmp_path / "c.toml"), "--out", str(tmp_path / "run")]
    assert command == [PYTHON, "-m", "dpscale.cli.main", *train]
    with_keys = sweep_verb.train_command(tmp_path / "c.toml", tmp_path / "run", keys=Path("k"))
    assert with_keys == [*command, "--keys", "k"]
