"""Measures clipping over eight devices against the same clipping on one.

Run as a script with a group of cases (an upper-case tuple below), `trap` or `plain_loss`; the
last line printed is JSON. The number of devices must be known before JAX starts: whoever runs
this sets XLA_FLAGS. Measured is, against `vmap` on a single device: the largest relative error
of a leaf of the total (L2), of a norm, and of a loss.
"""

import dataclasses
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dpscale.config import ModelConfig
from dpscale.model.decoder import Params, init_params
from dpscale.ops import unembed
from dpscale.ops.taps import NormRule
from dpscale.ops.varying import varying_with
from dpscale.privacy.clipping import ClippedSum, ClipRule
from dpscale.privacy.microbatches import microbatched
from dpscale.privacy.strategies import Strategy, StrategyName, TappedLoss
from dpscale.training.step import tapped_loss

NUM_DEVICES = 8
VOCAB_SIZE, SEQ_LEN, NUM_SLOTS = 32, 6, 16
SCANNED_LAYERS = 17
FEW_LOGITS = 60
IS_PADDING = np.arange(NUM_SLOTS) >= 13
NOT_FINITE = (5, 14)  # an example, and padding: their tokens are outside the vocabulary
CLIP_NORMS = {2: 0.73, SCANNED_LAYERS: 1.8}  # by depth: about half of the examples are clipped

Clip = Callable[[Params, jax.Array, jax.Array], ClippedSum]


@dataclass(frozen=True)
class Case:
    """How the gradient is had, of which model, on which mesh."""

    strategy: StrategyName
    norm_rule: NormRule = "auto"
    microbatch_size: int = 4
    num_layers: int = 2
    is_chunked: bool = False
    mesh: tuple[int, int, int] = (NUM_DEVICES, 1, 1)
    sharded: Literal["", "fsdp", "tensor", "fsdp tensor"] = ""
    batch_axes: tuple[str, ...] = ("data",)
    check_vma: bool = True

    @property
    def rule(self) -> ClipRule:
        """How gradients are clipped."""
        return ClipRule(CLIP_NORMS[self.num_layers], rescale_to_unit_norm=False)

    @property
    def model(self) -> ModelConfig:
        """A minuscule decoder.

        The large `norm_eps` makes its gradients well-conditioned. With the default, a norm
        after a block divides activations of 1e-2 by themselves, float32 gradients are 2e-5
        from those in float64 on one device as on many, and nothing could be told at 2e-6.
        """
        return ModelConfig(
            vocab_size=VOCAB_SIZE,
            seq_len=SEQ_LEN,
            num_layers=self.num_layers,
            width=8,
            num_heads=2,
            num_kv_heads=1,
            head_dim=4,
            feed_forward_width=16,
            norm_eps=1.0,
        )


BY_GRAM = partial(Case, "bookkeeping", "gram")
BY_DIRECT = partial(Case, "bookkeeping", "direct")
GHOST = partial(Case, "ghost", "gram")
STRATEGIES = (partial(Case, "vmap"), GHOST, BY_GRAM, BY_DIRECT)
PLACES: tuple[dict[str, Any], ...] = (
    {"mesh": (8, 1, 1)},
    {"mesh": (2, 2, 2), "sharded": "fsdp tensor"},
    {"mesh": (1, 8, 1), "sharded": "fsdp"},
    {"mesh": (4, 1, 2), "sharded": "tensor"},
)

NAMED = (
    Case("vmap", mesh=(8, 1, 1)),
    GHOST(mesh=(2, 2, 2), sharded="fsdp tensor", microbatch_size=8),
    BY_GRAM(mesh=(1, 8, 1), sharded="fsdp", batch_axes=("data", "fsdp"), microbatch_size=16),
    BY_DIRECT(mesh=(4, 1, 2), sharded="tensor"),
    BY_GRAM(mesh=(2, 2, 2), sharded="fsdp tensor", is_chunked=True),
)
ALL_NAMED = (
    *(new(**at, microbatch_size=size) for new in STRATEGIES for at in PLACES for size in (4, 16)),
    *(new(**at, is_chunked=True) for new in STRATEGIES for at in PLACES),
    *(new(**at, num_layers=SCANNED_LAYERS) for new in STRATEGIES for at in PLACES[1:]),
)
MANUAL = (
    *(new(microbatch_size=1) for new in STRATEGIES),
    BY_GRAM(microbatch_size=2, num_layers=SCANNED_LAYERS),
    BY_GRAM(microbatch_size=1, is_chunked=True, check_vma=False),
)
ALL_MANUAL = (
    *(
        new(microbatch_size=size, check_vma=check_vma)
        for new in STRATEGIES
        for size in (1, 2)
        for check_vma in (True, False)
    ),
    *(new(microbatch_size=1, num_layers=SCANNED_LAYERS) for new in STRATEGIES),
    *(new(microbatch_size=2, is_chunked=True, check_vma=False) for new in STRATEGIES),
)
MANUAL_CHUNKED = tuple(new(is_chunked=True, microbatch_size=1) for new in STRATEGIES)


def batch() -> tuple[jax.Array, jax.Array]:
    """Tokens and padding mask of the logical batch."""
    tokens = np.random.default_rng(1).integers(0, VOCAB_SIZE, (NUM_SLOTS, SEQ_LEN + 1))
    tokens[NOT_FINITE, 2] = VOCAB_SIZE + 7
    return jnp.asarray(tokens, jnp.int32), jnp.asarray(IS_PADDING)


def clip_with(case: Case, microbatch_size: int) -> Clip:
    """The clipped sum of a batch by the strategy of a case."""
    strategy, loss = Strategy(case.strategy, case.norm_rule), tapped_loss(case.model)

    def clip(params: Params, tokens: jax.Array, is_padding: jax.Array) -> ClippedSum:
        return microbatched(
            lambda tokens, is_counted: strategy.unfinished(
                loss, params, tokens, is_counted, case.rule
            ),
            tokens,
            is_padding,
            microbatch_size=microbatch_size,
        )

    return clip


@cache
def single(num_layers: int) -> tuple[Params, ClippedSum]:
    """Parameters, and the result of `vmap` on one device; some norms are clipped, some not."""
    case = Case("vmap", num_layers=num_layers)
    params = jax.jit(init_params, static_argnums=0)(case.model, jax.random.key(0))
    clipped = jax.jit(clip_with(case, NUM_SLOTS))(params, *batch())
    finite = clipped.norms[(clipped.norms > 0) & jnp.isfinite(clipped.norms)]
    assert finite.size == 12, clipped.norms
    assert finite.min() < case.rule.l2_clip_norm < finite.max(), finite
    return params, jax.device_get(clipped)


def measure(case: Case, clip: Callable[[Case], tuple[ClippedSum, list[str]]]) -> dict[str, Any]:
    """One case; an exception is a result too."""
    found: dict[str, Any] = {"case": str(case), "error": None}
    _, expected = single(case.num_layers)
    set_max_logits(FEW_LOGITS if case.is_chunked else unembed.MAX_LOGITS)
    try:
        clipped, collectives = clip(case)
    except Exception:
        return found | {"error": traceback.format_exc()}
    finally:
        set_max_logits(unembed.MAX_LOGITS)
    used = np.isfinite(expected.norms) & ~IS_PADDING
    return found | {
        "total_error": total_error(clipped.total, expected.total),
        "norm_error": relative(np.asarray(clipped.norms)[used], expected.norms[used]),
        "loss_error": relative(np.asarray(clipped.losses)[used], expected.losses[used]),
        "same_slots": all(
            np.array_equal(np.asarray(mine)[~used], theirs[~used], equal_nan=True)
            for mine, theirs in ((clipped.norms, expected.norms), (clipped.losses, expected.losses))
        ),
        "collectives_in_loops": collectives,
    }


def set_max_logits(max_logits: int) -> None:
    """Sets the default of both functions that decide about chunks; all callers leave it."""
    unembed.vocab_chunk.__defaults__ = (max_logits,)
    assert unembed.cross_entropy.__kwdefaults__ is not None
    unembed.cross_entropy.__kwdefaults__["max_logits"] = max_logits


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.max(np.abs(np.asarray(found, np.float64) / expected - 1)))


def total_error(found: Any, expected: Any) -> float:
    def of_leaf(mine: jax.Array, theirs: np.ndarray) -> float:
        error = np.asarray(mine, np.float64) - theirs
        return float(np.linalg.norm(error) / np.linalg.norm(theirs))

    return max(map(of_leaf, jax.tree.leaves(found), jax.tree.leaves(expected)))


def over_named_shardings(case: Case) -> tuple[ClippedSum, list[str]]:
    """Under `jit`, everything else left to the partitioner."""
    mesh = jax.make_mesh(case.mesh, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    params, _ = single(case.num_layers)
    places = jax.tree_util.tree_map_with_path(partial(place, mesh, case.sharded), params)
    rows = NamedSharding(mesh, P(case.batch_axes))
    arguments = jax.device_put((params, *batch()), (places, rows, rows))
    return jax.jit(clip_with(case, case.microbatch_size))(*arguments), []


TENSOR_AXES = {
    "query": -1,
    "key": -1,
    "value": -1,
    "output": -2,
    "gate": -1,
    "up": -1,
    "down": -2,
    "embedding": 0,
}
"""Heads, feed-forward or vocabulary, by the module that owns the weight."""


def place(mesh: Mesh, sharded: str, path: Any, leaf: jax.Array) -> NamedSharding:
    """Over 'tensor' by heads, feed-forward or vocabulary, over 'fsdp' the largest axis left."""
    axes: list[str | None] = [None] * leaf.ndim
    owner = path[-2].key
    if "tensor" in sharded and owner in TENSOR_AXES:
        axes[TENSOR_AXES[owner]] = "tensor"
    free = [i for i, size in enumerate(leaf.shape) if not axes[i] and not size % mesh.shape["fsdp"]]
    if "fsdp" in sharded and free:
        axes[max(free, key=lambda i: (leaf.shape[i], i))] = "fsdp"
    return NamedSharding(mesh, P(*axes))


def over_shard_map(case: Case) -> tuple[ClippedSum, list[str]]:
    """Each device by itself, then one sum; and the collectives inside of loops, if any."""
    params, _ = single(case.num_layers)
    clip = shard_mapped(clip_with(case, case.microbatch_size), check_vma=case.check_vma)
    arguments = (params, *batch())
    in_loops = list(collectives_in_loops(jax.make_jaxpr(clip)(*arguments).jaxpr))
    # Devices take different numbers of turns: a collective inside would wait forever.
    assert not in_loops, in_loops
    return jax.jit(clip)(*arguments), in_loops


def shard_mapped(clip: Clip, *, check_vma: bool) -> Clip:
    def clip_own(params: Params, tokens: jax.Array, is_padding: jax.Array) -> ClippedSum:
        clipped = clip(params, tokens, is_padding)
        return dataclasses.replace(clipped, total=jax.lax.psum(clipped.total, "data"))

    return on_each_device(clip_own, ClippedSum(P(), P("data"), P("data")), check_vma)


def on_each_device(own: Callable[..., Any], out_specs: Any, check_vma: bool) -> Callable[..., Any]:
    """`own(params, tokens, is_padding)` in a `shard_map` over the batch."""
    return jax.shard_map(
        own,
        mesh=jax.make_mesh((NUM_DEVICES,), ("data",), axis_types=(AxisType.Auto,)),
        in_specs=(P(), P("data"), P("data")),
        out_specs=out_specs,
        check_vma=check_vma,
    )


def collectives_in_loops(jaxpr: Any, is_in_loop: bool = False) -> Iterator[str]:
    """Names of the primitives that meet other devices inside of a `while` or `scan`."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if is_in_loop and name.startswith(("psum", "pm", "all_", "ppermute", "reduce_scatter")):
            yield name
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from collectives_in_loops(inner, is_in_loop or name in ("while", "scan"))


PLAIN_PARAMS = {
    "table": jnp.asarray(np.random.default_rng(2).normal(size=(VOCAB_SIZE, 8)), jnp.float32),
    "kernel": jnp.asarray(np.random.default_rng(3).normal(size=(8, VOCAB_SIZE)), jnp.float32),
}


def plain_loss(params: Params, unit: jax.Array) -> jax.Array:
    """Of one example, written in nothing but `jax.numpy`."""
    log_probs = jax.nn.log_softmax(jnp.tanh(params["table"][unit[:-1]]) @ params["kernel"])
    return -jnp.mean(jnp.take_along_axis(log_probs, unit[1:, None], axis=1))


def plain_gradients(params: Params, tokens: jax.Array) -> Params:
    return jax.vmap(jax.grad(plain_loss), (None, 0))(params, tokens % VOCAB_SIZE)


def norms_of(gradients: Params) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf), axis=(1, 2)) for leaf in gradients.values()))


def trap() -> dict[str, list[float]]:
    """Norms of a plain loss's gradients, had in several ways."""
    tokens, is_padding = batch()

    def own_norms(cast: bool, params: Params, tokens: jax.Array, _: jax.Array) -> jax.Array:
        return norms_of(plain_gradients(varying_with(tokens, params) if cast else params, tokens))

    def norms(*, cast: bool, check_vma: bool) -> list[float]:
        own = on_each_device(partial(own_norms, cast), P("data"), check_vma)
        return jax.jit(own)(PLAIN_PARAMS, tokens, is_padding).tolist()

    gradients = plain_gradients(PLAIN_PARAMS, tokens)
    per_device = NUM_SLOTS // NUM_DEVICES
    sums = {
        name: jnp.sum(leaf.reshape(NUM_DEVICES, per_device, *leaf.shape[1:]), axis=0)
        for name, leaf in gradients.items()
    }
    return {
        "single": norms_of(gradients).tolist(),
        "of_sums": jnp.tile(norms_of(sums), NUM_DEVICES).tolist(),
        "plain": norms(cast=False, check_vma=True),
        "unchecked": norms(cast=False, check_vma=False),
        "varying": norms(cast=True, check_vma=True),
    }


def plain_loss_clipped() -> dict[str, Any]:
    """The `vmap` strategy on a plain loss: in one piece, and in microbatches."""

    def per_example(params: Params, tokens: jax.Array, taps: Any) -> jax.Array:
        return jax.vmap(plain_loss, (None, 0))(params, tokens % VOCAB_SIZE)

    loss = TappedLoss(per_example, empty_records=lambda params, tokens: None)

    def whole(params: Params, tokens: jax.Array, is_padding: jax.Array) -> ClippedSum:
        return Strategy("vmap")(loss, params, tokens, ~is_padding, ClipRule(1.2, False))

    def in_microbatches(params: Params, tokens: jax.Array, is_padding: jax.Array) -> ClippedSum:
        def clip(tokens: jax.Array, is_counted: jax.Array) -> ClippedSum:
            return whole(params, tokens, ~is_counted)

        return microbatched(clip, tokens, is_padding, microbatch_size=1)

    arguments = (PLAIN_PARAMS, *batch())
    expected = jax.device_get(whole(*arguments))
    clipped = jax.jit(shard_mapped(whole, check_vma=True))(*arguments)
    looped = shard_mapped(in_microbatches, check_vma=True)
    in_loops = list(collectives_in_loops(jax.make_jaxpr(looped)(*arguments).jaxpr))
    result = None if in_loops else jax.jit(looped)(*arguments)
    used = ~IS_PADDING
    return {
        "single": expected.norms[used].tolist(),
        "norms": np.asarray(clipped.norms)[used].tolist(),
        "total_error": total_error(clipped.total, expected.total),
        "collectives_in_loops": in_loops,
        "microbatched": None if result is None else np.asarray(result.norms)[used].tolist(),
    }


def main(group: str) -> None:
    """Prints a group's results as one line of JSON."""
    if group == "trap":
        results: Any = trap()
    elif group == "plain_loss":
        results = plain_loss_clipped()
    else:
        clip = over_named_shardings if "NAMED" in group else over_shard_map
        results = [measure(case, clip) for case in globals()[group]]
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
