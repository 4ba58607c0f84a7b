"""A recommendation in words and as JSON."""

import dataclasses
from typing import Any

from dpscale.cli.output import Output
from dpscale.scaling.advice.limits import Limits
from dpscale.scaling.advice.near_optimal import Member
from dpscale.scaling.advice.recommend import Recommendation
from dpscale.scaling.law.law import FORMS_WITH_BATCH, ScalingLaw

PREFERENCES = {
    "loss": "the least predicted loss",
    "small": "the smallest model within 1 % of the least predicted loss",
    "low-risk": "the least membership advantage within 1 % of the least predicted loss",
}


def print_recommendation(
    best: Recommendation,
    law: ScalingLaw,
    output: Output,
    *,
    with_list: bool,
    given: float | None,
) -> None:
    """Everything that a person wants to know, the configuration first.

    Args:
      with_list: Whether to list the near-optimal set.
      given: The learning rate that was asked for, if any.
    """
    answers = _answers(best, given)
    width = max(map(len, answers))
    for name, text in answers.items():
        output.say(f"{name:<{width}}  {text}")
    budget = best.budget
    output.say(
        f"predicted_loss is the {best.predicts}, in nats per token; epsilon {budget.epsilon:g} at "
        f"delta {budget.delta:.3g} over {budget.dataset_size:,} privacy units; chosen for "
        f"{PREFERENCES[best.prefer]}"
    )
    _say_range(best, output)
    _say_near_optimal(best, output)
    if with_list:
        _list_members(best.near_optimal.members, output)
    output.say(saturation_text(best))
    output.say(gains_text(best))
    output.say(f"law: {law.statement}")
    output.say(f"law: {fitted_at(law, best.form)}")
    if best.learning_rate.at_edge:
        output.say("learning rate: the best was at the edge of the swept rates, or beyond them")
    for each in best.extrapolations:
        if each.coordinate != "learning_rate" or given is None:
            output.say(f"outside the law: {each.message}")


def _answers(best: Recommendation, given: float | None) -> dict[str, str]:
    rate, model = best.learning_rate, best.model
    low, high = best.predicted_loss_interval
    law_low, law_high = best.predicted_law_interval
    note = " (at the edge)" if rate.at_edge else "" if rate.is_tuned else " (untuned)"
    chosen = f"{rate.learning_rate:.4g}{note}" if given is None else f"{given:.4g} (as given)"
    return {
        "num_params": f"{best.params.total:,} ({best.params.non_embedding:,} non-embedding)",
        "shape": f"width {model.width}, {model.num_layers} layers",
        "expected_batch_size": f"{best.expected_batch_size:,}",
        "iterations": f"{best.iterations:,}",
        "noise_multiplier": f"{best.noise_multiplier:.6g}",
        "noise_batch_ratio": f"{best.noise_batch_ratio:.4g}",
        "learning_rate": chosen,
        "predicted_loss": (
            f"{best.predicted_loss:.3f} (90 % interval {low:.3f} to {high:.3f} for one run, "
            f"{law_low:.3f} to {law_high:.3f} for the law itself)"
        ),
        "membership_advantage": f"{best.membership_advantage:.3f}",
        "epochs": f"{best.epochs:.3g}",
        "tokens_per_param": f"{best.tokens_per_param:.4g}",
        "train_flops": f"{best.train_flops:.4g}",
    }


def _say_range(best: Recommendation, output: Output) -> None:
    interval = best.optimum_interval
    if interval is None:
        return
    output.say(
        f"best configuration by {interval.replicates} resampled fits, 5 to 95 %: "
        + _ranges(interval.num_params, interval.expected_batch_size, interval.iterations)
    )


def _say_near_optimal(best: Recommendation, output: Output) -> None:
    near = best.near_optimal
    low, high = near.membership_advantage
    output.say(
        "within 1 % of the best loss: "
        + _ranges(near.num_params, near.expected_batch_size, near.iterations)
    )
    output.say(f"  smallest model there: {_member(near.smallest)}")
    output.say(
        f"  membership advantage there: {low:.3f} to {high:.3f}, least at "
        f"{_member(near.least_risky)}"
    )


def _ranges(params: tuple[int, int], batch: tuple[int, int], iterations: tuple[int, int]) -> str:
    return (
        f"{params[0]:,} to {params[1]:,} parameters, batches of {batch[0]:,} to {batch[1]:,}, "
        f"{iterations[0]:,} to {iterations[1]:,} iterations"
    )


def _member(member: Member) -> str:
    return (
        f"{member.num_params:,} parameters, batch {member.expected_batch_size:,}, "
        f"{member.iterations:,} iterations (loss {member.predicted_loss:.3f})"
    )


def _list_members(members: tuple[Member, ...], output: Output) -> None:
    columns = ("num_params", "width", "layers", "batch", "iterations", "loss", "epochs", "FLOPs")
    rows = [
        (
            f"{each.num_params:,}",
            str(each.width),
            str(each.num_layers),
            f"{each.expected_batch_size:,}",
            f"{each.iterations:,}",
            f"{each.predicted_loss:.4f}",
            f"{each.epochs:.3g}",
            f"{each.train_flops:.3g}",
            f"{each.membership_advantage:.4f}",
        )
        for each in members
    ]
    output.table((*columns, "advantage"), rows)


def saturation_text(best: Recommendation) -> str:
    """Where more compute stops buying anything, and on which side of it the budget lies."""
    found = best.saturation
    at = f"{found.train_flops:.3g} FLOPs"
    kept = ", data and limits" if best.limits != Limits() else " and data"
    if found.limited_by == "noise":
        beyond = f"more compute buys less than 1 % at this epsilon{kept}"
    else:
        beyond = "the law's interval is too wide to say what more compute buys"
    if not best.is_saturated:
        return f"saturating compute: {at} (loss {found.predicted_loss:.3f}); beyond, {beyond}"
    if best.train_flops < 0.99 * best.budget.train_flops:
        spent = f"{best.train_flops:.3g} of the {best.budget.train_flops:.3g} FLOPs"
        return f"saturated beyond {at}: {beyond}; this configuration spends {spent}"
    return f"saturated at {at}: beyond, {beyond}"


def gains_text(best: Recommendation) -> str:
    """What each doubling buys, in one line."""
    names = {"privacy": "epsilon", "compute": "compute", "data": "data"}
    parts = [
        f"{'all three' if len(gain.budgets) > 1 else names[gain.budgets[0]]} "
        f"{gain.predicted_loss:.3f} ({gain.predicted_loss / best.predicted_loss - 1:+.1%})"
        for gain in best.gains
    ]
    return f"predicted loss with a budget doubled, chosen anew: {', '.join(parts)}"


def fitted_at(law: ScalingLaw, form: str) -> str:
    """One line on what a law was fitted at, and which way that biases its answers."""
    spans = law.valid_range
    text = (
        f"{form}, {spans.num_params[0]:,.0f} to {spans.num_params[1]:,.0f} parameters, "
        f"{spans.iterations[0]:,.0f} to {spans.iterations[1]:,.0f} iterations, ratios "
        f"{spans.noise_batch_ratio[0]:.3g} to {spans.noise_batch_ratio[1]:.3g}, physical batch "
        f"{law.physical_batch_size}"
    )
    if form in FORMS_WITH_BATCH and law.surface is not None:
        return text + " (the batch's own noise is modelled, but was measured at that batch only)"
    return text + " (a larger batch does better at low noise: the prediction then errs upwards)"


def as_json(best: Recommendation, law: ScalingLaw, *, given: float | None) -> dict[str, Any]:
    """The same for machines; keys stay as they are."""
    rate = best.learning_rate
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
        "learning_rate": rate.learning_rate if given is None else given,
        "learning_rate_at_edge": rate.at_edge,
        "learning_rate_is_tuned": rate.is_tuned,
        "learning_rate_swept": list(rate.swept),
        "prefer": best.prefer,
        "predicted_loss": best.predicted_loss,
        "predicted_loss_interval": list(best.predicted_loss_interval),
        "predicted_law_interval": list(best.predicted_law_interval),
        "predicts": best.predicts,
        "form": best.form,
        "membership_advantage": best.membership_advantage,
        "epochs": best.epochs,
        "tokens_per_param": best.tokens_per_param,
        "train_flops": best.train_flops,
        "budget_flops": best.budget.train_flops,
        "near_optimal": dataclasses.asdict(best.near_optimal),
        "optimum_interval": (
            None if best.optimum_interval is None else dataclasses.asdict(best.optimum_interval)
        ),
        "saturation": dataclasses.asdict(best.saturation) | {"is_reached": best.is_saturated},
        "doublings": [dataclasses.asdict(each) for each in best.gains],
        "exact": list(EXACT),
        "extrapolations": [dataclasses.asdict(each) for each in best.extrapolations],
        "fitted_at": {
            "physical_batch_size": law.physical_batch_size,
            "seq_len": law.seq_len,
            "vocab_size": law.vocab_size,
            "valid_range": dataclasses.asdict(law.valid_range),
            "statement": fitted_at(law, best.form),
        },
        "law_statement": law.statement,
        "epsilon": best.budget.epsilon,
        "delta": best.budget.delta,
        "dataset_size": best.budget.dataset_size,
        "seq_len": best.budget.seq_len,
        "vocab_size": best.budget.vocab_size,
    }


EXACT = (
    *("noise_multiplier", "truncated_batch_size", "noise_batch_ratio"),
    *("predicted_loss", "predicted_loss_interval", "predicted_law_interval"),
)
"""Answers by certified noise; the near-optimal set, saturation and doublings are by noise that is
about 1 % off, corrected at the recommended configuration."""
