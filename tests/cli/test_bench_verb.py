"""`dpscale bench`: its answers, its choice in a config file, its one-line errors; never times."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dpscale.bench.timing import Stopwatch
from dpscale.cli.main import main
from dpscale.errors import ExitCode

CONFIG = """\
# A run to measure.
purpose = "private"
[model]
vocab_size = 32
seq_len = 6
num_layers = 1
width = 16
num_heads = 2
num_kv_heads = 1
head_dim = 8
feed_forward_width = 32
[data]
path = "is not read"
[optimizer]
learning_rate = 0.01
[clipping] # to be found
l2_clip_norm = 0.5 # kept
[training]
iterations = 10
[private]
target_epsilon = 8.0
target_delta = 1e-5
expected_batch_size = 5
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    return path


def test_clipping_answers_in_json_and_writes_its_choice(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--strategy", "bookkeeping", "--strategy", "vmap", "--microbatch-size", "2"]
    arguments = ["bench", "clipping", str(config_file), *few, "--rounds", "2", "--all", "--write"]
    assert main([*arguments, "--json"]) == ExitCode.OK
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert answer["is_complete"] is True
    assert answer["shape"]["batch_size"] == 5
    assert answer["baseline"]["strategy"] == "non-private"
    assert {row["strategy"] for row in answer["rows"]} == {"bookkeeping", "vmap"}
    for row in answer["rows"]:
        assert row["time_ratio_q25"] <= row["time_ratio"] <= row["time_ratio_q75"]
        assert row["memory_ratio"] > 0
        assert row["memory_ratio_to_best"] > 0
        assert row["gradient_error"] < 2e-6
        assert row["norm_error"] < 2e-6
        assert row["rounds"] == 2
        assert row["seconds"] > 0
    assert answer["auto"]["ratio_to_best"] > 0
    best = answer["rows"][0]
    assert answer["best"] == best
    assert answer["written"] == {
        "strategy": best["strategy"],
        "norm_rule": best["norm_rule"] or "auto",
        "microbatch_size": best["microbatch_size"],
    }
    text = config_file.read_text()
    assert tomllib.loads(text)["clipping"] == {"l2_clip_norm": 0.5, **answer["written"]}
    kept = [line for line in text.splitlines() if line in CONFIG.splitlines()]
    assert kept == CONFIG.splitlines()
    assert "compiling: bookkeeping" in printed.err


@pytest.mark.parametrize(("is_private", "sizes"), [(True, {1, 2}), (False, {1, 2, 4, 8})])
def test_of_a_private_batch_no_larger_microbatch_is_written_than_pays_on_average(
    config_file: Path, capsys: pytest.CaptureFixture[str], is_private: bool, sizes: set[int]
) -> None:
    # Catches: a microbatch of the whole expected batch, which half of all draws do not fit.
    text = CONFIG.replace("expected_batch_size = 5", "expected_batch_size = 8")
    if not is_private:
        text = text[: text.index("[private]")].replace('"private"', '"law-fitting"')
        text += "[law_fitting]\nphysical_batch_size = 8\nnoise_batch_ratio = 0.1\n"
    config_file.write_text(text)
    few = ["--strategy", "vmap", "--rounds", "1", "--all", "--json"]
    assert main(["bench", "clipping", str(config_file), *few]) == ExitCode.OK
    answer = json.loads(capsys.readouterr().out)
    measured = {row["microbatch_size"] for row in answer["rows"] if row["strategy"] == "vmap"}
    assert measured == sizes
    assert answer["auto"]["microbatch_size"] == max(sizes)


def test_people_get_a_table_of_drawn_shapes_without_a_named_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dpscale.bench import shapes

    # Small ones, so that the test is quick.
    for name, values in {
        "WIDTHS": (16,),
        "LAYERS": (1,),
        "SEQ_LENS": (6,),
        "VOCAB_SIZES": (32,),
        "BATCH_SIZES": (5,),
    }.items():
        monkeypatch.setattr(shapes, name, values)
    monkeypatch.setattr(shapes, "LEAST_FLOPS", 0)
    few = ["--strategy", "vmap", "--microbatch-size", "1", "--rounds", "1"]
    assert main(["bench", "clipping", "--drawn", "1", "--seed", "4", *few]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "seed      4" in out
    assert "device    " in out
    assert "baseline: non-private" in out
    table = out[out.index("drawn shapes:") :].splitlines()
    assert table[2].startswith("drawn-1: width 16, 1 layers, seq_len 6, vocabulary 32, batch 5  ")
    assert len(table) == 3


def test_the_step_answers_in_json(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = '[clipping]\nstrategy = "bookkeeping"\nnorm_rule = "gram"\nmicrobatch_size = 2'
    config_file.write_text(CONFIG.replace("[clipping]", given))
    assert main(["bench", "step", str(config_file), "--rounds", "2", "--json"]) == ExitCode.OK
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert answer["time_ratio"]["median"] > 0
    assert answer["time_ratio_per_example"]["median"] > 0
    assert set(answer["shares"]) == {"gradient", "noise", "optimizer"}
    assert len(answer["drawn"]) == answer["rounds"] == 2
    assert answer["clipping"]["l2_clip_norm"] == 0.5
    assert answer["clipping"]["microbatch_size"] == 2  # not what auto would take


def test_a_stop_prints_what_is_there_and_has_its_exit_code(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Catches: minutes of measurement lost to Ctrl-C, or a choice written that was not measured.
    measured = Stopwatch.rounds

    def rounds(stopwatch: Stopwatch, calls: Any, count: int) -> Any:
        seconds = measured(stopwatch, calls, count)
        stopwatch.stop.is_set = True
        return seconds

    monkeypatch.setattr(Stopwatch, "rounds", rounds)
    few = ["--strategy", "vmap", "--microbatch-size", "1", "--json", "--write"]
    assert main(["bench", "clipping", str(config_file), *few]) == ExitCode.INTERRUPTED
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert answer["is_complete"] is False
    assert answer["written"] is None
    assert [row["rounds"] for row in answer["rows"]] == [1] * len(answer["rows"])
    assert answer["rows"]
    assert "dpscale bench: stopped" in printed.err
    assert config_file.read_text() == CONFIG


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["clipping"], "--shape: "),
        (["clipping", "--shape", "huge"], "--shape: "),
        (["clipping", "missing.toml"], "missing.toml: "),
        (["clipping", "run.toml", "--shape", "tiny"], "--shape: "),
        (["clipping", "--shape", "tiny", "--write"], "--write: "),
        (["clipping", "--shape", "tiny", "--rounds", "0"], "--rounds: "),
        (["clipping", "--shape", "tiny", "--drawn", "-1"], "--drawn: "),
        (["clipping", "--shape", "tiny", "--microbatch-size", "0"], "--microbatch-size: "),
        (["clipping", "--shape", "tiny", "--batch-size", "0"], "--batch-size: "),
        (["step", "--shape", "tiny", "--drawn", "2"], "--drawn: "),
        (["step", "--shape", "tiny", "--strategy", "vmap"], "--strategy: "),
        (["step", "--drawn", "2"], "--drawn: "),
        (["accounting", "--shape", "tiny"], "accounting"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(
    arguments: list[str], place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == ExitCode.USAGE
    printed = capsys.readouterr()
    assert printed.err.startswith("dpscale bench: ")
    assert place in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
