"""The whole job in miniature, by the commands that a user types."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dpscale.cli.quickstart import Options, verdict
from dpscale.cli.quickstart import stages as quickstart_stages
from dpscale.errors import ExitCode
from dpscale.records import read_result

SWEEP = """
[base]
purpose = "law-fitting"
[base.model]
vocab_size = 1024
seq_len = 8
[base.data]
path = "data"
num_eval_units = 32
[base.optimizer]
learning_rate = 0.03125
[base.training]
iterations = 30
metrics_every = 5
eval_every = 5
checkpoint_every = 30
[base.clipping]
microbatch_size = 8
[base.law_fitting]
physical_batch_size = 16
noise_batch_ratio = 0.0
[[grid]]
shape = ["w16", "w24", "w32"]
law_fitting.noise_batch_ratio = [0.0, 0.004, 0.016]
"""


class Shell:
    """Runs dpscale commands in a folder, as a user would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, expect: int = ExitCode.OK) -> dict[str, Any]:
        """The JSON object that a command prints; its exit code must be the expected one."""
        command = [sys.executable, "-m", "dpscale.cli.main", *arguments, "--json"]
        done = subprocess.run(
            command,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expect, done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout) if done.stdout else {}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A folder with some text and a sweep file."""
    folder = tmp_path
    # A word is mostly followed by the next of the list, so that there is something to learn.
    generator = random.Random(1)
    words = ["whale", "sea", "ship", "captain", "crew", "wind", "storm", "night", "sail", "oar"]
    texts = []
    for _ in range(300):
        places = [generator.randrange(len(words))]
        while len(places) < 200:
            follows = generator.random() < 0.9
            places.append(places[-1] + 1 if follows else generator.randrange(len(words)))
        texts.append(" ".join(words[place % len(words)] for place in places))
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "text.jsonl").write_text(lines, encoding="utf-8")
    (folder / "sweep.toml").write_text(SWEEP, encoding="utf-8")
    return Shell(folder)


def test_the_whole_job(shell: Shell) -> None:
    tokenizer = ("--tokenizer", "embedded:moby-1024", "--seq-len", "8")
    data = shell("prepare", "--input", "text.jsonl", *tokenizer, "--out", "data")
    assert data["dataset_size"] > 1000

    swept = shell("sweep", "sweep.toml", "--out", "sweep")
    assert (swept["finished"], swept["failed"]) == (9, 0)
    again = shell("sweep", "sweep.toml", "--out", "sweep")
    assert again["finished"] == 9

    fitted = shell("fit", "sweep", "--target", "eval_loss", "--out", "law.json")
    assert (shell.folder / "law.json").exists()
    assert fitted["form"] in {"semi-parametric", "form-3", "form-5", "effective-noise"}

    answer = shell(
        *("recommend", "--eps", "8", "--delta", "1e-4", "--flops", "2e9", "--law", "law.json"),
        *("--data", "data", "--out", "best.toml", "--answer", "answer.json"),
    )
    low, high = answer["predicted_loss_interval"]
    assert low < answer["predicted_loss"] < high
    assert answer["predicts"] == "eval_loss"
    assert answer["train_flops"] <= 2e9

    run = shell("train", "best.toml", "--out", "private")
    assert run["status"] == "finished"
    assert run["epsilon"] <= 8.0
    for key in ("expected_batch_size", "iterations", "num_params", "learning_rate"):
        assert run[key] == answer[key], key
    receipt = json.loads((shell.folder / "private" / "receipt.json").read_text())
    assert receipt["iterations"] == run["iterations"]
    assert receipt["dataset_size"] == data["dataset_size"]

    (text,) = shell("generate", "private", "--prompt", "the whale", "--max-tokens", "5")["texts"]
    assert (text["prompt"], len(text["tokens"])) == ("the whale", 5)

    scored = shell("eval", "private")["held_out"]
    assert scored["loss"]["value"] == pytest.approx(run["eval_loss"], rel=1e-6)

    shell("export", "private", "--format", "gemma2", "--out", "hf")
    shell("import", "hf", "--out", "imported")
    again = shell("generate", "imported", "--prompt", "the whale", "--max-tokens", "5")["texts"]
    assert again == [text]

    counts = shell("status", "sweep")
    assert len(counts["runs"]) == 9
    assert_sweep_learned(shell.folder / "sweep", data["unigram_entropy"])
    assert_verdict_is_read(shell.folder)


def assert_sweep_learned(sweep: Path, unigram_entropy: float) -> None:
    """Without noise every model knows more than how often each token occurs; noise hurts."""
    results = [read_result(path) for path in (sweep / "runs").iterdir()]
    losses = {(r.num_params, r.noise_batch_ratio): r.eval_loss for r in results if r is not None}
    assert len(losses) == 9
    for size in {size for size, _ in losses}:
        silent, loud = losses[size, 0.0], losses[size, 0.016]
        assert silent is not None
        assert loud is not None
        assert silent < unigram_entropy
        assert silent < loud


def assert_verdict_is_read(folder: Path) -> None:
    """Quickstart's verdict holds what the stages wrote."""
    (folder / "recommendation.json").write_text((folder / "answer.json").read_text())
    found = verdict(folder)
    assert found.epsilon <= found.target_epsilon == 8.0
    assert found.actual_loss == read_result(folder / "private").eval_loss  # type: ignore[union-attr]
    assert found.relative_error == pytest.approx(found.actual_loss / found.predicted_loss - 1)


def test_quickstart_is_made_of_real_commands() -> None:
    # Catches: a stage whose options the verb does not know.
    import importlib

    from dpscale.cli.main import parse
    from dpscale.cli.verbs import VERBS

    for stage in quickstart_stages(Options()):
        verb, *arguments = stage.arguments
        parse(importlib.import_module(VERBS[verb].module), verb, arguments)
