"""A sweep whose runs are a small script, so that no test here needs JAX."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dpscale.config import RunConfig
from dpscale.sizes import expand_shape
from dpscale.sweep.layout import SweepFolder

FAKE_TRAIN = """
import json, os, signal, sys, time
plan, out, start = json.load(open(sys.argv[1])), sys.argv[3], time.time()
os.makedirs(out, exist_ok=True)
with open(plan["starts"], "a") as file:
    file.write(json.dumps({"out": out, "pid": os.getpid(), "at": start,
                           "cores": sorted(os.sched_getaffinity(0))}) + "\\n")
behaviour = plan["behaviours"].get(os.path.basename(out), "finish")

def write(name, value):
    with open(out + "/" + name + ".new", "w") as file:
        file.write(json.dumps(value))
    os.replace(out + "/" + name + ".new", out + "/" + name)

def heartbeat(status, step):
    write("status.json", {"status": status, "step": step, "iterations": 20,
        "updated_unix": time.time(), "process_id": os.getpid(), "wall_seconds": 1.0})

def result(status, error, steps):
    lines = [{"step": s, "train_loss": 5.0 - s / 10, "eval_loss": None} for s in (10, 20)]
    with open(out + "/metrics.jsonl", "w") as file:
        file.writelines(json.dumps(line) + "\\n" for line in lines if line["step"] <= steps)
    write("result.json", {**plan["results"][os.path.basename(out)], "status": status,
                          "error": error, "steps_taken": steps})

def leave(*_):
    heartbeat("interrupted", 10)
    sys.exit(75)

first = not os.path.exists(out + "/tried")
open(out + "/tried", "w").close()
if behaviour == "crash" or (behaviour == "crash once" and first):
    print("loading", file=sys.stderr)
    print("ValueError: the disk is full", file=sys.stderr)
    sys.exit(1)
if behaviour == "refuse":
    print("dpscale train: private: refused", file=sys.stderr)
    sys.exit(2)
if behaviour == "die":
    heartbeat("running", 10)
    os.kill(os.getpid(), signal.SIGKILL)
if behaviour == "exit 0 without result":
    sys.exit(0)
if behaviour == "diverge":
    result("diverged", "train_loss is not finite", 10)
    sys.exit(1)
if behaviour == "hang" or (behaviour == "hang once" and first):
    signal.signal(signal.SIGTERM, leave)
    heartbeat("running", 10)
    time.sleep(60)
if behaviour == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    heartbeat("running", 10)
    time.sleep(60)
time.sleep(plan["seconds"])
result("finished", None, 20)
"""


def make_config(width: int = 16, rate: float = 0.1, seed: int = 0) -> RunConfig:
    fields = {
        "purpose": "law-fitting",
        "model": {"vocab_size": 64, "seq_len": 8, "shape": f"w{width}"},
        "data": {"path": "d"},
        "optimizer": {"learning_rate": rate},
        "training": {"iterations": 20},
        "law_fitting": {"physical_batch_size": 4, "noise_batch_ratio": 0.5},
        "seed": seed,
    }
    return RunConfig.from_dict(expand_shape(fields, where="t"), where="t")


def result_fields(config: RunConfig) -> dict[str, Any]:
    """A `result.json` for a config; what the tests here do not look at is made up."""
    return {
        "run_id": config.run_id,
        "purpose": config.purpose,
        "status": "finished",
        "error": None,
        "seed": config.seed,
        "num_params": 1000,
        "num_params_non_embedding": 500,
        "width": config.model.width,
        "num_layers": config.model.num_layers,
        "seq_len": 8,
        "vocab_size": 64,
        "physical_batch_size": 4,
        "expected_batch_size": None,
        "iterations": 20,
        "steps_taken": 20,
        "noise_batch_ratio": 0.5,
        "noise_multiplier": None,
        "learning_rate": config.optimizer.learning_rate,
        "l2_clip_norm": 1.0,
        "train_loss": 3.0,
        "eval_loss": 3.1,
        "train_flops": 1e6,
        "epsilon": None,
        "wall_seconds": 2.0,
        "data_hash": "abc",
        "dataset_size": 100,
        "commit": None,
        "device": "cpu",
    }


@dataclass
class FakeTrain:
    """Makes commands whose behaviour a test chooses by run."""

    root: Path
    points: Sequence[RunConfig]

    def plan(self, behaviours: dict[str, str] | None = None, *, seconds: float = 0.0) -> None:
        plan = {
            "starts": str(self.root / "starts.jsonl"),
            "behaviours": behaviours or {},
            "results": {point.run_id: result_fields(point) for point in self.points},
            "seconds": seconds,
        }
        (self.root / "plan.json").write_text(json.dumps(plan))
        (self.root / "fake_train.py").write_text(FAKE_TRAIN)

    def command(self, config: Path, run_dir: Path) -> list[str]:
        script = [sys.executable, "-S", "-E", str(self.root / "fake_train.py")]
        return [*script, str(self.root / "plan.json"), str(config), str(run_dir)]

    def starts(self) -> list[dict[str, Any]]:
        path = self.root / "starts.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def started_runs(self) -> list[str]:
        return [Path(start["out"]).name for start in self.starts()]


@pytest.fixture
def points() -> list[RunConfig]:
    return [make_config(seed=seed) for seed in range(3)]


@pytest.fixture
def fake(tmp_path: Path, points: list[RunConfig]) -> FakeTrain:
    train = FakeTrain(tmp_path, points)
    train.plan()
    return train


@pytest.fixture
def make_point() -> Callable[..., RunConfig]:
    """Makes a config from a width, a learning rate and a seed."""
    return make_config


@pytest.fixture
def finish() -> Callable[[SweepFolder, RunConfig], None]:
    """Puts the result of a point into a sweep's folder."""

    def write(folder: SweepFolder, point: RunConfig) -> None:
        run_dir = folder.run_dir(point.run_id)
        run_dir.mkdir(parents=True)
        (run_dir / "result.json").write_text(json.dumps(result_fields(point)))

    return write
