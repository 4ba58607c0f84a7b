"""`dpscale receipt`: what a private run guarantees, for people; and whether it adds up."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from dpscale.cli.numbers import bounds, rounded_up
from dpscale.cli.output import CommonOptions, Output
from dpscale.cli.paths import BucketPath
from dpscale.errors import ExitCode, InputError
from dpscale.records import CONFIG_FILE, RECEIPT_FILE

NOT_WORKED_OUT = "not worked out: the run was interrupted, or no accountant has it"


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Show the receipt of a private run.

    With --check its fields are held to their schema, and all that follows from the mechanism
    that it names is computed again: exit code 1 where something does not add up. Whether the
    run was what its receipt says cannot be told from the receipt.
    """

    run: Annotated[BucketPath, tyro.conf.Positional]
    """The run's folder, or a receipt.json."""
    check: bool = False
    """Check the receipt instead of showing it."""


def run(options: Options, output: Output) -> ExitCode:
    """Shows or checks a receipt; `FAILED_POINTS` where the check finds something."""
    from dpscale.privacy.receipt_check import read_receipt

    path = receipt_path(options.run)
    if options.check:
        return _check(path, output)
    receipt = read_receipt(path)
    for title, lines in sections(receipt).items():
        output.say(f"{title}")
        for line in lines:
            output.say(f"  {line}")
    output.result(receipt)
    return ExitCode.OK


def receipt_path(run: Path) -> Path:
    """The receipt that a path on the command line means.

    Raises:
      InputError: A folder without one; the message says why where the folder tells.
    """
    if not run.is_dir():
        return run
    if (run / RECEIPT_FILE).exists():
        return run / RECEIPT_FILE
    raise InputError(str(run), _why_there_is_none(run))


def _why_there_is_none(folder: Path) -> str:
    from dpscale.files import read_json

    if not (folder / CONFIG_FILE).exists():
        return f"no {RECEIPT_FILE} here; expected the folder of a private run."
    config = read_json(folder / CONFIG_FILE).get("config")
    purpose = config.get("purpose") if isinstance(config, Mapping) else None
    if purpose == "law-fitting":
        return "no receipt: a law-fitting run makes no privacy claim."
    return f"no {RECEIPT_FILE} yet: a private run writes it when it ends or is interrupted."


def _check(path: Path, output: Output) -> ExitCode:
    from dpscale.privacy.receipt_check import mismatches, read_unchecked_receipt

    receipt = read_unchecked_receipt(path)
    found = mismatches(receipt)
    for line in found:
        output.say(f"{path}: {line}")
    if not found:
        output.say(
            f"{path}: keeps to its schema; epsilon {_epsilon(receipt)} follows from its mechanism."
        )
    output.result({"receipt": str(path), "mismatches": found})
    return ExitCode.FAILED_POINTS if found else ExitCode.OK


def sections(receipt: Mapping[str, Any]) -> dict[str, list[str]]:
    """The receipt for people: titles, each with its lines."""
    return {
        f"Receipt of {receipt['run_id']}": _rows(_claim(receipt)),
        "Mechanism": _rows(_mechanism(receipt)),
        "At other deltas": _curve(receipt["curve"]),
        "What an attacker gets, at most": _attacker(receipt["attacker"]),
        "Assumed": _listed(receipt["assumptions"]),
        "Not covered": _listed(
            [*receipt["not_covered"], f"Tuning before the run: {receipt['tuning_not_covered']}"]
        ),
        "Not private (counts of the data without noise)": _rows(
            {
                "batches above the cap": f"{receipt['not_private']['num_truncated_batches']:,}",
                "units cut off them": f"{receipt['not_private']['num_truncated_examples']:,}",
            }
        ),
        "Origin": _rows(_origin(receipt)),
    }


def _claim(receipt: Mapping[str, Any]) -> dict[str, str]:
    certainty = "certified" if receipt["is_certified"] else "not certified"
    return {
        "guarantee": receipt["guarantee"],
        "epsilon": f"{_epsilon(receipt)} at delta {receipt['delta']:g} ({certainty})",
        "target": f"epsilon {receipt['target_epsilon']:g}",
        "privacy unit": f"{receipt['privacy_unit']}. {receipt['unit_origin']}",
        "neighbours": receipt["neighboring_relation"],
        "accountant": receipt["accountant"],
    }


def _mechanism(receipt: Mapping[str, Any]) -> dict[str, str]:
    cap = receipt["truncated_batch_size"]
    rescaled = ", then rescaled to unit norm" if receipt["rescale_to_unit_norm"] else ""
    return {
        "iterations": f"{receipt['iterations']:,} taken of {receipt['planned_iterations']:,}",
        "batches": (
            f"Poisson, {receipt['expected_batch_size']:,} of {receipt['dataset_size']:,} units "
            f"expected (sampling_prob {receipt['sampling_prob']:.4g}), "
            + ("no cap" if cap is None else f"cut to {cap:,}")
        ),
        "clipping": f"l2_clip_norm {receipt['l2_clip_norm']:g}{rescaled}",
        "norms": f"margin {receipt['norm_margin']:g}. {receipt['norm_guarantee']}",
        "noise": (
            f"noise_multiplier {receipt['noise_multiplier']:.6g}; noise_batch_ratio "
            f"{receipt['noise_batch_ratio']:.4g} after division by {receipt['normalizer']}"
        ),
        "keys": f"{receipt['keys']['source']}; " + "; ".join(_generators(receipt["keys"])),
        "event": receipt["event"],
    }


def _curve(points: list[dict[str, Any]] | None) -> list[str]:
    if points is None:
        return [NOT_WORKED_OUT]
    return [
        f"epsilon {_epsilon(point)} at delta {point['delta']:g}"
        + ("" if point["is_certified"] else " (not certified)")
        for point in points
    ]


def _attacker(figures: Mapping[str, Any] | None) -> list[str]:
    if figures is None:
        return [NOT_WORKED_OUT]
    rates = {
        f"true positives at {100 * float(fpr):g} % false": f"{_percent(tpr)} %"
        for fpr, tpr in figures["tpr_at_fpr"].items()
    }
    advantage = f"{_percent(figures['membership_advantage'])} %"
    certified = "" if figures["is_certified"] else " (not certified)"
    return _rows({"membership advantage": advantage + certified, **rates})


def _generators(keys: Mapping[str, Any]) -> Iterator[str]:
    for name in ("noise", "sampling"):
        yield f"{name}: {keys[name]['generator']}, {keys[name]['bits']} bits"


def _origin(receipt: Mapping[str, Any]) -> dict[str, str]:
    return {
        "config": receipt["config_hash"],
        "data": receipt["data_hash"],
        "commit": receipt["commit"] or "not known",
        "versions": ", ".join(f"{name} {what}" for name, what in receipt["versions"].items()),
    }


def _rows(values: Mapping[str, str]) -> list[str]:
    width = max(map(len, values))
    return [f"{name:<{width}}  {value}" for name, value in values.items()]


def _listed(sentences: list[str]) -> list[str]:
    return [f"- {sentence}" for sentence in sentences]


def _epsilon(bounded: Mapping[str, Any]) -> str:
    upper = bounded["epsilon_upper"]
    return "unknown" if upper is None else bounds(bounded["epsilon_lower"], upper)


def _percent(bound: float) -> str:
    return rounded_up(100 * bound, digits=3)
