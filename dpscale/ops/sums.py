"""Sums of gradients in the form in which they come about, added up in that form.

The gradient of a weight that is taller than wide is formed turned (`dense`), and what `embed` adds
to a table is a few of its rows. To turn the one and spread out the other for every microbatch would
pass over arrays as large as the parameters again and again; a running total keeps the forms, and
takes the parameter's own shape once, at the end.

Axes: V rows of a table, D width.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


@partial(jax.tree_util.register_dataclass, data_fields=["array"], meta_fields=["is_turned"])
@dataclass(frozen=True)
class Whole:
    """A sum as one array; where it is turned, with its last two axes swapped."""

    array: jax.Array
    is_turned: bool = False

    def nothing(self) -> "Whole":
        """The running total before anything was added to it."""
        return Whole(jnp.zeros(self.array.shape, self.array.dtype), self.is_turned)

    def added_to(self, total: Any, is_added: jax.Array | bool) -> "Whole":
        """The running total with this sum, or as it was; never NaN because of what is not added."""
        both = jnp.where(is_added, total.array + self.array, total.array)
        return Whole(both, self.is_turned)

    def columns(self, start: int, stop: int) -> "Whole":
        """The sum of some columns of the parameter."""
        axis = self.array.ndim - (2 if self.is_turned else 1)
        return Whole(jax.lax.slice_in_dim(self.array, start, stop, axis=axis), self.is_turned)

    def finished(self) -> jax.Array:
        """The sum, shaped like the parameter."""
        return self.array.swapaxes(-1, -2) if self.is_turned else self.array


@partial(jax.tree_util.register_dataclass, data_fields=["index", "rows"], meta_fields=["num_rows"])
@dataclass(frozen=True)
class SomeRows:
    """A sum that is zero but for some rows: int[...] numbers and [..., D] rows.

    A number that occurs twice counts twice; one outside [0, V) not at all.
    """

    index: jax.Array
    rows: jax.Array
    num_rows: int

    def nothing(self) -> Whole:
        """See `Whole`; all rows."""
        return Whole(jnp.zeros((self.num_rows, self.rows.shape[-1]), self.rows.dtype))

    def added_to(self, total: Any, is_added: jax.Array | bool) -> Whole:
        """See `Whole`; only the rows are touched, where the total's buffer can be reused."""
        rows = jnp.where(is_added, self.rows, 0.0)
        added = total.array.at[self.index].add(rows, mode="drop", wrap_negative_indices=False)
        return Whole(added)

    def finished(self) -> jax.Array:
        """See `Whole`."""
        return self.added_to(self.nothing(), is_added=True).array


@partial(jax.tree_util.register_dataclass, data_fields=["dense", "rows"], meta_fields=[])
@dataclass(frozen=True)
class Joined:
    """The sum of two: all of a table, and some rows of it."""

    dense: Whole
    rows: SomeRows | Whole

    def nothing(self) -> "Joined | Whole":
        """See `Whole`; two arrays where the first is turned, as rows cannot be added to it."""
        if self.dense.is_turned:
            return Joined(self.dense.nothing(), self.rows.nothing())
        return self.dense.nothing()

    def added_to(self, total: Any, is_added: jax.Array | bool) -> "Joined | Whole":
        """See `Whole`."""
        if isinstance(total, Joined):
            return Joined(
                self.dense.added_to(total.dense, is_added), self.rows.added_to(total.rows, is_added)
            )
        return self.rows.added_to(self.dense.added_to(total, is_added), is_added)

    def finished(self) -> jax.Array:
        """See `Whole`."""
        return self.rows.added_to(Whole(self.dense.finished()), is_added=True).array


Sum = Whole | SomeRows | Joined
"""What a record's `weighted_sum` gives."""


def is_sum(node: Any) -> bool:
    """Whether a node of a pytree is a sum: for `jax.tree.map`, whose leaves they then are."""
    return isinstance(node, Whole | SomeRows | Joined)


def as_sums(tree: Any) -> Any:
    """The pytree with its plain arrays as `Whole` ones."""
    return jax.tree.map(lambda node: node if is_sum(node) else Whole(node), tree, is_leaf=is_sum)


def nothing_like(sums: Any) -> Any:
    """Running totals for a pytree of sums, or of their shapes."""
    return jax.tree.map(lambda one: one.nothing(), sums, is_leaf=is_sum)


def added_up(sums: Any, totals: Any, is_added: jax.Array) -> Any:
    """Running totals with one more sum each, or as they were."""
    return jax.tree.map(
        lambda one, total: one.added_to(total, is_added), sums, totals, is_leaf=is_sum
    )


def finished(sums: Any) -> Any:
    """The sums, or running totals, as arrays shaped like the parameters."""
    return jax.tree.map(lambda one: one.finished(), sums, is_leaf=is_sum)
