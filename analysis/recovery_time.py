"""From the SIGKILL of a worker in the middle of a run until that run is further than it was.

    python analysis/recovery_time.py --launcher local --launcher ray --rounds 5

A sweep of one small point; killed is what the engine started: the training process itself
(`local`), or Ray's worker around it (`ray`). Printed are the seconds until a new training process
is there, which is the engine's part, and those it then needs to start Python and JAX, to restore
the checkpoint and to pass the step at which it was killed.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SWEEP = """
[base]
purpose = "law-fitting"
model = { vocab_size = 1024, seq_len = 64, shape = "w32" }
data = { path = "data", num_eval_units = 0 }
optimizer = { learning_rate = 0.03 }
training = { iterations = 1000000, metrics_every = 10, checkpoint_every = 50 }
law_fitting = { physical_batch_size = 16, noise_batch_ratio = 0.001 }
[[grid]]
seed = [0]
"""

DPSCALE = [sys.executable, "-m", "dpscale.cli.main"]
CORPUS = ["--input", "embedded:sotu", "--tokenizer", "embedded:moby-1024", "--seq-len", "64"]


def status(out: Path) -> dict[str, int]:
    """The heartbeat of the run; zeros before there is one."""
    for path in out.glob("runs/*/status.json"):
        return dict(json.loads(path.read_text()))
    return {"step": 0, "process_id": 0}


def training(out: Path) -> int:
    """The process that trains; 0 where none does."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
        except OSError:
            continue
        is_run = any(str(out) in word for word in words) and "train" in words
        if is_run and not any("leash" in word for word in words):
            return int(path.parent.name)
    return 0


def parent_of(pid: int) -> int:
    """The process that started it."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def wait(holds: object, seconds: float = 120) -> None:
    """Until it is so."""
    deadline = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError("Expected a run to get on, and it did not.")
        time.sleep(0.02)


def recover(out: Path, launcher: str) -> tuple[float, float]:
    """Kills the worker once; the seconds of the engine, and those of the new process."""
    first = status(out)["step"]
    wait(lambda: status(out)["step"] > first + 120)  # past its next checkpoint
    old, step = training(out), status(out)["step"]
    os.kill(old if launcher == "local" else parent_of(old), signal.SIGKILL)
    killed = time.monotonic()
    wait(lambda: training(out) not in (0, old))
    there = time.monotonic()
    wait(lambda: status(out)["process_id"] != old and status(out)["step"] > step)
    return there - killed, time.monotonic() - there


def measure(launcher: str, rounds: int) -> str:
    """A line: medians over several kills of one run."""
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name), Path(name) / "out"
        subprocess.run([*DPSCALE, "prepare", *CORPUS, "--out", "data"], cwd=folder, check=True)
        (folder / "s.toml").write_text(SWEEP)
        command = ["sweep", "s.toml", "--out", str(out), "--launcher", launcher]
        sweep = subprocess.Popen([*DPSCALE, *command], cwd=folder)
        try:
            times = [recover(out, launcher) for _ in range(rounds)]
        finally:
            sweep.send_signal(signal.SIGINT)
            sweep.wait()
    engine, start = (statistics.median(part) for part in zip(*times, strict=True))
    most = max(sum(pair) for pair in times)
    return f"{launcher}: engine {engine:.1f} s, restart {start:.1f} s; both at most {most:.1f} s"


def main() -> None:
    """Prints a line for each engine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--launcher", action="append", choices=("local", "ray"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for launcher in options.launcher or ["local", "ray"]:
        print(measure(launcher, options.rounds), flush=True)


if __name__ == "__main__":
    main()
