"""Small random models of both families, and what a trained model looks like."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from dpscale.config import ModelConfig
from dpscale.data.assets import resolve
from dpscale.data.tokenizer import Tokenizer
from dpscale.inference.trained import TrainedModel
from dpscale.model.decoder import Params, params_shapes

VAULTGEMMA = ModelConfig(
    vocab_size=1024,
    seq_len=48,
    num_layers=3,
    width=32,
    num_heads=4,
    num_kv_heads=1,
    head_dim=12,
    feed_forward_width=56,
    post_norms=False,
)
GEMMA2 = dataclasses.replace(
    VAULTGEMMA, num_kv_heads=2, sliding_window=7, post_norms=True, query_pre_attn_scalar=20.0
)
UNCAPPED = {"attn_logit_softcap": None, "final_logit_softcap": None}
MODELS = {
    "vaultgemma": VAULTGEMMA,
    "gemma2": GEMMA2,
    "vaultgemma-uncapped-sliding": dataclasses.replace(VAULTGEMMA, sliding_window=5, **UNCAPPED),
    "gemma2-uncapped-full": dataclasses.replace(GEMMA2, sliding_window=None, **UNCAPPED),
    "gemma2-all-heads": dataclasses.replace(GEMMA2, num_kv_heads=4, rope_theta=500.0),
}


def random_params(model: ModelConfig, seed: int = 3) -> Params:
    """Kernels that keep the variance, an embedding of ordinary size, and norms that are not 0."""
    generator = np.random.default_rng(seed)

    def draw(path: tuple[jax.tree_util.DictKey, ...], like: jax.ShapeDtypeStruct) -> np.ndarray:
        kind = path[-1].key
        deviation = (
            like.shape[-2] ** -0.5 if kind == "kernel" else {"scale": 0.3, "table": 0.2}[kind]
        )
        return generator.normal(0, deviation, like.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, params_shapes(model))


TrainedMaker = Callable[[ModelConfig], TrainedModel]


@pytest.fixture
def as_imported(tmp_path: Path) -> TrainedMaker:
    """A maker of models as `open_trained` gives them of an imported folder."""

    def make(model: ModelConfig) -> TrainedModel:
        folder = tmp_path / "imported"
        folder.mkdir(exist_ok=True)
        (folder / "imported.json").write_text("{}")
        tokenizer = Tokenizer(resolve("embedded:moby-1024"))
        return TrainedModel(folder, model, random_params(model), tokenizer, None)

    return make


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> ModelConfig:
    return MODELS[request.param]


@pytest.fixture
def gemma2() -> ModelConfig:
    return GEMMA2


@pytest.fixture
def vaultgemma() -> ModelConfig:
    return VAULTGEMMA
