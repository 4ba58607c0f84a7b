"""`dpscale quickstart`: the whole job in miniature, by the very commands it prints."""

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpscale.cli.output import CommonOptions, Output
from dpscale.errors import DpscaleError, ExitCode, InputError

PROMPT = "My fellow citizens"
TOLERANCE = 0.05
"""How far the actual loss may lie from the prediction, as a share of it."""


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Do the main job end to end on the text that ships: some minutes on two cores.

    Prepares the State of the Union speeches, sweeps small models over size, noise and
    learning rate, fits a law, asks it for the best configuration for a privacy and compute
    budget that is not in the sweep, trains that one privately, and compares the loss with the
    prediction. Every stage is a dpscale command, printed before it runs. Repeat quickstart to
    go on after an interruption: what is done is not done again.
    """

    out: Path = Path("quickstart")
    """Folder for everything that comes out."""
    eps: float = 8.0
    """Target epsilon of the private run."""
    delta: float = 1.5e-5
    """Target delta of the private run."""
    flops: float = 5.5e11
    """Compute budget of the private run."""


@dataclass(frozen=True)
class Stage:
    """A command of the quickstart; `may_fail_points` where exit code 1 still leaves a result."""

    title: str
    arguments: tuple[str, ...]
    may_fail_points: bool = False


@dataclass(frozen=True)
class Verdict:
    """The private run against its prediction. Losses in nats per token, on held-out units."""

    predicted_loss: float
    predicted_loss_interval: tuple[float, float]
    actual_loss: float
    unigram_entropy: float
    epsilon: float
    target_epsilon: float

    @property
    def relative_error(self) -> float:
        """Of the prediction, signed: positive where the actual loss is higher."""
        return self.actual_loss / self.predicted_loss - 1

    @property
    def checks(self) -> dict[str, bool]:
        """What should hold, and whether it does."""
        low, high = self.predicted_loss_interval
        return {
            f"the prediction is within {TOLERANCE:.0%} of the actual loss": (
                abs(self.relative_error) <= TOLERANCE
            ),
            "the actual loss lies in the prediction interval": low <= self.actual_loss <= high,
            "the model beats the unigram entropy of its corpus": (
                self.actual_loss < self.unigram_entropy
            ),
            "epsilon spent is within the target": self.epsilon <= self.target_epsilon,
        }


def run(options: Options, output: Output) -> ExitCode:
    """Runs all stages; `FAILED_POINTS` when the verdict is not clean."""
    started = time.monotonic()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    _copy_sweep(out / "sweep.toml")
    plan = stages(options)
    for number, stage in enumerate(plan, start=1):
        _run_stage(stage, f"[{number}/{len(plan)}]", output)
    found = verdict(out)
    _report(found, output)
    minutes = (time.monotonic() - started) / 60
    output.say(f"\nEverything is in {out}; this took {minutes:.1f} minutes.")
    output.result({**_json(found), "out": str(out), "wall_seconds": 60 * minutes})
    return ExitCode.OK if all(found.checks.values()) else ExitCode.FAILED_POINTS


def stages(options: Options) -> list[Stage]:
    """The commands, in order."""
    out = options.out
    data, sweep, law = str(out / "data"), str(out / "sweep"), str(out / "law.json")
    config, private = str(out / "recommended.toml"), str(out / "private")
    answer = str(out / "recommendation.json")
    flops = ("--flops", f"{options.flops:g}")
    budget = ("--eps", f"{options.eps:g}", "--delta", f"{options.delta:g}", *flops)
    corpus = ("--input", "embedded:sotu", "--tokenizer", "embedded:moby-1024")
    return [
        Stage("prepare the corpus", ("prepare", *corpus, "--seq-len", "64", "--out", data)),
        Stage(
            "sweep model size, noise and learning rate",
            ("sweep", str(out / "sweep.toml"), "--out", sweep, "--set", f"data.path={data}"),
            may_fail_points=True,
        ),
        Stage(
            "fit the law",
            (
                "fit",
                sweep,
                "--target",
                "eval_loss",
                "--out",
                law,
                "--figures",
                str(out / "figures"),
            ),
        ),
        Stage(
            "recommend a configuration",
            (
                "recommend",
                *budget,
                "--law",
                law,
                "--data",
                data,
                "--out",
                config,
                "--answer",
                answer,
            ),
        ),
        Stage("train it privately", ("train", config, "--out", private)),
        Stage("sample some text", ("generate", private, "--prompt", PROMPT)),
    ]


def verdict(out: Path) -> Verdict:
    """Compares the private run in a quickstart folder with what was predicted for it."""
    from dpscale.data.manifest import read_manifest
    from dpscale.files import read_json
    from dpscale.records import RECEIPT_FILE, read_result

    answer = read_json(out / "recommendation.json")
    receipt = read_json(out / "private" / RECEIPT_FILE)
    result = read_result(out / "private")
    if result is None or result.eval_loss is None:
        raise InputError(str(out / "private"), "the private run has no evaluation loss.")
    low, high = answer["predicted_loss_interval"]
    return Verdict(
        predicted_loss=answer["predicted_loss"],
        predicted_loss_interval=(low, high),
        actual_loss=result.eval_loss,
        unigram_entropy=read_manifest(out / "data").unigram_entropy,
        epsilon=receipt["epsilon"],
        target_epsilon=receipt["target_epsilon"],
    )


def _copy_sweep(path: Path) -> None:
    """Puts the sweep beside the results, where it can be read and changed."""
    import importlib.resources

    from dpscale.files import write_text_atomically

    if not path.exists():
        source = importlib.resources.files("dpscale.sweep.embedded") / "quickstart.toml"
        write_text_atomically(path, source.read_text(encoding="utf-8"))


def _run_stage(stage: Stage, number: str, output: Output) -> None:
    output.say(f"\n{number} {stage.title}\n$ dpscale {shlex.join(stage.arguments)}")
    command = [sys.executable, "-m", "dpscale.cli.main", *stage.arguments]
    # Under --json stdout belongs to the one object at the end.
    stdout = sys.stderr if output.json else None
    done = subprocess.run(command, stdout=stdout, check=False)
    if done.returncode == ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    passes = {ExitCode.OK, ExitCode.FAILED_POINTS} if stage.may_fail_points else {ExitCode.OK}
    if done.returncode not in passes:
        raise DpscaleError(f"{stage.title}: stopped with exit code {done.returncode}; see above.")


def _report(found: Verdict, output: Output) -> None:
    low, high = found.predicted_loss_interval
    output.say(
        f"\npredicted loss {found.predicted_loss:.3f} [{low:.3f}, {high:.3f}], "
        f"actual loss {found.actual_loss:.3f} ({found.relative_error:+.1%}); "
        f"unigram entropy {found.unigram_entropy:.3f} nats per token"
    )
    output.say(f"epsilon spent {found.epsilon:.4g}")
    for check, holds in found.checks.items():
        output.say(f"{'yes' if holds else 'NO '}  {check}")


def _json(found: Verdict) -> dict[str, Any]:
    return {
        "predicted_loss": found.predicted_loss,
        "predicted_loss_interval": list(found.predicted_loss_interval),
        "actual_loss": found.actual_loss,
        "relative_error": found.relative_error,
        "unigram_entropy": found.unigram_entropy,
        "epsilon": found.epsilon,
        "target_epsilon": found.target_epsilon,
        "checks": found.checks,
    }
