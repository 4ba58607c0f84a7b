"""Where a run's arrays live: a mesh of devices, and who holds which part.

Nothing here changes what is computed. Programs are written for whole arrays, and XLA's
partitioner divides them as their inputs and outputs are divided.

Axes: L layers, D width, H heads times their channels, F feed-forward, V vocabulary.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.typing import NDArray

from dpscale.config import MeshConfig, ModelConfig
from dpscale.errors import InputError

DATA, FSDP, TENSOR = "data", "fsdp", "tensor"

_BATCH_AXES = (DATA, FSDP)

_PARAM_AXES: dict[str, tuple[str | None, ...]] = {
    "embedding/table": (TENSOR, FSDP),
    "attention/query/kernel": (None, FSDP, TENSOR),
    "attention/key/kernel": (None, FSDP, TENSOR),
    "attention/value/kernel": (None, FSDP, TENSOR),
    "attention/output/kernel": (None, TENSOR, FSDP),
    "feed_forward/gate/kernel": (None, FSDP, TENSOR),
    "feed_forward/up/kernel": (None, FSDP, TENSOR),
    "feed_forward/down/kernel": (None, TENSOR, FSDP),
}
"""Mesh axis of each array axis, by the end of a parameter's path: [V, D] for the table, [L, in,
out] for kernels. Heads and feed-forward channels are divided over `tensor`, so that what follows
a first product needs no other device's part until the second has been summed (Shoeybi et al.,
arXiv 1909.08053). Norm scales are small, and held whole by all."""


@dataclass(frozen=True)
class Placement:
    """The mesh of a run, with axes `data`, `fsdp` and `tensor`, and the model on it."""

    mesh: Mesh
    model: ModelConfig

    @classmethod
    def of(cls, config: MeshConfig, model: ModelConfig) -> "Placement":
        """All devices, arranged as configured.

        Raises:
          InputError: The axes do not multiply to the number of devices.
        """
        sizes = _mesh_sizes(config, jax.device_count())
        axis_types = (AxisType.Auto,) * len(sizes)
        return cls(jax.make_mesh(sizes, (DATA, FSDP, TENSOR), axis_types=axis_types), model)

    @property
    def num_batch_shards(self) -> int:
        """Parts that the examples of a microbatch are divided into."""
        return int(self.mesh.shape[DATA] * self.mesh.shape[FSDP])

    @property
    def whole(self) -> NamedSharding:
        """Every device holds all of it."""
        return self._divided()

    @property
    def examples(self) -> NamedSharding:
        """The first axis is divided over devices."""
        return self._divided(_BATCH_AXES)

    @property
    def microbatches(self) -> NamedSharding:
        """[microbatches, examples of each, ...]: every microbatch is divided over devices."""
        return self._divided(None, _BATCH_AXES)

    def of_state(self, shapes: Any) -> Any:
        """The sharding of each leaf of a train state, or of parameters; by path and shape.

        An axis that its mesh axis does not divide is held whole, and so is one of heads that
        would be cut in two: few key-value heads are computed by every device.
        """
        return jax.tree_util.tree_map_with_path(self._of_leaf, shapes)

    def _of_leaf(self, path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
        axes = next((axes for end, axes in _PARAM_AXES.items() if name.endswith(end)), ())
        if len(axes) != len(leaf.shape):
            return self.whole
        parts = dict(self.mesh.shape)
        if self._num_heads(name) % parts[TENSOR]:
            axes = tuple(None if axis == TENSOR else axis for axis in axes)
        divided = [
            axis if axis is not None and size % parts[axis] == 0 else None
            for axis, size in zip(axes, leaf.shape, strict=True)
        ]
        return self._divided(*divided)

    def _num_heads(self, name: str) -> int:
        """Heads that a parameter's channels are of; 0, which all divide, where they are of none."""
        if "attention/" not in name:
            return 0
        is_shared = "key/" in name or "value/" in name
        return self.model.num_kv_heads if is_shared else self.model.num_heads

    def _divided(self, *axes: str | tuple[str, ...] | None) -> NamedSharding:
        return NamedSharding(self.mesh, P(*axes))  # type: ignore[no-untyped-call]

    def put_examples(self, rows: NDArray[Any], *, axis: int = 0) -> jax.Array:
        """A host's copy of a batch as one array, its examples divided over devices if they can be.

        Args:
          axis: 0 for [examples, ...], 1 for [microbatches, examples of each, ...].
        """
        sharding = (self.examples, self.microbatches)[axis]
        if rows.shape[axis] % self.num_batch_shards:
            sharding = self.whole
        return jax.make_array_from_callback(rows.shape, sharding, lambda part: rows[part])

    def own_rows(self, num_rows: int) -> NDArray[np.bool_]:
        """bool[num_rows]: the examples of a batch that this host's devices hold, by `put_examples`.

        It need not have read any other.
        """
        own = np.zeros(num_rows, np.bool_)
        sharding = self.whole if num_rows % self.num_batch_shards else self.examples
        for part in sharding.addressable_devices_indices_map((num_rows,)).values():
            own[part] = True
        return own

    def put_whole(self, tree: Any) -> Any:
        """Arrays and numbers that every host has, held whole by every device."""
        return _held_as(self.whole)(tree)


@functools.cache
def _held_as(sharding: NamedSharding) -> Callable[[Any], Any]:
    """A function that gives its arrays that sharding; one for all, so that it is compiled once."""
    return jax.jit(lambda tree: tree, out_shardings=sharding)


def _mesh_sizes(config: MeshConfig, num_devices: int) -> tuple[int, int, int]:
    """The axes with -1 settled.

    >>> _mesh_sizes(MeshConfig(fsdp=2, tensor=2), 8)
    (2, 2, 2)
    """
    sizes = [config.data, config.fsdp, config.tensor]
    given = math.prod(size for size in sizes if size != -1)
    left = num_devices // given if num_devices % given == 0 else 0
    data, fsdp, tensor = (left if size == -1 else size for size in sizes)
    if data * fsdp * tensor != num_devices:
        raise InputError(
            "mesh",
            f"data={config.data}, fsdp={config.fsdp}, tensor={config.tensor} do not multiply to "
            f"the {num_devices} devices that are there.",
        )
    return data, fsdp, tensor
