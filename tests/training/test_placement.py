"""Which device holds what. The meshes are abstract: no devices are needed."""

import jax
import pytest
from jax.sharding import AbstractMesh

from dpscale.config import MeshConfig, OptimizerConfig
from dpscale.errors import InputError
from dpscale.sizes import named_shape
from dpscale.training.placement import Placement, _mesh_sizes
from dpscale.training.step import state_shapes

MODEL = named_shape("w256", vocab_size=1024, seq_len=16)  # 4 heads, 1 key-value head


def specs(data: int, fsdp: int, tensor: int) -> dict[str, tuple[object, ...]]:
    """How each leaf of a train state is divided, by path."""
    mesh = AbstractMesh((data, fsdp, tensor), ("data", "fsdp", "tensor"))
    state = state_shapes(MODEL, OptimizerConfig(learning_rate=0.1))
    shardings = Placement(mesh, MODEL).of_state(state)
    leaves = jax.tree_util.tree_leaves_with_path(shardings)
    return {jax.tree_util.keystr(path): tuple(sharding.spec) for path, sharding in leaves}


def test_the_optimizer_is_divided_as_the_parameters_are():
    """Catches Adam's moments held whole by every device: twice the parameters."""
    found = specs(2, 2, 2)
    params = {name: spec for name, spec in found.items() if name.startswith(".params")}
    assert len(params) == 13
    for name, spec in params.items():
        for moment in ("mu", "nu"):
            assert found[name.replace(".params", f".adam.{moment}")] == spec


def test_every_large_array_is_divided():
    """Catches a parameter that the table does not know."""
    found = specs(1, 4, 2)
    whole = {name for name, spec in found.items() if not any(spec) and name.startswith(".params")}
    assert all(name.endswith("['scale']") for name in whole)


def test_products_pair_their_axes():
    """Catches a first product whose parts the second cannot take up where they lie."""
    found = specs(1, 2, 4)
    layers = ".params['layers']"
    assert found[f"{layers}['feed_forward']['up']['kernel']"] == (None, "fsdp", "tensor")
    assert found[f"{layers}['feed_forward']['down']['kernel']"] == (None, "tensor", "fsdp")
    assert found[f"{layers}['attention']['query']['kernel']"] == (None, "fsdp", "tensor")
    assert found[f"{layers}['attention']['output']['kernel']"] == (None, "tensor", "fsdp")


@pytest.mark.parametrize(("tensor", "query"), [(4, "tensor"), (8, None)])
def test_no_head_is_cut_in_two(tensor, query):
    """Catches heads of which each device computes a part: their scores would need them whole."""
    found = specs(1, 1, tensor)
    attention = ".params['layers']['attention']"
    assert found[f"{attention}['query']['kernel']"] == (None, "fsdp", query)
    assert found[f"{attention}['key']['kernel']"] == (None, "fsdp", None)


@pytest.mark.parametrize(
    ("mesh", "devices", "sizes"),
    [((-1, 1, 1), 8, (8, 1, 1)), ((2, -1, 2), 8, (2, 2, 2)), ((1, 1, 1), 1, (1, 1, 1))],
)
def test_what_is_left_goes_to_the_open_axis(mesh, devices, sizes):
    """Catches devices that are left idle."""
    assert _mesh_sizes(MeshConfig(*mesh), devices) == sizes


@pytest.mark.parametrize(("mesh", "devices"), [((-1, 3, 1), 8), ((2, 2, 1), 8), ((4, 4, 1), 8)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(mesh, devices):
    """Catches a mesh that leaves devices out, or invents some."""
    with pytest.raises(InputError, match=f"do not multiply to the {devices} devices"):
        _mesh_sizes(MeshConfig(*mesh), devices)


@pytest.mark.parametrize("fields", [{"fsdp": 0}, {"tensor": -2}, {"data": -1, "fsdp": -1}])
def test_axes_out_of_range_are_refused(fields):
    """Catches a mesh that no devices make."""
    with pytest.raises(InputError):
        MeshConfig(**fields)
