"""What clipping costs: every candidate against the best-tuned non-private gradient.

Everything is compiled and compared with vmap; a short first pass goes over what keeps up, and
long rounds over the contenders that it leaves, `auto`'s choice always among them.
"""

from collections.abc import Mapping, Sequence

from dpscale.bench.candidates import (
    FIRST_PASS_FACTOR,
    FIRST_PASS_ROUNDS,
    NON_PRIVATE,
    WARM_UP_FACTOR,
    Candidate,
    contenders,
    still_in,
)
from dpscale.bench.checking import CheckedPrograms
from dpscale.bench.programs import Workbench
from dpscale.bench.report import ClippingReport, Facts, make_report
from dpscale.bench.timing import Call, Stopwatch
from dpscale.errors import InputError

Seconds = dict[Candidate, list[float]]


def measure_clipping(
    bench: Workbench,
    candidates: Sequence[Candidate],
    auto: Candidate,
    stopwatch: Stopwatch,
    *,
    rounds: int,
    prunes: bool = True,
) -> ClippingReport | None:
    """Measures candidates; None when it was stopped before anything had been timed.

    Args:
      candidates: Baselines among them; `auto` and the full batch are added where missing.
      auto: What `auto` settles on for this shape.
      rounds: How many of the long rounds.
      prunes: Whether only contenders go through them.

    Raises:
      InputError: Not even a non-private gradient fits the memory.
    """
    full_batch = Candidate(NON_PRIVATE, None, bench.shape.batch_size)
    everything = list(dict.fromkeys((full_batch, auto, *candidates)))
    checked = CheckedPrograms.on(bench)
    for index, candidate in enumerate(everything):
        if stopwatch.stop.is_set:
            return None
        stopwatch.observe(f"compiling: {candidate}", index, len(everything))
        checked.add(candidate)
    if not any(candidate.strategy == NON_PRIVATE for candidate in checked.programs):
        raise InputError(bench.shape.name, "not even a non-private gradient fits the memory.")
    calls = {candidate: checked.call(candidate) for candidate in checked.programs}
    first = first_pass(calls, checked.first_call, stopwatch, keep=auto, prunes=prunes)
    if not first:
        return None
    chosen = contenders(first, keep=auto) if prunes else list(first)
    return make_report(
        bench.shape,
        l2_clip_norm=float(checked.reference.l2_clip_norm),
        auto=auto,
        first_pass=first,
        long_rounds=stopwatch.rounds({candidate: calls[candidate] for candidate in chosen}, rounds),
        facts=checked.facts,
        full_batch=checked.facts.get(full_batch, Facts()),
        failures=checked.failures,
        same_as=checked.same_as,
        is_complete=not stopwatch.stop.is_set,
    )


def first_pass(
    calls: Mapping[Candidate, Call],
    first_call: Mapping[Candidate, Sequence[float]],
    stopwatch: Stopwatch,
    *,
    keep: Candidate,
    prunes: bool,
) -> Seconds:
    """A few rounds, of which those that fall far behind their own strategy's best drop out.

    Returns:
      Seconds of whoever went through at least one round; empty where a stop came before.
    """
    remaining = list(calls)
    if prunes:
        remaining = still_in(first_call, factor=WARM_UP_FACTOR, keep=keep)
    seconds: Seconds = {candidate: [] for candidate in remaining}
    for _ in range(FIRST_PASS_ROUNDS):
        here = stopwatch.rounds({candidate: calls[candidate] for candidate in remaining}, 1)
        for candidate, times in here.items():
            seconds[candidate] += times
        if stopwatch.stop.is_set:
            break
        if prunes:
            latest = {candidate: seconds[candidate] for candidate in remaining}
            remaining = still_in(latest, factor=FIRST_PASS_FACTOR, keep=keep)
    return {candidate: times for candidate, times in seconds.items() if times}
