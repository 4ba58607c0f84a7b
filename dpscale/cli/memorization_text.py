"""The memorization part of `dpscale eval`: its data and its tables."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpscale.cli.output import Output
from dpscale.errors import InputError

if TYPE_CHECKING:
    from dpscale.data.units import PreparedUnits
    from dpscale.evaluation.memorization import MemorizationTest
    from dpscale.evaluation.memorization_rates import MatchRates, Rate, RateComparison
    from dpscale.evaluation.memorization_report import MemorizationReport
    from dpscale.inference.trained import TrainedModel


def run_memorization(
    trained: "TrainedModel",
    test: "MemorizationTest",
    output: Output,
    *,
    data: Path | None = None,
) -> dict[str, Any]:
    """Tests a model on its training units, prints what was found, and returns it. NOT PRIVATE.

    Args:
      data: The prepared folder that the model was trained on; absent: the one in its config.

    Raises:
      InputError: No such folder, or one that the model was not trained on.
    """
    from dpscale.evaluation.memorization import measure_memorization
    from dpscale.inference.generation import Generator

    units = _training_units(trained, data)
    if trained.config is None:
        output.warn(f"an imported model: whether it was trained on {units.folder} is not known.")
    found = measure_memorization(
        Generator(trained.model, trained.params),
        test,
        train=units.train,
        held_out=units.eval,
        on_progress=output.tenths(),
    )
    print_memorization(found, output)
    return found.to_dict()


def print_memorization(report: "MemorizationReport", output: Output) -> None:
    """Tables of rates, how the sides compare, and how to read them."""
    rows = [
        _row("training", report.train),
        *(
            _row(f"  occurs {bucket.label}", bucket.rates)
            for bucket in report.train_by_occurrences
            if bucket.rates.exact.num_units
        ),
        _row("held out", report.held_out),
    ]
    if report.held_out_in_training.exact.num_units:
        rows.append(_row("  (in training)", report.held_out_in_training))
    output.say(
        f"prefix {report.prefix_tokens} tokens, greedy continuation "
        f"{report.continuation_tokens}; approximate: edit distance at most "
        f"{report.allowed_distance} tokens; [95 % interval]"
    )
    output.table(("units", "tested", "exact", "approximate"), rows)
    for name, comparison in (
        ("exact", report.exact_comparison),
        ("approximate", report.approximate_comparison),
    ):
        output.say(_comparison(name, comparison))
    for note in report.notes:
        output.say(f"- {note}")


def _training_units(trained: "TrainedModel", data: Path | None) -> "PreparedUnits":
    from dpscale.evaluation.data import units_for
    from dpscale.files import read_json
    from dpscale.records import CONFIG_FILE

    units = units_for(trained, data)
    if trained.config is not None:
        trained_on = read_json(trained.folder / CONFIG_FILE).get("data_hash")
        if trained_on != units.manifest.data_hash:
            raise InputError("--data", f"{units.folder} does not hold the units of this run.")
    return units


def _row(name: str, rates: "MatchRates") -> tuple[str, str, str, str]:
    return name, str(rates.exact.num_units), _rate(rates.exact), _rate(rates.approximate)


def _rate(rate: "Rate") -> str:
    if rate.rate is None:
        return "-"
    return f"{rate.matches} = {rate.rate:.2%} [{rate.lower:.2%}, {rate.upper:.2%}]"


def _comparison(name: str, found: "RateComparison | None") -> str:
    if found is None:
        return f"{name}: no held-out unit to compare with"
    return (
        f"{name}: training above held out by {found.difference:.2%} "
        f"[{found.lower:.2%}, {found.upper:.2%}], one-sided p = {found.p_value:.2g}"
    )
