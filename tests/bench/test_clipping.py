"""Real measurements of a minuscule shape: what they say is checked, never how long it took."""

import dataclasses
from collections.abc import Callable
from random import Random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.bench import checking, programs
from dpscale.bench.candidates import NON_PRIVATE, PEER, Candidate
from dpscale.bench.checking import REFERENCE, CheckedPrograms, Reference
from dpscale.bench.clipping import measure_clipping
from dpscale.bench.programs import Workbench
from dpscale.bench.report import Row
from dpscale.bench.timing import Stopwatch
from dpscale.errors import InputError
from dpscale.model.decoder import per_example_loss
from dpscale.ops.sums import finished
from dpscale.privacy.clipping import ClippedSum
from dpscale.privacy.strategies import Strategy
from dpscale.training.interruption import StopRequest

GRAM, DIRECT = Candidate("bookkeeping", "gram", 2), Candidate("bookkeeping", "direct", 2)
GHOST, VMAP = Candidate("ghost", "gram", 2), Candidate("vmap", None, 2)
PLAIN, FULL = Candidate(NON_PRIVATE, None, 2), Candidate(NON_PRIVATE, None, 5)


def test_all_strategies_agree_with_vmap_and_have_their_figures(
    workbench: Workbench, stopwatch: Stopwatch
) -> None:
    report = measure_clipping(
        workbench, [GRAM, GHOST, VMAP, PLAIN], DIRECT, stopwatch, rounds=2, prunes=False
    )
    assert report is not None
    assert report.is_complete
    assert {row.candidate for row in report.rows} == {GRAM, DIRECT, GHOST, VMAP}
    assert {report.baseline.candidate, *(row.candidate for row in report.rivals)} == {PLAIN, FULL}
    for row in report.rows:
        assert row.facts.gradient_error is not None
        assert row.facts.norm_error is not None
        assert row.facts.gradient_error < 2e-6
        assert row.facts.norm_error < 2e-6
        assert row.rounds == 2
        assert row.seconds > 0
        assert row.memory_ratio is not None
        assert row.memory_ratio > 0
    # 5 examples in microbatches of 2 are computed as 6.
    flops = {row.candidate: row.flop_ratio for row in [report.baseline, *report.rivals]}
    assert flops[PLAIN] / flops[FULL] == pytest.approx(6 / 5, rel=0.05)  # type: ignore[operator]


def test_half_of_the_examples_are_clipped(reference: Reference) -> None:
    norms = np.asarray(reference.clipped.norms)
    assert np.sum(norms > float(reference.l2_clip_norm)) == 2  # the third of five is the median
    assert np.all(norms > 0)


def test_the_baseline_is_the_gradient_of_the_summed_loss(workbench: Workbench) -> None:
    # Catches: a baseline that leaves out examples, or counts padding, and so looks fast.
    model, tokens = workbench.shape.model, jnp.asarray(workbench.tokens_BxS1)
    expected = jax.grad(lambda params: jnp.sum(per_example_loss(model, params, tokens)))(
        workbench.params
    )
    for candidate in (PLAIN, FULL):
        total, loss = workbench.lower(candidate).compile().run(jnp.float32(0))
        assert float(loss) == pytest.approx(
            float(jnp.sum(per_example_loss(model, workbench.params, tokens))), rel=1e-6
        )
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6),
            total,
            expected,
        )


@dataclasses.dataclass(frozen=True)
class Wrong(Strategy):
    """Bookkeeping with a mistake."""

    def unfinished(self, *arguments: Any) -> ClippedSum:
        clipped = super().unfinished(*arguments)
        if self.name != "bookkeeping":
            return clipped
        return MISTAKE[0](dataclasses.replace(clipped, total=finished(clipped.total)))


MISTAKE: list[Callable[[ClippedSum], ClippedSum]] = []


def _one_example_too_many(clipped: ClippedSum) -> ClippedSum:
    total = jax.tree.map(lambda leaf: leaf * 1.001, clipped.total)
    return dataclasses.replace(clipped, total=total)


def _without_the_embedding(clipped: ClippedSum) -> ClippedSum:
    total = {**clipped.total, "embedding": jax.tree.map(jnp.zeros_like, clipped.total["embedding"])}
    return dataclasses.replace(clipped, total=total)


def _norms_in_half_precision(clipped: ClippedSum) -> ClippedSum:
    norms = clipped.norms.astype(jnp.bfloat16).astype(jnp.float32)
    return dataclasses.replace(clipped, norms=norms)


@pytest.mark.parametrize(
    ("mistake", "gradient_error", "norm_error"),
    [
        (_one_example_too_many, (0.9e-3, 1.1e-3), (0, 2e-6)),
        (_without_the_embedding, (0.1, 1.0), (0, 2e-6)),
        (_norms_in_half_precision, (0, 2e-6), (1e-5, 1e-2)),
    ],
)
def test_a_wrong_strategy_shows(
    checked: CheckedPrograms,
    monkeypatch: pytest.MonkeyPatch,
    mistake: Callable[[ClippedSum], ClippedSum],
    gradient_error: tuple[float, float],
    norm_error: tuple[float, float],
) -> None:
    monkeypatch.setattr(programs, "Strategy", Wrong)
    monkeypatch.setattr(f"{__name__}.MISTAKE", [mistake], raising=True)
    checked.add(GRAM)
    facts = checked.facts[GRAM]
    assert facts.gradient_error is not None
    assert facts.norm_error is not None
    assert gradient_error[0] <= facts.gradient_error <= gradient_error[1]
    assert norm_error[0] <= facts.norm_error <= norm_error[1]


def test_one_program_is_measured_once(checked: CheckedPrograms) -> None:
    # On so small a model every layer takes one of the rules by itself.
    auto = Candidate("bookkeeping", "auto", 2)
    for candidate in (auto, GRAM, DIRECT, REFERENCE):
        checked.add(candidate)
    same = {other: one for one, other in checked.same_as.items()}
    assert set(same) == {auto}
    assert len(checked.programs) == 3
    assert REFERENCE in checked.programs


def test_what_does_not_fit_the_memory_is_a_failure_with_a_name(
    workbench: Workbench,
    checked: CheckedPrograms,
    monkeypatch: pytest.MonkeyPatch,
    stopwatch: Stopwatch,
) -> None:
    real = programs.Lowered.compile

    def compile_or_fail(lowered: programs.Lowered) -> programs.Program:
        if lowered.candidate == GRAM:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return real(lowered)

    monkeypatch.setattr(programs.Lowered, "compile", compile_or_fail)
    for candidate in (GRAM, VMAP):
        checked.add(candidate)
    assert checked.failures == {GRAM: "out of memory"}
    assert set(checked.programs) == {VMAP}
    monkeypatch.setattr(checking, "_most_bytes", lambda: 1)
    with pytest.raises(InputError, match="not even a non-private gradient"):
        measure_clipping(workbench, [], VMAP, stopwatch, rounds=1)


def test_other_errors_of_the_compiler_are_not_hidden(
    checked: CheckedPrograms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(lowered: programs.Lowered) -> programs.Program:
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    monkeypatch.setattr(programs.Lowered, "compile", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        checked.add(VMAP)


@pytest.mark.parametrize(("stop_at", "rounds"), [("compiling", None), ("measuring", 3)])
def test_a_stop_leaves_what_was_measured(
    workbench: Workbench, stop_at: str, rounds: int | None
) -> None:
    stop, rounds_begun = StopRequest(), 0

    def observe(text: str, done: int, total: int) -> None:
        nonlocal rounds_begun
        rounds_begun += text.startswith("measuring")
        # Three rounds of the first pass, then into the first of the long ones.
        stop.is_set = text.startswith(stop_at) and (stop_at == "compiling" or rounds_begun == 4)

    stopwatch = Stopwatch(Random(0), stop, observe)
    report = measure_clipping(workbench, [PLAIN], VMAP, stopwatch, rounds=5)
    if rounds is None:
        assert report is None
        return
    assert report is not None
    assert not report.is_complete
    rows: list[Row] = [report.baseline, *report.rows]
    assert [row.rounds for row in rows] == [rounds] * len(rows)


@pytest.mark.filterwarnings("ignore:optax.global_norm is deprecated:DeprecationWarning")
@pytest.mark.parametrize("rescale_to_unit_norm", [True, False])
def test_the_peer_computes_the_same(workbench: Workbench, rescale_to_unit_norm: bool) -> None:
    checked = CheckedPrograms.on(
        dataclasses.replace(workbench, rescale_to_unit_norm=rescale_to_unit_norm)
    )
    peer = Candidate(PEER, None, 2)
    checked.add(peer)
    facts = checked.facts[peer]
    assert facts.gradient_error is not None
    assert facts.norm_error is not None
    assert facts.gradient_error < 2e-6
    assert facts.norm_error < 2e-6
    assert facts.flops is None
