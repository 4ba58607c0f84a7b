"""From a recommendation to a config that `dpscale train` reads."""

import dataclasses
import tomllib

import pytest

from dpscale.compute import count_params
from dpscale.config import RunConfig
from dpscale.scaling.advice.budget import Budget
from dpscale.scaling.advice.recommend import Recommendation
from dpscale.scaling.advice.run_config import metrics_window, private_config, private_config_toml
from dpscale.scaling.law.extrapolation import Extrapolation
from dpscale.scaling.law.learning_rate import RateAnswer
from dpscale.sizes import ladder_shape

TUNED = RateAnswer(0.03, at_edge=False, is_tuned=True, swept=(0.01, 0.1))
UNTUNED = RateAnswer(2.0**-8, at_edge=False, is_tuned=False, swept=(2.0**-9, 2.0**-7))


@pytest.fixture
def best() -> Recommendation:
    """What `private_config` looks at; the rest is None."""
    model = ladder_shape(32, vocab_size=1024, seq_len=64)
    known = {
        "budget": Budget(8, 1e-6, 1e12, 60_000, 64, 1024),
        "model": model,
        "params": count_params(model),
        "expected_batch_size": 300,
        "iterations": 400,
        "noise_multiplier": 0.8125,
        "truncated_batch_size": 416,
        "learning_rate": TUNED,
        "form": "ceiling",
        "predicts": "eval_loss",
        "predicted_loss": 4.3219,
        "predicted_loss_interval": (4.1, 4.5),
        "extrapolations": (
            Extrapolation("epochs", "2 epochs: the runs behind"),
            Extrapolation("learning_rate", "learning rate 0.1 is untuned: the middle"),
        ),
    }
    fields = {field.name: known.get(field.name) for field in dataclasses.fields(Recommendation)}
    return Recommendation(**fields)


def test_the_config_is_complete_and_says_what_was_predicted(best: Recommendation) -> None:
    config = private_config(best, data_path="units")
    assert config.private is not None
    assert config.private.noise_multiplier == 0.8125
    assert config.private.truncated_batch_size == 416
    assert config.private.target_epsilon == 8
    assert config.private.target_delta == 1e-6
    assert config.model == best.model
    assert config.optimizer.learning_rate == 0.03
    text = private_config_toml(best, data_path="units", law="law.json")
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert header[0].startswith("# Recommended by `dpscale recommend` from the law law.json")
    assert "4.3219" in text
    assert "# Outside the law: 2 epochs: the runs behind." in header
    assert RunConfig.from_dict(tomllib.loads(text), where="x") == config


def test_a_rate_that_no_law_knows_is_written_and_marked(best: Recommendation) -> None:
    untuned = dataclasses.replace(best, learning_rate=UNTUNED)
    text = private_config_toml(untuned, data_path="units", law="published")
    assert "# Learning rate: 0.00390625, untuned: the middle of the swept" in text
    assert text.count("untuned") == 1
    assert tomllib.loads(text)["optimizer"]["learning_rate"] == 2.0**-8


@pytest.mark.parametrize("answer", [TUNED, UNTUNED])
def test_a_rate_that_was_given_is_written_and_not_marked(
    best: Recommendation, answer: RateAnswer
) -> None:
    asked = dataclasses.replace(best, learning_rate=answer)
    text = private_config_toml(asked, data_path="units", law="published", learning_rate=0.0125)
    assert "untuned" not in text
    assert tomllib.loads(text)["optimizer"]["learning_rate"] == 0.0125


@pytest.mark.parametrize("iterations", [*range(20, 200), 997, 1000, 123_456])
def test_metric_windows_are_twenty_to_forty(iterations: int) -> None:
    windows = iterations / metrics_window(iterations)
    assert 19 <= windows <= 41
