"""The whole private step against a slow reference: a loop over examples, NumPy for the rest."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpscale.config import ClippingConfig, MeshConfig, ModelConfig, OptimizerConfig, RunConfig
from dpscale.data.units import open_units
from dpscale.model.decoder import per_example_loss
from dpscale.privacy.mechanism import NoisyMean
from dpscale.privacy.noise import gaussian_noise, noise_key
from dpscale.sizes import ladder_shape
from dpscale.training import loop
from dpscale.training import step as step_module
from dpscale.training.batches import batch_source
from dpscale.training.optimizer import make_schedule
from dpscale.training.placement import Placement
from dpscale.training.run_folder import StartedRun
from dpscale.training.step import StepSettings, TrainState, init_state, make_train_step

MODEL = ladder_shape(16, vocab_size=40, seq_len=6)
OPTIMIZER = OptimizerConfig(learning_rate=0.02, eps=1e-4)
ITERATIONS = 20
KEY = noise_key(11)
SLOTS = 12

Tree = dict[str, Any]


def settings(*, noise_std: float, clip_norm: float = 0.7, rescale: bool = True) -> StepSettings:
    rule = NoisyMean(
        l2_clip_norm=clip_norm,
        normalizer=8.0,
        noise_std=noise_std,
        rescale_to_unit_norm=rescale,
    )
    return StepSettings(rule, make_schedule(OPTIMIZER, iterations=ITERATIONS), KEY)


def batches(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of different sizes, padded to one shape with arbitrary tokens."""
    generator = np.random.default_rng(5)
    result = []
    for size in generator.integers(3, SLOTS + 1, count):
        tokens = generator.integers(0, MODEL.vocab_size, (SLOTS, MODEL.seq_len + 1))
        result.append((tokens.astype(np.int32), np.arange(SLOTS) >= size))
    return result


def run(
    step_settings: StepSettings,
    data: list[tuple[np.ndarray, np.ndarray]],
    *,
    microbatch_size: int = 4,
    model: ModelConfig = MODEL,
) -> TrainState:
    state = init_state(model, OPTIMIZER, jax.random.key(0))
    step = make_train_step(model, OPTIMIZER, ClippingConfig(microbatch_size=microbatch_size))
    for tokens, is_padding in data:
        state = step(state, jnp.asarray(tokens), jnp.asarray(is_padding), step_settings)
    return state


def reference(step_settings: StepSettings, data: list[tuple[np.ndarray, np.ndarray]]) -> Tree:
    """Parameters after the batches, from the formulas, one example at a time, in float64."""
    rule = step_settings.noisy_mean
    params = init_state(MODEL, OPTIMIZER, jax.random.key(0)).params
    grad_of_one = jax.jit(jax.grad(lambda p, unit: per_example_loss(MODEL, p, unit[None])[0]))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    first = jax.tree.map(np.zeros_like, params)
    second = jax.tree.map(np.zeros_like, params)
    for index, (tokens, is_padding) in enumerate(data):
        total = jax.tree.map(np.zeros_like, params)
        for unit, padding in zip(tokens, is_padding, strict=True):
            if padding:
                continue
            grad = grad_of_one(jax.tree.map(np.float32, params), unit)
            squares = [np.sum(np.asarray(g, np.float64) ** 2) for g in jax.tree.leaves(grad)]
            factor = min(1.0, rule.l2_clip_norm / np.sqrt(sum(squares)))
            if rule.rescale_to_unit_norm:
                factor /= rule.l2_clip_norm
            total = jax.tree.map(lambda t, g, f=factor: t + f * np.asarray(g), total, grad)
        noise = gaussian_noise(KEY, jnp.int32(index), total)
        mean = jax.tree.map(
            lambda t, z: t / rule.normalizer + rule.noise_std * np.asarray(z), total, noise
        )
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, mean)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, mean)
        done = index + 1
        rate = 0.02 * 10 ** (-(done - 1) / (ITERATIONS - 1))  # one iteration of warm-up
        params = jax.tree.map(
            lambda p, m, v, r=rate, n=done: (
                p - r * (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.999**n)) + OPTIMIZER.eps)
            ),
            params,
            first,
            second,
        )
    return params


def assert_same(params: Tree, expected: Tree, *, rtol: float, atol: float) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), b, rtol=rtol, atol=atol),
        params,
        expected,
    )


@pytest.mark.parametrize("rescale", [True, False])
def test_private_step_equals_the_slow_reference(rescale: bool) -> None:
    # Catches: nearly everything: mask, clip, divisor, noise scale, noise key, optimizer, schedule.
    chosen = settings(noise_std=0.05, rescale=rescale)
    data = batches(4)
    assert_same(run(chosen, data).params, reference(chosen, data), rtol=1e-4, atol=3e-6)


@pytest.mark.parametrize("microbatch_size", [1, 3, 12])
def test_microbatch_size_does_not_change_the_step(microbatch_size: int) -> None:
    chosen, data = settings(noise_std=0.05), batches(2)
    base = run(chosen, data).params
    other = run(chosen, data, microbatch_size=microbatch_size).params
    assert_same(other, base, rtol=1e-4, atol=3e-6)


def test_lanes_do_not_change_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, data = settings(noise_std=0.05), batches(2)
    base = run(chosen, data).params
    monkeypatch.setattr(step_module, "num_lanes", lambda model, num_examples: 2)
    assert_same(run(chosen, data).params, base, rtol=1e-4, atol=3e-6)


@pytest.mark.parametrize("is_placed", [False, True])
def test_one_device_computes_in_lanes(is_placed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Catches: lanes that a run, which always has a mesh, never gets.
    asked: list[int] = []
    monkeypatch.setattr(step_module, "num_lanes", lambda model, size: asked.append(size) or 1)
    placement = Placement.of(MeshConfig(), MODEL) if is_placed else None
    make_train_step(MODEL, OPTIMIZER, ClippingConfig(microbatch_size=4), placement)
    assert asked == [4]


def test_noise_is_added_once_a_logical_batch_and_is_new_each_step() -> None:
    # On empty batches the gradient is noise alone; Adam's first moment shows it.
    nothing = (np.zeros((SLOTS, MODEL.seq_len + 1), np.int32), np.ones(SLOTS, bool))
    chosen = settings(noise_std=0.05)
    first = jax.tree.map(lambda m: np.asarray(m) / 0.1, run(chosen, [nothing]).adam.mu)
    both = run(chosen, [nothing, nothing]).adam.mu
    second = jax.tree.map(lambda m, z: (np.asarray(m) - 0.09 * z) / 0.1, both, first)
    flat_first, flat_second = (
        np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]) for tree in (first, second)
    )
    for flat in (flat_first, flat_second):
        assert flat.std() == pytest.approx(0.05, rel=4 / np.sqrt(2 * flat.size))
    assert abs(np.corrcoef(flat_first, flat_second)[0, 1]) < 5 / np.sqrt(flat_first.size)


def test_full_batches_carry_noise_once_however_many_microbatches() -> None:
    # Catches: noise drawn inside the microbatch loop, whose variance grows with its length.
    silent, noisy = settings(noise_std=0.0), settings(noise_std=0.05)
    data = [(batches(1)[0][0], np.zeros(SLOTS, bool))]
    for microbatch_size in (1, 12):
        with_noise = run(noisy, data, microbatch_size=microbatch_size).adam.mu
        without = run(silent, data, microbatch_size=microbatch_size).adam.mu
        noise = np.concatenate(
            [
                (np.asarray(a) - np.asarray(b)).ravel() / 0.1
                for a, b in zip(jax.tree.leaves(with_noise), jax.tree.leaves(without), strict=True)
            ]
        )
        assert noise.std() == pytest.approx(0.05, rel=4 / np.sqrt(2 * noise.size))


def test_padding_rows_do_not_matter() -> None:
    # Catches: a skipped mask.
    tokens, is_padding = batches(1)[0]
    assert is_padding.any()
    changed = tokens.copy()
    changed[is_padding] = (changed[is_padding] + 1) % MODEL.vocab_size
    chosen = settings(noise_std=0.01)
    left, right = run(chosen, [(tokens, is_padding)]), run(chosen, [(changed, is_padding)])
    jax.tree.map(np.testing.assert_array_equal, left.params, right.params)
    jax.tree.map(np.testing.assert_array_equal, left.window, right.window)


def test_an_example_that_is_not_finite_is_left_out() -> None:
    # A token outside the vocabulary makes the loss of its example NaN.
    tokens, _ = batches(1)[0]
    nobody = np.zeros(SLOTS, bool)
    poisoned = tokens.copy()
    poisoned[5, 2] = MODEL.vocab_size + 3
    chosen = settings(noise_std=0.01)
    state = run(chosen, [(poisoned, nobody)])
    assert bool(state.is_finite)
    without = run(chosen, [(tokens, np.arange(SLOTS) == 5)])
    jax.tree.map(np.testing.assert_array_equal, state.params, without.params)


def test_one_compilation_serves_all_settings_and_batch_sizes() -> None:
    # Catches: a learning rate, noise level or batch size that became a constant.
    step = make_train_step(MODEL, OPTIMIZER, ClippingConfig(microbatch_size=4))
    state = init_state(MODEL, OPTIMIZER, jax.random.key(0))
    for index, (tokens, is_padding) in enumerate(batches(4)):
        chosen = settings(noise_std=0.01 * index, clip_norm=0.5 + index)
        faster = dataclasses.replace(chosen.schedule, peak=0.1 * (index + 1))
        chosen = dataclasses.replace(chosen, schedule=faster)
        state = step(state, jnp.asarray(tokens), jnp.asarray(is_padding), chosen)
    assert step._cache_size() == 1  # type: ignore[attr-defined]


def test_a_run_of_poisson_batches_compiles_the_step_once(
    configs: dict[str, RunConfig],
    runs: dict[str, StartedRun],
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Catches: a batch size, a state or a setting whose shape, dtype or placement changes.
    config, compiled = configs["private"], []

    def listen(event: str, seconds: float, **about: Any) -> None:
        if event.endswith("backend_compile_duration") and "train_step" in about["fun_name"]:
            compiled.append(about["fun_name"])

    monkeypatch.setattr(loop, "make_train_step", make_train_step)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        loop.train(config, tmp_path / "run")
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == ["jit(train_step)"]
    source = batch_source(runs["private"], dataset_size=open_units(prepared).manifest.dataset_size)
    assert len({len(source.plan(step)) for step in range(config.training.iterations)}) > 3


def test_window_sums() -> None:
    tokens, is_padding = batches(1)[0]
    state = run(settings(noise_std=0.0, clip_norm=1e-3), [(tokens, is_padding)] * 2)
    count = 2 * int((~is_padding).sum())
    assert float(state.window.num_examples) == float(state.window.num_clipped) == count
    assert 0.9 < float(state.window.loss_sum) / count / np.log(MODEL.vocab_size) < 1.1
    assert int(state.step) == 2


def test_bfloat16_compute_keeps_float32_state_and_stays_close() -> None:
    data = batches(2)
    chosen = settings(noise_std=0.0)
    low = run(chosen, data, model=dataclasses.replace(MODEL, compute_dtype="bfloat16"))
    high = run(chosen, data)
    assert {leaf.dtype for leaf in jax.tree.leaves(low.params)} == {jnp.dtype("float32")}
    assert float(low.window.loss_sum) == pytest.approx(float(high.window.loss_sum), rel=0.02)
