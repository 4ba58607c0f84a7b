"""Layers one by one, and in a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.ops.stack import UNROLLED_LAYERS, map_layers


@pytest.mark.parametrize("num_layers", [1, 3, UNROLLED_LAYERS, UNROLLED_LAYERS + 1])
def test_every_layer_is_visited_once_in_order(num_layers):
    """Catches a layer left out or visited twice, and another order, unrolled and in a loop."""
    stacked = {"a": jnp.arange(num_layers * 2.0).reshape(num_layers, 2), "b": jnp.ones(num_layers)}
    visited = map_layers(lambda layer: (layer["a"] + layer["b"], layer["b"] * 2), stacked)
    np.testing.assert_array_equal(visited[0], stacked["a"] + 1)
    np.testing.assert_array_equal(visited[1], np.full(num_layers, 2.0))


def test_deep_stacks_are_compiled_as_one_block():
    """Catches a program that grows with the depth of a deep model."""

    def program(num_layers):
        return jax.make_jaxpr(lambda x: map_layers(jnp.sin, x))(jnp.ones((num_layers, 2))).eqns

    assert len(program(UNROLLED_LAYERS + 1)) == len(program(100)) < len(program(UNROLLED_LAYERS))
