"""How measurements read: the tables of `dpscale bench`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dpscale.cli.output import Output

if TYPE_CHECKING:
    from dpscale.bench.generation import GenerationReport
    from dpscale.bench.report import ClippingReport, Row
    from dpscale.bench.step import StepReport

_COLUMNS = (
    "strategy",
    "norm rule",
    "microbatch",
    "time ratio",
    "memory",
    "to best",
    "flops",
    "gradient error",
    "norm error",
    "ms",
    "",
)


def print_clipping(report: "ClippingReport", output: Output) -> None:
    """One shape: its baseline, a row for each contender, and what `auto` is worth."""
    baseline = report.baseline
    output.say(
        f"baseline: {baseline.candidate}, {1e3 * baseline.seconds:.1f} ms, "
        f"memory {_number(baseline.memory_ratio)} of the full batch's; "
        f"clip norm {report.l2_clip_norm:.4g}, which half of the examples exceed"
    )
    output.say(
        f"medians [quartiles] of {baseline.rounds} rounds; memory: temporary, to the full-batch "
        "baseline and to the best one; flops: XLA's count; errors: against vmap"
    )
    rows = [report.baseline, *report.rivals, *report.rows]
    _print_aligned(_COLUMNS, [_row(row, report) for row in rows], output)
    for candidate, why in report.failures.items():
        output.say(f"not measured: {candidate}: {why}")
    near = report.auto_to_best
    if near is not None and report.winner is not None:
        output.say(
            f"auto takes {report.auto}: {near} of the fastest measured ({report.winner.candidate})"
        )


def print_drawn(reports: "Sequence[ClippingReport]", output: Output) -> None:
    """The drawn shapes in one table."""
    if not reports:
        return
    output.say("\ndrawn shapes: auto's time to that of the fastest candidate measured")
    columns = ("shape", "time ratio", "auto", "to fastest", "within 5 %", "fastest")
    _print_aligned(columns, [_drawn_row(report) for report in reports], output)


def print_step(report: "StepReport", output: Output) -> None:
    """The whole step."""
    clipping, shares = report.clipping, report.shares
    output.say(
        f"private step      {1e3 * report.private_seconds:8.1f} ms  {clipping.strategy}, "
        f"{clipping.norm_rule}, microbatch {clipping.microbatch_size}; batches of "
        f"{report.mean_drawn:.1f} on average ({min(report.drawn)} to {max(report.drawn)}), "
        f"{report.shape.batch_size} expected, in {report.slots} slots"
    )
    output.say(
        f"non-private step  {1e3 * report.non_private_seconds:8.1f} ms  microbatch "
        f"{report.baseline_microbatch_size}; {report.shape.batch_size} examples"
    )
    output.say(
        f"time ratio        {report.time_ratio}, median [quartiles] of {report.rounds} rounds"
    )
    output.say(f"all rounds        {report.time_ratio_in_all:.3f}, by the sum of their times")
    output.say(f"for each example  {report.time_ratio_per_example}")
    parts = ", ".join(f"{part} {100 * share:.1f} %" for part, share in shares.items())
    output.say(f"of the private step, each part compiled by itself: {parts}")
    output.say(
        f"noise is drawn once for each logical batch: {1e3 * report.noise_seconds:.1f} ms for "
        f"{report.shape.num_params:,} normal numbers, whatever the batch"
    )


def print_generation(report: "GenerationReport", output: Output) -> None:
    """A token with the cache, and one without."""
    model = report.model
    output.say(
        f"\nwidth {model.width}, {model.num_layers} layers, vocabulary {model.vocab_size:,}: "
        f"{report.batch_size} text(s), prompts of {report.prompt_tokens} tokens"
    )
    output.say(f"with the cache       {1e3 * report.cached_seconds:9.2f} ms a token of each text")
    output.say(f"from the whole text  {1e3 * report.full_seconds:9.2f} ms")
    output.say(
        f"speed-up             {report.speedup}, median [quartiles] of {report.rounds} rounds"
    )


def _print_aligned(columns: Sequence[str], rows: Sequence[Sequence[str]], output: Output) -> None:
    """A table that is never folded: a number that is cut in two cannot be read."""
    lines = [columns, *rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        output.say("  ".join(cells).rstrip())


def _row(row: "Row", report: "ClippingReport") -> tuple[str, ...]:
    candidate, facts = row.candidate, row.facts
    return (
        candidate.strategy,
        candidate.norm_rule or "",
        str(candidate.microbatch_size),
        str(row.time_ratio),
        _number(row.memory_ratio),
        _number(row.memory_ratio_to_best),
        _number(row.flop_ratio),
        "" if facts.gradient_error is None else f"{facts.gradient_error:.1e}",
        "" if facts.norm_error is None else f"{facts.norm_error:.1e}",
        f"{1e3 * row.seconds:.1f}",
        "auto" if candidate == report.auto else "",
    )


def _drawn_row(report: "ClippingReport") -> tuple[str, ...]:
    auto, near, winner = report.row_of(report.auto), report.auto_to_best, report.winner
    return (
        str(report.shape),
        str(auto.time_ratio) if auto else "",
        str(report.auto),
        str(near) if near else report.failures.get(report.auto, ""),
        {True: "yes", False: "no", None: ""}[report.is_auto_near_best],
        str(winner.candidate) if winner else "",
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
