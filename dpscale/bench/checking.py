"""Programs are compiled, run once, and compared with vmap before anything is timed."""

import os
import time
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from dpscale.bench.candidates import Candidate
from dpscale.bench.programs import (
    Program,
    Workbench,
    gradient_error,
    is_out_of_memory,
    norm_error,
)
from dpscale.bench.report import Facts
from dpscale.bench.timing import Call
from dpscale.privacy.clipping import ClippedSum

REFERENCE = Candidate("vmap", None, 1)
"""What results are compared with: one example at a time."""


@dataclass(frozen=True)
class Reference:
    """vmap's result, at a clip norm that half of the examples exceed."""

    program: Program
    l2_clip_norm: jax.Array
    clipped: ClippedSum
    num_units: int

    @classmethod
    def of(cls, bench: Workbench) -> "Reference":
        """Computes it."""
        program, num_units = bench.lower(REFERENCE).compile(), bench.shape.batch_size
        l2_clip_norm = jnp.median(program.run(jnp.float32(1)).norms[:num_units])
        return cls(program, l2_clip_norm, program.run(l2_clip_norm), num_units)

    def errors(self, result: Any) -> dict[str, float]:
        """How far a clipped sum is from vmap's; nothing is said of a non-private one."""
        if not isinstance(result, ClippedSum):
            return {}
        return {
            "gradient_error": gradient_error(result, self.clipped),
            "norm_error": norm_error(result, self.clipped, self.num_units),
        }


@dataclass(frozen=True)
class CheckedPrograms:
    """The programs that ran, what is known of each, and why others did not run.

    `first_call` holds the seconds of each one's first call: far too many, as it pays for fresh
    memory, but enough to tell what is hopeless. `same_as` names, for a candidate that comes
    down to a program we have (rules can agree on every layer), whose that is.
    """

    bench: Workbench
    reference: Reference
    programs: dict[Candidate, Program] = field(default_factory=dict)
    facts: dict[Candidate, Facts] = field(default_factory=dict)
    first_call: dict[Candidate, list[float]] = field(default_factory=dict)
    failures: dict[Candidate, str] = field(default_factory=dict)
    same_as: dict[Candidate, Candidate] = field(default_factory=dict)
    _known: dict[str, Candidate] = field(default_factory=dict)

    @classmethod
    def on(cls, bench: Workbench) -> "CheckedPrograms":
        """None yet, only the reference."""
        return cls(bench, Reference.of(bench))

    def add(self, candidate: Candidate) -> None:
        """Compiles, runs and compares one; what does not fit the memory is a failure."""
        try:
            self._add(candidate)
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self.failures[candidate] = "out of memory"

    def _add(self, candidate: Candidate) -> None:
        lowered = self.bench.lower(candidate)
        known = self._known.setdefault(lowered.fingerprint, candidate)
        if known != candidate:
            self.same_as[candidate] = known
            return
        program = self.reference.program if candidate == REFERENCE else lowered.compile()
        self.facts[candidate] = Facts(program.temp_bytes, program.flops)
        if (program.temp_bytes or 0) > _most_bytes():
            self.failures[candidate] = "needs more memory than there is"
            return
        started = time.perf_counter()
        result = program.run(self.reference.l2_clip_norm)
        self.first_call[candidate] = [time.perf_counter() - started]
        self.facts[candidate] = Facts(
            program.temp_bytes, program.flops, **self.reference.errors(result)
        )
        self.programs[candidate] = program

    def call(self, candidate: Candidate) -> Call:
        """One run, to be timed."""
        program, l2_clip_norm = self.programs[candidate], self.reference.l2_clip_norm
        return lambda index: program.run(l2_clip_norm)


def _most_bytes() -> float:
    """What a program may take: a host that runs out of memory kills instead of refusing."""
    if jax.default_backend() != "cpu":
        return float("inf")
    return 0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
