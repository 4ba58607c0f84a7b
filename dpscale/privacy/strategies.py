"""Three ways to the same sum of clipped per-example gradients.

- `vmap`: every example's gradient by itself, all of them in memory;
- `ghost`: one forward pass and two backward ones, the first for norms alone, the second for
  the weighted sum; needs the least memory (Li et al., arXiv 2110.05679);
- `bookkeeping`: one backward pass, which keeps for each use of a weight what both the norm
  and the weighted sum follow from (Bu et al., arXiv 2210.00038).

The last two ask the ops (`dpscale.ops.taps`) and never see how a layer works. All three give
each example's exact gradient norm over all parameters, tied ones counted once.

Every quantity in this module is computed from private data and is NOT PRIVATE until noise
is added.

Axes: B examples, S tokens.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from dpscale.ops.contraction import row_products
from dpscale.ops.dense import weighted_total
from dpscale.ops.stack import map_layers
from dpscale.ops.sums import Sum, as_sums, finished
from dpscale.ops.taps import NormRule, Record, Squares, filled_records
from dpscale.ops.varying import varying_with
from dpscale.privacy.clipping import ClippedSum, ClipRule

StrategyName = Literal["vmap", "ghost", "bookkeeping"]


@dataclass(frozen=True)
class TappedLoss:
    """A model's loss, and how to ask its ops about per-example gradients.

    `per_example(params, tokens_BxS1, taps)` gives float32[B] nats per token, never averaged
    over B, each depending on its own example alone; `taps` is None or laid out like the
    parameters. `empty_records(params, tokens_BxS1)` gives the records such taps begin as.
    """

    per_example: Callable[[Any, jax.Array, Any | None], jax.Array]
    empty_records: Callable[[Any, jax.Array], Any]


@dataclass(frozen=True)
class Strategy:
    """A strategy and, for those that choose, how norms are found."""

    name: StrategyName
    norm_rule: NormRule = "auto"

    def __call__(
        self,
        loss: TappedLoss,
        params: Any,
        tokens_BxS1: jax.Array,
        is_counted_B: jax.Array,
        rule: ClipRule,
    ) -> ClippedSum:
        """Sums per-example gradients, each clipped by `rule`; see `unfinished`.

        Returns:
          `total` shaped like the parameters.
        """
        clipped = self.unfinished(loss, params, tokens_BxS1, is_counted_B, rule)
        return dataclasses.replace(clipped, total=finished(clipped.total))

    def unfinished(
        self,
        loss: TappedLoss,
        params: Any,
        tokens_BxS1: jax.Array,
        is_counted_B: jax.Array,
        rule: ClipRule,
    ) -> ClippedSum:
        """Sums per-example gradients, each clipped by `rule`.

        Guarantee: an example whose gradient is finite contributes its gradient times its
        factor; one that does not count, times 0. Where some example's gradient is not finite
        the total is not to be used: `microbatches` sees to it.

        Args:
          loss: Of the model that `params` belongs to.
          params: Float32 pytree.
          tokens_BxS1: int32[B, S + 1]; one example is one privacy unit.
          is_counted_B: bool[B], False for an example that shall contribute nothing.
          rule: How to clip.

        Returns:
          `total` laid out like the parameters, of sums in the form they come about in
          (`ops.sums`), for `microbatches` to add up.

        Inside `jax.shard_map` the sum is over the device's own examples: `lax.psum` the total.
        """
        params = varying_with((tokens_BxS1, is_counted_B), params)
        if self.name == "vmap":
            return _by_vmap(loss, params, tokens_BxS1, is_counted_B, rule)
        if self.name == "ghost":
            return _by_ghost(loss, params, tokens_BxS1, is_counted_B, rule, self.norm_rule)
        return _by_bookkeeping(loss, params, tokens_BxS1, is_counted_B, rule, self.norm_rule)


def _by_vmap(
    loss: TappedLoss, params: Any, tokens_BxS1: jax.Array, is_counted_B: jax.Array, rule: ClipRule
) -> ClippedSum:
    def loss_of_one(params: Any, unit_S1: jax.Array) -> jax.Array:
        return loss.per_example(params, unit_S1[None], None)[0]

    losses_B, grads = jax.vmap(jax.value_and_grad(loss_of_one), (None, 0))(params, tokens_BxS1)
    squares = Squares.exact(sum_of([row_products(grad, grad) for grad in jax.tree.leaves(grads)]))
    factor_B = rule.factors(squares, is_counted_B)
    total = jax.tree.map(lambda grad: weighted_total(grad, factor_B), grads)
    return ClippedSum(as_sums(total), squares.norms_B, losses_B)


def _by_ghost(
    loss: TappedLoss,
    params: Any,
    tokens_BxS1: jax.Array,
    is_counted_B: jax.Array,
    rule: ClipRule,
    norm_rule: NormRule,
) -> ClippedSum:
    announced = loss.empty_records(params, tokens_BxS1)
    empty = _map_records(lambda _, record: record.measuring(norm_rule), params, announced)
    empty = varying_with(params, empty)

    def losses_of(params: Any, taps: Any) -> jax.Array:
        return loss.per_example(params, tokens_BxS1, taps)

    losses_B, pull_back = jax.vjp(lambda taps: losses_of(params, taps), empty)
    (cotangents,) = pull_back(jnp.ones_like(losses_B))
    squares = _total_squares(params, filled_records(empty, cotangents))
    factor_B = rule.factors(squares, is_counted_B)

    def weighting(param: jax.Array, record: Any) -> Any:
        stacked = (*param.shape[: param.ndim - record.weight_ndim], *factor_B.shape)
        return record.weighting(jnp.broadcast_to(factor_B, stacked))

    weights = _map_records(weighting, params, announced)
    _, pull_back = jax.vjp(lambda params: losses_of(params, weights), params)
    (total,) = pull_back(jnp.ones_like(losses_B))
    return ClippedSum(as_sums(total), squares.norms_B, losses_B)


def _by_bookkeeping(
    loss: TappedLoss,
    params: Any,
    tokens_BxS1: jax.Array,
    is_counted_B: jax.Array,
    rule: ClipRule,
    norm_rule: NormRule,
) -> ClippedSum:
    announced = loss.empty_records(params, tokens_BxS1)
    empty = _map_records(lambda _, record: record.keeping(norm_rule), params, announced)
    empty = varying_with(params, empty)
    losses_B, pull_back = jax.vjp(lambda taps: loss.per_example(params, tokens_BxS1, taps), empty)
    (cotangents,) = pull_back(jnp.ones_like(losses_B))
    records = filled_records(empty, cotangents)
    squares = _total_squares(params, records)
    factor_B = rule.factors(squares, is_counted_B)

    def weighted_sum(param: jax.Array, record: Record) -> Sum:
        if param.ndim == record.weight_ndim:
            return record.weighted_sum(factor_B)
        return map_layers(partial(_weighted_sum, factor_B=factor_B), record)

    return ClippedSum(_map_records(weighted_sum, params, records), squares.norms_B, losses_B)


def _map_records(visit: Callable[[jax.Array, Any], Any], params: Any, records: Any) -> Any:
    """Visits each parameter with its record; a parameter without one is an error."""
    return jax.tree.map(visit, params, records)


def _total_squares(params: Any, records: Any) -> Squares:
    def squares(param: jax.Array, record: Record) -> Squares:
        if param.ndim == record.weight_ndim:
            return record.squares()
        of_layers = map_layers(_squares, record)
        total: Squares = jax.tree.map(lambda of_LxB: jnp.sum(of_LxB, axis=0), of_layers)
        return total

    parts = _map_records(squares, params, records)
    total: Squares = sum_of(jax.tree.leaves(parts, is_leaf=lambda node: isinstance(node, Squares)))
    return total


def _squares(record: Record) -> Squares:
    return record.squares()


def _weighted_sum(record: Record, factor_B: jax.Array) -> Sum:
    return record.weighted_sum(factor_B)


def sum_of(parts: list[Any]) -> Any:
    """The sum of at least one part."""
    return sum(parts[1:], start=parts[0])
