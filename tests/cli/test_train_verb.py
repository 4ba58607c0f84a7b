"""`dpscale train`: its answers, its exit codes, its one-line errors, and no key in its words."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpscale.cli.main import main
from dpscale.files import read_json
from dpscale.privacy.keys import KEY_FILE, read_key_file
from dpscale.schema import to_toml
from dpscale.training.run_folder import locked

ConfigFile = Callable[..., Path]


@pytest.fixture
def config_file(make_config: Any, tmp_path: Path) -> ConfigFile:
    """Writes a config file; keyword arguments replace sections' keys."""

    def write(purpose: str = "law-fitting", **sections: Any) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(to_toml(make_config(purpose, **sections).to_dict()))
        return path

    return write


SETTLED = {"noise_multiplier": 0.4, "truncated_batch_size": 48}


def test_a_law_fitting_run_answers_in_json(
    config_file: ConfigFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    arguments = ["train", str(config_file()), "--out", str(run_dir), "--json"]
    assert main([*arguments, "--set", "optimizer.learning_rate=0.02", "--set", "seed=5"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == read_json(run_dir / "result.json")
    assert (answer["learning_rate"], answer["seed"]) == (0.02, 5)
    assert read_json(run_dir / "config.json")["config"]["optimizer"]["learning_rate"] == 0.02


def test_a_private_run_tells_its_epsilon_and_no_key(
    config_file: ConfigFile,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Catches: keys in an answer, a progress line or a log, at the chattiest level.
    run_dir = tmp_path / "run"
    arguments = ["train", str(config_file("private", private=SETTLED)), "--out", str(run_dir)]
    with caplog.at_level(logging.DEBUG):
        assert main(arguments) == 0
        assert main([*arguments, "--json"]) == 0  # finished already: answers at once
    printed = capfd.readouterr()
    receipt = read_json(run_dir / "receipt.json")
    assert f"epsilon spent {receipt['epsilon']:.4g}" in printed.out
    assert receipt["guarantee"].startswith("(epsilon, delta)-DP")
    keys = read_key_file(run_dir)
    words = printed.out + printed.err + caplog.text
    for number in (keys.noise, keys.sampling, keys.sampling >> 64, keys.sampling & (2**64 - 1)):
        assert f"{number:x}" not in words
        assert str(number) not in words


def test_the_folder_is_named_after_the_run(
    config_file: ConfigFile, make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(config_file())]) == 0
    assert (tmp_path / "runs" / make_config().run_id / "result.json").exists()


def test_a_diverged_run_exits_1(
    config_file: ConfigFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config_file(optimizer={"learning_rate": 3e38})
    assert main(["train", str(path), "--out", str(tmp_path / "run")]) == 1
    assert "diverged after" in capsys.readouterr().out
    assert read_json(tmp_path / "run" / "result.json")["status"] == "diverged"


WRONG = {
    "a key that is unknown": (["--set", "optimizer.rate=0.1"], "optimizer: rate: unknown key"),
    "a value out of range": (
        ["--set", "optimizer.learning_rate=-1"],
        "learning_rate: expected above 0, found -1.0",
    ),
    "a value of the wrong type": (["--set", "training.iterations=few"], "expected int"),
    "an assignment without a value": (["--set", "seed"], "--set: expected key=value"),
    "another section's purpose": (["--set", "purpose=private"], "needs the section [private]"),
    "a sequence length that is not the data's": (
        ["--set", "model.seq_len=16"],
        "model.seq_len: 16 does not fit the data's 8",
    ),
    "a vocabulary that is not the data's": (
        ["--set", "model.vocab_size=512"],
        "model.vocab_size: 512 does not fit the data's 1024",
    ),
    "data that are not there": (["--set", "data.path=nowhere"], "nowhere"),
    "an unknown option": (["--learning-rate", "1"], "--learning-rate: unknown option"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line_and_exit_code_2(
    name: str, config_file: ConfigFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = WRONG[name]
    run_dir = tmp_path / "run"
    assert main(["train", str(config_file()), "--out", str(run_dir), *arguments]) == 2
    assert_one_line(capsys, message)
    assert not (run_dir / "config.json").exists()
    assert not (run_dir / "result.json").exists()


def assert_one_line(capsys: pytest.CaptureFixture[str], message: str) -> None:
    # The progress display ends with an empty line where stderr is no terminal.
    (line,) = filter(None, capsys.readouterr().err.splitlines())
    assert line.startswith("dpscale train: ")
    assert message in line


def test_a_missing_config_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "nowhere.toml"]) == 2
    assert_one_line(capsys, "nowhere.toml: no such file.")


def test_a_private_run_that_would_miss_its_target_does_not_start(
    config_file: ConfigFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Catches: a run that trains first and finds out afterwards.
    run_dir = tmp_path / "run"
    path = config_file("private", private={**SETTLED, "noise_multiplier": 0.1})
    assert main(["train", str(path), "--out", str(run_dir)]) == 2
    assert_one_line(capsys, "private.noise_multiplier: 0.1 spends epsilon=")
    assert {file.name for file in run_dir.iterdir()} <= {".lock"}


def test_a_changed_private_run_is_refused_in_one_line(
    config_file: ConfigFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Catches: the same noise on other gradients, by way of the command line.
    run_dir = tmp_path / "run"
    arguments = ["train", str(config_file("private", private=SETTLED)), "--out", str(run_dir)]
    assert main(arguments) == 0
    before = (run_dir / "result.json").read_bytes(), (run_dir / KEY_FILE).read_bytes()
    capsys.readouterr()
    assert main([*arguments, "--set", "optimizer.learning_rate=0.3"]) == 2
    assert_one_line(capsys, "cannot resume with changed optimizer.learning_rate: its noise would")
    assert ((run_dir / "result.json").read_bytes(), (run_dir / KEY_FILE).read_bytes()) == before


def test_a_folder_in_use_is_one_line_and_worth_another_try(
    config_file: ConfigFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(tmp_path / "run"):
        assert main(["train", str(config_file()), "--out", str(tmp_path / "run")]) == 75
    assert_one_line(capsys, "another process is training here")
