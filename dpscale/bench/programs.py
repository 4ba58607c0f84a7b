"""Candidates as compiled programs, all on the same parameters, examples and clip norm.

Axes: B slots, S tokens.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from dpscale.bench.candidates import NON_PRIVATE, PEER, Candidate
from dpscale.bench.peer import peer_gradient
from dpscale.bench.shapes import Shape, whole_microbatches
from dpscale.config import ModelConfig
from dpscale.model.decoder import init_params, per_example_loss
from dpscale.ops.stack import is_unrolled
from dpscale.ops.unembed import vocab_chunk
from dpscale.privacy.clipping import ClippedSum, ClipRule
from dpscale.privacy.lanes import in_lanes, num_lanes
from dpscale.privacy.microbatches import microbatched
from dpscale.privacy.strategies import Strategy, sum_of
from dpscale.training.step import tapped_loss

T = TypeVar("T")

Gradient = Callable[[Any, jax.Array, jax.Array, jax.Array], Any]
"""(params, tokens, is_padding, l2_clip_norm) -> a sum of gradients and what comes with it."""

_OFF_INIT = 0.02
"""Normal noise on fresh parameters, so that no gradient is zero by symmetry."""


def some_params(model: ModelConfig, seed: int) -> Any:
    """Parameters off their initial values."""

    @jax.jit
    def make(key: jax.Array) -> Any:
        init_key, noise_key = jax.random.split(key)
        leaves, structure = jax.tree.flatten(init_params(model, init_key))
        keys = jax.random.split(noise_key, len(leaves))
        off = [
            leaf + _OFF_INIT * jax.random.normal(leaf_key, leaf.shape)
            for leaf, leaf_key in zip(leaves, keys, strict=True)
        ]
        return jax.tree.unflatten(structure, off)

    return make(jax.random.key(seed))


def some_tokens(model: ModelConfig, num_units: int, seed: int) -> NDArray[np.int32]:
    """int32[num_units, S + 1]: like text, a few tokens make up most of a unit, with repeats."""
    uniform = np.random.default_rng(seed).random((num_units, model.seq_len + 1))
    return (model.vocab_size * uniform**3).astype(np.int32)


def non_private_gradient(
    model: ModelConfig, microbatch_size: int, *, lanes: int | None = None
) -> Gradient:
    """The honest opponent: the summed loss's gradient by the same ops, in a plain loop.

    Args:
      model: Its shape.
      microbatch_size: Examples at a time.
      lanes: How many parts they are computed in; absent: as many as in training (`num_lanes`).
    """
    lanes = lanes or num_lanes(model, microbatch_size)

    def gradient(
        params: Any, tokens_BxS1: jax.Array, is_padding_B: jax.Array, l2_clip_norm: jax.Array
    ) -> tuple[Any, jax.Array]:
        def of_microbatch(start: jax.Array | int) -> tuple[jax.Array, Any]:
            tokens = lax.dynamic_slice_in_dim(tokens_BxS1, start, microbatch_size)
            is_padding = lax.dynamic_slice_in_dim(is_padding_B, start, microbatch_size)

            def summed_loss(params: Any) -> Any:
                losses = [
                    jnp.sum(per_example_loss(model, params, lane) * ~is_padding)
                    for lane, is_padding in in_lanes(tokens, is_padding, lanes)
                ]
                return sum_of(losses)

            return jax.value_and_grad(summed_loss)(params)

        def add(index: jax.Array, so_far: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
            more = of_microbatch(index * microbatch_size)
            return so_far[0] + more[0], jax.tree.map(jnp.add, so_far[1], more[1])

        num_slots = tokens_BxS1.shape[0]
        if num_slots == microbatch_size:
            loss, total = of_microbatch(0)
        else:
            nothing = (jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, params))
            loss, total = lax.fori_loop(0, num_slots // microbatch_size, add, nothing)
        return total, loss

    return gradient


def private_gradient(
    model: ModelConfig,
    candidate: Candidate,
    *,
    rescale_to_unit_norm: bool,
    lanes: int | None = None,
) -> Gradient:
    """One of our strategies, as the training step runs it; `lanes` as for the non-private one."""
    strategy = Strategy(candidate.strategy, candidate.norm_rule or "auto")  # type: ignore[arg-type]
    loss = tapped_loss(model)

    def gradient(
        params: Any, tokens_BxS1: jax.Array, is_padding_B: jax.Array, l2_clip_norm: jax.Array
    ) -> ClippedSum:
        rule = ClipRule(l2_clip_norm, rescale_to_unit_norm)
        return microbatched(
            lambda tokens, is_counted: strategy.unfinished(loss, params, tokens, is_counted, rule),
            tokens_BxS1,
            is_padding_B,
            microbatch_size=candidate.microbatch_size,
            lanes=lanes or num_lanes(model, candidate.microbatch_size),
        )

    return gradient


@dataclass(frozen=True)
class Program:
    """A compiled candidate with its arguments.

    `run` takes the clip norm and returns when the result is there. `temp_bytes` is the memory
    it needs beside arguments and result; `flops` what XLA counts in one logical batch. Both
    are None where that is not known.
    """

    candidate: Candidate
    run: Callable[[jax.Array], Any]
    temp_bytes: int | None
    flops: float | None


@dataclass(frozen=True)
class Workbench:
    """One shape's parameters and examples, on which every candidate is compiled.

    `tokens_BxS1` holds the batch without padding.
    """

    shape: Shape
    params: Any
    tokens_BxS1: NDArray[np.int32]
    rescale_to_unit_norm: bool = True

    @classmethod
    def of(cls, shape: Shape, seed: int, *, rescale_to_unit_norm: bool = True) -> "Workbench":
        """With made-up parameters and examples."""
        tokens = some_tokens(shape.model, shape.batch_size, seed)
        return cls(shape, some_params(shape.model, seed), tokens, rescale_to_unit_norm)

    def gradient(self, candidate: Candidate) -> Gradient:
        """The candidate as a function."""
        model, size = self.shape.model, candidate.microbatch_size
        if candidate.strategy == NON_PRIVATE:
            return non_private_gradient(model, size)
        rescale = self.rescale_to_unit_norm
        if candidate.strategy == PEER:
            return peer_gradient(model, size, rescale_to_unit_norm=rescale)
        return private_gradient(model, candidate, rescale_to_unit_norm=rescale)

    def lower(self, candidate: Candidate) -> "Lowered":
        """Traces; a batch that does not divide is padded to whole microbatches."""
        num_units = len(self.tokens_BxS1)
        slots = whole_microbatches(num_units, candidate.microbatch_size)
        tokens = np.zeros((slots, self.tokens_BxS1.shape[1]), np.int32)
        tokens[:num_units] = self.tokens_BxS1
        is_padding = jnp.arange(slots) >= num_units
        arguments = (self.params, jnp.asarray(tokens), is_padding)
        lowered = jax.jit(self.gradient(candidate)).lower(*arguments, jnp.zeros((), jnp.float32))
        return Lowered(candidate, self.shape.model, arguments, lowered)


@dataclass(frozen=True)
class Lowered:
    """A candidate's program before it is compiled. `arguments` is all but the clip norm."""

    candidate: Candidate
    model: ModelConfig
    arguments: tuple[Any, jax.Array, jax.Array]
    program: jax.stages.Lowered

    @property
    def fingerprint(self) -> str:
        """The same for two candidates that come down to one program."""
        return hashlib.sha256(self.program.as_text().encode()).hexdigest()

    def compile(self) -> Program:
        """Compiles."""
        compiled = self.program.compile()
        memory = compiled.memory_analysis()
        return Program(
            self.candidate,
            lambda l2_clip_norm: finished(compiled(*self.arguments, l2_clip_norm)),
            None if memory is None else int(memory.temp_size_in_bytes),
            self._flops(compiled),
        )

    def _flops(self, compiled: jax.stages.Compiled) -> float | None:
        """XLA counts a loop's body once, so that its count is one microbatch's.

        Where layers or the vocabulary are loops too, or the loop is the peer's own affair,
        there is nothing to be had from the count.
        """
        size, slots = self.candidate.microbatch_size, self.arguments[1].shape[0]
        lane_size = size // num_lanes(self.model, size)
        is_chunked = vocab_chunk(lane_size * self.model.seq_len, self.model.vocab_size) is not None
        has_other_loops = not is_unrolled(self.model.num_layers) or is_chunked
        costs = compiled.cost_analysis()
        if has_other_loops or self.candidate.strategy == PEER or not costs or "flops" not in costs:
            return None
        return float(costs["flops"]) * (slots // size)


def finished(result: T) -> T:
    """The result, once the device is done with it."""
    jax.block_until_ready(result)  # type: ignore[no-untyped-call]
    return result


def is_out_of_memory(error: Exception) -> bool:
    """Whether XLA gave up for want of memory."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


@jax.jit
def _relative_error(total: Any, reference: Any) -> jax.Array:
    def square(tree: Any) -> jax.Array:
        return sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)), jnp.float32(0))

    return jnp.sqrt(square(jax.tree.map(jnp.subtract, total, reference)) / square(reference))


def gradient_error(clipped: ClippedSum, reference: ClippedSum) -> float:
    """Relative L2 distance of the sums."""
    return float(_relative_error(clipped.total, reference.total))


def norm_error(clipped: ClippedSum, reference: ClippedSum, num_units: int) -> float:
    """Largest relative distance of an example's norm."""
    norms, expected = np.asarray(clipped.norms), np.asarray(reference.norms)
    return float(np.max(np.abs(norms[:num_units] / expected[:num_units] - 1)))
