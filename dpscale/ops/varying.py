"""Which devices of a `jax.shard_map` hold different values of an array.

Inside `shard_map` JAX tracks the mesh axes that a value varies over. Where parameters are the
same on all devices and the batch is not, the gradient of the one with respect to the other is
by definition the same on all devices again: autodiff sums it over them. For per-example
gradients that sum comes before the clip, norms are those of sums of several examples, and
nothing fails. So everything that a per-example gradient is taken of is first declared to vary
as its batch does; what comes out is each device's own, and the caller sums what is clipped.

Outside `shard_map`, and in one with `check_vma=False`, no value varies and nothing is done.
"""

from typing import Any, TypeVar

import jax
from jax import lax

Tree = TypeVar("Tree")


def varying_with(reference: Any, tree: Tree) -> Tree:
    """`tree`, declared to vary over the mesh axes that some array of `reference` varies over.

    The values stay what they are, device by device.
    """
    axes = frozenset[Any]().union(*map(_axes, jax.tree.leaves(reference)))

    def declared(leaf: Any) -> Any:
        missing = tuple(sorted(axes - _axes(leaf), key=str))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    declared_tree: Tree = jax.tree.map(declared, tree)
    return declared_tree


def _axes(array: Any) -> frozenset[Any]:
    """The mesh axes that an array varies over."""
    axes: frozenset[Any] = jax.typeof(array).manual_axis_type.varying
    return axes
