"""`dpscale recommend`: the best model, batch and iterations for a budget."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dpscale.cli.numbers import whole_number
from dpscale.cli.output import CommonOptions, Output
from dpscale.errors import ExitCode, InputError

if TYPE_CHECKING:
    from dpscale.scaling.budget import Budget
    from dpscale.scaling.law import ScalingLaw
    from dpscale.scaling.recommend import Recommendation

DEFAULT_DATASET_SIZE = 100_000_000


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Choose model size, batch and iterations for a privacy, compute and data budget.

    Searches the ladder's shapes, batches and iterations under 6 · num_params · batch ·
    iterations · seq_len = FLOPs for the least loss that a fitted law predicts, and prints the
    best configuration with its noise, learning rate, prediction interval and everything about
    it that the law has not seen. Defaults that were used are printed as assumptions.
    """

    eps: Annotated[float, tyro.conf.arg(aliases=("--epsilon",))]
    """Target epsilon."""
    flops: float
    """Training compute in FLOPs, such as 1e21; the overhead of clipping is not counted."""
    law: Path | None = None
    """A law written by `dpscale fit`."""
    delta: float | None = None
    """Target delta; by default the lesser of 1e-8 and one over the data set size."""
    dataset_size: float | None = None
    """Privacy units in the data; by default that of --data, else 1e8."""
    data: Path | None = None
    """A folder written by `dpscale prepare`: gives data set size, seq_len and vocab_size."""
    seq_len: float | None = None
    """Tokens in a unit; by default that of --data, else the law's."""
    vocab_size: float | None = None
    """Vocabulary; by default that of --data, else the law's."""
    form: Literal["semi-parametric", "form-3", "form-5", "effective-noise", "ceiling"] | None = None
    """Which form of the law to ask; by default the one that `fit` chose."""
    out: Path | None = None
    """Write a config that `dpscale train` takes as it is."""
    answer: Path | None = None
    """Write what --json prints into this file, whatever is printed."""


@dataclass(frozen=True)
class _Question:
    """The budget, and how each of its numbers that was not given came about."""

    budget: "Budget"
    assumptions: dict[str, str]


def run(options: Options, output: Output) -> ExitCode:
    """Answers for one budget."""
    from dpscale.files import write_json_atomically, write_text_atomically
    from dpscale.scaling.budget import BudgetAccounting
    from dpscale.scaling.lawfile import load_law

    if options.law is None:
        raise InputError(
            "--law", "required; fit one to a sweep with `dpscale fit RUNS --out law.json`."
        )
    law = load_law(options.law)
    question = _question(options, law)
    for text in question.assumptions.values():
        output.say(f"assumed: {text}")

    from dpscale.scaling.recommend import recommend
    from dpscale.scaling.run_config import private_config_toml

    best = recommend(
        law,
        question.budget,
        accounting=BudgetAccounting(question.budget),
        form=options.form,
        with_cap=options.out is not None,
    )
    _print(best, law, question.budget, output)
    if options.out is not None:
        data_path = "data" if options.data is None else str(options.data)
        text = private_config_toml(best, question.budget, data_path=data_path, law=str(options.law))
        write_text_atomically(options.out, text)
        output.say(f"wrote {options.out}: train it with `dpscale train {options.out} --out RUN`")
    answer = _json(best, law, question, options)
    if options.answer is not None:
        write_json_atomically(options.answer, answer)
    output.result(answer)
    return ExitCode.OK


def _question(options: Options, law: "ScalingLaw") -> _Question:
    """Fills in what was not asked for, and says so."""
    from dpscale.scaling.budget import Budget

    assumptions: dict[str, str] = {}
    manifest = {} if options.data is None else _read_manifest(options.data)

    def choose(name: str, given: float | None, default: int, because: str) -> int:
        if given is not None:
            return whole_number(f"--{name.replace('_', '-')}", given)
        if name in manifest:
            return manifest[name]
        assumptions[name] = f"{name} {default:,} ({because})"
        return default

    size = choose("dataset_size", options.dataset_size, DEFAULT_DATASET_SIZE, "the default")
    seq_len = choose("seq_len", options.seq_len, law.seq_len, "the law's")
    vocab_size = choose("vocab_size", options.vocab_size, law.vocab_size, "the law's")
    delta = options.delta
    if delta is None:
        delta = min(1e-8, 1 / max(size, 1))
        assumptions["delta"] = f"delta {delta:.3g} (the lesser of 1e-8 and 1/dataset_size)"
    if options.out is not None and options.data is None:
        assumptions["data.path"] = 'data.path "data" in the config (no --data was given)'
    budget = Budget(
        epsilon=options.eps,
        delta=delta,
        train_flops=options.flops,
        dataset_size=size,
        seq_len=seq_len,
        vocab_size=vocab_size,
    )
    return _Question(budget, assumptions)


def _read_manifest(folder: Path) -> dict[str, int]:
    from dpscale.data.manifest import MANIFEST_FILE
    from dpscale.files import read_json

    path = folder / MANIFEST_FILE
    manifest = read_json(path)
    found = {}
    for name in ("dataset_size", "seq_len", "vocab_size"):
        if not isinstance(manifest.get(name), int):
            raise InputError(f"{path}: {name}", f"expected a number, found {manifest.get(name)!r}.")
        found[name] = int(manifest[name])
    return found


def _print(best: "Recommendation", law: "ScalingLaw", budget: "Budget", output: Output) -> None:
    low, high = best.predicted_loss_interval
    near, rate, model = best.near_optimal, best.learning_rate, best.model
    answers = {
        "num_params": f"{best.params.total:,} ({best.params.non_embedding:,} non-embedding)",
        "shape": f"width {model.width}, {model.num_layers} layers",
        "expected_batch_size": f"{best.expected_batch_size:,}",
        "iterations": f"{best.iterations:,}",
        "noise_multiplier": f"{best.noise_multiplier:.6g}",
        "noise_batch_ratio": f"{best.noise_batch_ratio:.4g}",
        "learning_rate": f"{rate.learning_rate:.4g}" + (" (at the edge)" if rate.at_edge else ""),
        "predicted_loss": f"{best.predicted_loss:.3f} (90 % interval {low:.3f} to {high:.3f})",
        "epochs": f"{best.epochs:.3g}",
        "tokens_per_param": f"{best.tokens_per_param:.4g}",
        "train_flops": f"{best.train_flops:.4g}",
    }
    width = max(map(len, answers))
    for name, text in answers.items():
        output.say(f"{name:<{width}}  {text}")
    output.say(
        f"predicted_loss is the {best.predicts}, in nats per token; epsilon {budget.epsilon:g} at "
        f"delta {budget.delta:.3g} over {budget.dataset_size:,} privacy units"
    )
    output.say(
        f"within 1 % of that loss: {near.num_params[0]:,} to {near.num_params[1]:,} parameters, "
        f"batches of {near.expected_batch_size[0]:,} to {near.expected_batch_size[1]:,}, "
        f"{near.iterations[0]:,} to {near.iterations[1]:,} iterations"
    )
    output.say(f"law: {fitted_at(law, best.form)}")
    if rate.at_edge:
        output.say("learning rate: the best was at the edge of the swept rates, or beyond them")
    for each in best.extrapolations:
        output.say(f"outside the law: {each.message}")


def fitted_at(law: "ScalingLaw", form: str) -> str:
    """One line on what a law was fitted at, and which way that biases its answers."""
    spans = law.valid_range
    text = (
        f"{form}, {spans.num_params[0]:,.0f} to {spans.num_params[1]:,.0f} parameters, "
        f"{spans.iterations[0]:,.0f} to {spans.iterations[1]:,.0f} iterations, ratios "
        f"{spans.noise_batch_ratio[0]:.3g} to {spans.noise_batch_ratio[1]:.3g}, physical batch "
        f"{law.physical_batch_size}"
    )
    if form == "effective-noise":
        return text + " (the batch's own noise is modelled, but was measured at that batch only)"
    return text + " (a larger batch does better at low noise: the prediction then errs upwards)"


def _json(
    best: "Recommendation", law: "ScalingLaw", question: _Question, options: Options
) -> dict[str, object]:
    return {
        "num_params": best.params.total,
        "num_params_non_embedding": best.params.non_embedding,
        "width": best.model.width,
        "num_layers": best.model.num_layers,
        "expected_batch_size": best.expected_batch_size,
        "iterations": best.iterations,
        "noise_multiplier": best.noise_multiplier,
        "truncated_batch_size": best.truncated_batch_size,
        "noise_batch_ratio": best.noise_batch_ratio,
        "learning_rate": best.learning_rate.learning_rate,
        "learning_rate_at_edge": best.learning_rate.at_edge,
        "predicted_loss": best.predicted_loss,
        "predicted_loss_interval": list(best.predicted_loss_interval),
        "predicts": best.predicts,
        "form": best.form,
        "epochs": best.epochs,
        "tokens_per_param": best.tokens_per_param,
        "train_flops": best.train_flops,
        "near_optimal": dataclasses.asdict(best.near_optimal),
        "extrapolations": [dataclasses.asdict(each) for each in best.extrapolations],
        "fitted_at": {
            "physical_batch_size": law.physical_batch_size,
            "seq_len": law.seq_len,
            "vocab_size": law.vocab_size,
            "valid_range": dataclasses.asdict(law.valid_range),
            "statement": fitted_at(law, best.form),
        },
        "assumptions": question.assumptions,
        "epsilon": question.budget.epsilon,
        "delta": question.budget.delta,
        "dataset_size": question.budget.dataset_size,
        "seq_len": question.budget.seq_len,
        "vocab_size": question.budget.vocab_size,
        "config": None if options.out is None else str(options.out),
    }
