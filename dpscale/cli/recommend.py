"""`dpscale recommend`: the best model, batch and iterations for a budget."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dpscale.cli.choices import AskedForm
from dpscale.cli.numbers import whole_number
from dpscale.cli.output import CommonOptions, Output
from dpscale.cli.paths import BucketPath
from dpscale.errors import ExitCode, InputError

if TYPE_CHECKING:
    from dpscale.scaling.advice.budget import Budget
    from dpscale.scaling.advice.limits import Limits
    from dpscale.scaling.law.law import ScalingLaw

DEFAULT_DATASET_SIZE = 100_000_000


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Choose model size, batch and iterations for a privacy, compute and data budget.

    Searches shapes, batches and iterations under 6 · num_params · batch · iterations · seq_len =
    FLOPs for the least loss that a law predicts. Prints the best configuration with its noise,
    learning rate and intervals; what else is within 1 % of its loss, and how far a membership test
    gets there; the compute beyond which more buys nothing; what each budget would buy if it
    were doubled; and everything about the answer that the law has not seen. Defaults that were
    used are printed as assumptions.
    """

    eps: Annotated[float, tyro.conf.arg(aliases=("--epsilon",))]
    """Target epsilon."""
    flops: float | None = None
    """Training compute in FLOPs, such as 1e21; the overhead of clipping is not counted. By default
    the saturating budget: the least compute within 1 % of the best loss at any."""
    law: str = "published"
    """`published`, the law that comes with dpscale (fitted to table 2 of arXiv 2501.18914), or a
    file that `dpscale fit` wrote."""
    delta: float | None = None
    """Target delta; by default the lesser of 1e-8 and one over the data set size."""
    dataset_size: float | None = None
    """Privacy units in the data; by default that of --data, else 1e8."""
    data: BucketPath | None = None
    """A folder written by `dpscale prepare`: gives data set size, seq_len and vocab_size."""
    seq_len: float | None = None
    """Tokens in a unit; by default that of --data, else the law's."""
    vocab_size: float | None = None
    """Vocabulary; by default that of --data, else the law's."""
    form: AskedForm | None = None
    """Which form of the law to ask; by default the one that `fit` chose."""
    prefer: Literal["loss", "small", "low-risk"] = "loss"
    """What counts: the least predicted loss, or of all that is within 1 % of it the smallest model
    (at its best batch), or the least membership advantage."""
    max_params: float | None = None
    """No model with more parameters, the embedding counted."""
    max_batch: float | None = None
    """No larger expected batch size."""
    min_iterations: float | None = None
    """No fewer iterations."""
    max_epochs: float | None = None
    """No more passes over the data (batch · iterations / dataset size); 1 is what the runs behind
    a law have seen."""
    learning_rate: float | None = None
    """The rate that --out writes, in place of what the law knows of; nothing else depends on it."""
    list: bool = False
    """List the near-optimal set: each size in it at its best batch."""
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
    from dpscale.scaling.law.published import find_law

    limits = _limits(options)
    law = find_law(options.law)
    question = _question(options, law)
    for text in question.assumptions.values():
        output.say(f"assumed: {text}")

    from dpscale.cli.recommendation_text import as_json, print_recommendation
    from dpscale.files import write_json_atomically, write_text_atomically
    from dpscale.scaling.advice.recommend import recommend
    from dpscale.scaling.advice.run_config import private_config_toml

    best = recommend(
        law,
        question.budget,
        limits=limits,
        prefer=options.prefer,
        form=options.form,
        with_cap=options.out is not None,
    )
    print_recommendation(best, law, output, with_list=options.list, given=options.learning_rate)
    if options.out is not None:
        text = private_config_toml(
            best,
            data_path="data" if options.data is None else str(options.data),
            law=options.law,
            learning_rate=options.learning_rate,
        )
        write_text_atomically(options.out, text)
        output.say(f"wrote {options.out}: train it with `dpscale train {options.out} --out RUN`")
    answer = as_json(best, law, given=options.learning_rate) | {
        "law": options.law,
        "limits": {name: getattr(options, name) for name in _LIMITS},
        "assumptions": question.assumptions,
        "config": None if options.out is None else str(options.out),
    }
    if options.answer is not None:
        write_json_atomically(options.answer, answer)
    output.result(answer)
    return ExitCode.OK


_LIMITS = ("max_params", "max_batch", "min_iterations", "max_epochs")


def _limits(options: Options) -> "Limits":
    from dpscale.scaling.advice.limits import Limits

    rate = options.learning_rate
    if rate is not None and not 0 < rate < math.inf:
        raise InputError("--learning-rate", f"expected a number above 0, found {rate:g}.")
    return Limits(**{name: getattr(options, name) for name in _LIMITS})


def _question(options: Options, law: "ScalingLaw") -> _Question:
    """Fills in what was not asked for, and says so."""
    from dpscale.scaling.advice.budget import Budget

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
    if options.flops is None:
        assumptions["flops"] = "the saturating compute (no --flops was given)"
    if options.out is not None and options.data is None:
        assumptions["data.path"] = 'data.path "data" in the config (no --data was given)'
    budget = Budget(
        epsilon=options.eps,
        delta=delta,
        train_flops=math.inf if options.flops is None else options.flops,
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
