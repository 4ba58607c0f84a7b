"""A trained model from its folder."""

import jax
import numpy as np
import pytest

from dpscale.errors import InputError
from dpscale.inference.trained import open_trained
from dpscale.model import decoder
from dpscale.training.checkpoint import Checkpoints
from dpscale.training.loop import train


def test_a_run_opens_with_its_last_parameters_and_its_tokenizer(make_config, tmp_path):
    """Catches parameters of another step, and a tokenizer of other data."""
    config = make_config()
    train(config, tmp_path / "run")
    trained = open_trained(tmp_path / "run")
    assert trained.config is not None
    assert trained.config.run_id == config.run_id
    assert trained.model == config.model
    assert trained.tokenizer.vocab_size == config.model.vocab_size
    fresh = decoder.init_params(config.model, jax.random.key(config.seed))
    assert not np.array_equal(trained.params["embedding"]["table"], fresh["embedding"]["table"])


def test_parameters_alone_are_saved_and_restored(make_config, tmp_path):
    """Catches a save of parameters that nothing can read."""
    model = make_config().model
    params = decoder.init_params(model, jax.random.key(4))
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save_params(params)
    checkpoints.close()
    reader = Checkpoints(tmp_path, keep=None)
    restored = reader.restore_newest_params(decoder.params_shapes(model))
    reader.close()
    jax.tree.map(np.testing.assert_array_equal, restored, params)


def test_a_folder_without_a_run_is_named(tmp_path):
    """Catches a traceback for a mistyped folder."""
    with pytest.raises(InputError, match=r"no run here.*config\.json"):
        open_trained(tmp_path)
