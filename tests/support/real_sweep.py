"""A sweep of two tiny points by the real command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

from process_table import everyone, words_of

from dpscale.records import read_result

TINY = """
[base]
purpose = "law-fitting"
model = { vocab_size = 1024, seq_len = 16, shape = "w16" }
data = { path = "data", num_eval_units = 64 }
optimizer = { learning_rate = 0.03 }
training = { iterations = 60, metrics_every = 5, checkpoint_every = 5 }
law_fitting = { physical_batch_size = 8, noise_batch_ratio = 0.001 }
[resources]
CPU = 1
hosts = HOSTS
[[grid]]
seed = [0, 1]
"""

CORPUS = ("--input", "embedded:sotu", "--tokenizer", "embedded:moby-1024")


def dpscale(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Starts the command line in a folder, with some variables of the environment set."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-m", "dpscale.cli.main", *arguments],
        cwd=folder,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], *, seconds: float = 300) -> tuple[int, str]:
    """The exit code of a command and what it printed."""
    text, _ = process.communicate(timeout=seconds)
    return process.returncode, text


def make_folder(folder: Path, *, hosts: int = 1, extra: str = "") -> Path:
    """Puts data and a sweep file `s.toml` into a folder."""
    if not (folder / "data").exists():
        prepare = ("prepare", *CORPUS, "--seq-len", "16", "--out", "data")
        code, text = finish(dpscale(folder, *prepare))
        assert code == 0, text
    (folder / "s.toml").write_text(TINY.replace("HOSTS", str(hosts)) + extra)
    return folder


def losses(out: Path) -> dict[str, float | None]:
    """The evaluation loss of every run of a sweep; None for one without a result."""
    found = {path.name: read_result(path) for path in sorted((out / "runs").iterdir())}
    return {name: result and result.eval_loss for name, result in found.items()}


def furthest_step(out: Path) -> int:
    """The step of the run that has come furthest."""
    paths = out.glob("runs/*/status.json")
    return max((json.loads(path.read_text())["step"] for path in paths), default=0)


def trainings(out: Path) -> list[int]:
    """The processes that train in a sweep's folder, without what only started them."""
    return [pid for pid in everyone() if _trains(words_of(pid), str(out))]


def _trains(words: list[str], out: str) -> bool:
    is_ours = any(out in word for word in words)
    return is_ours and "train" in words and not any("leash" in word for word in words)
