"""From a recommendation to the config of the private run it recommends."""

from dpscale.config import (
    DataConfig,
    OptimizerConfig,
    PrivateConfig,
    RunConfig,
    TrainingConfig,
)
from dpscale.scaling.advice.recommend import Recommendation
from dpscale.schema import to_toml

_FEWEST_WINDOWS, _MOST_WINDOWS = 20, 40


def private_config(
    best: Recommendation, *, data_path: str, learning_rate: float | None = None
) -> RunConfig:
    """A complete config that `dpscale train` takes as it is.

    Optimizer and clipping beyond the learning rate are the defaults, which are those of the
    law-fitting runs unless their sweep changed them.

    Args:
      learning_rate: In place of what the law knows of.
    """
    window = metrics_window(best.iterations)
    rate = best.learning_rate.learning_rate if learning_rate is None else learning_rate
    return RunConfig(
        purpose="private",
        model=best.model,
        data=DataConfig(path=data_path),
        optimizer=OptimizerConfig(learning_rate=rate),
        training=TrainingConfig(
            iterations=best.iterations,
            metrics_every=window,
            eval_every=5 * window,
            checkpoint_every=2 * window,
        ),
        private=PrivateConfig(
            target_epsilon=best.budget.epsilon,
            target_delta=best.budget.delta,
            expected_batch_size=best.expected_batch_size,
            noise_multiplier=best.noise_multiplier,
            truncated_batch_size=best.truncated_batch_size,
        ),
    )


def private_config_toml(
    best: Recommendation, *, data_path: str, law: str, learning_rate: float | None = None
) -> str:
    """The config as TOML, under a header that says where it comes from.

    Args:
      law: What the law is called.
      learning_rate: As in `private_config`; what the law does not know is marked untuned.
    """
    low, high = best.predicted_loss_interval
    budget = best.budget
    outside = [each for each in best.extrapolations if each.coordinate != "learning_rate"]
    header = "\n".join(
        [
            f"Recommended by `dpscale recommend` from the law {law} ({best.form}).",
            f"Budget: epsilon {budget.epsilon:g}, delta {budget.delta:.3g}, "
            f"{budget.train_flops:.4g} FLOPs, {budget.dataset_size:,} privacy units.",
            f"Predicted {best.predicts}: {best.predicted_loss:.4f} nats per token "
            f"(90 % interval {low:.4f} to {high:.4f}).",
            _rate_line(best, learning_rate),
            *(f"Outside the law: {each.message}." for each in outside),
        ]
    )
    config = private_config(best, data_path=data_path, learning_rate=learning_rate)
    return to_toml(config.to_dict(), header=header)


def _rate_line(best: Recommendation, learning_rate: float | None) -> str:
    rate = best.learning_rate
    if learning_rate is not None:
        return f"Learning rate: {learning_rate:g}, as given."
    if rate.is_tuned:
        return f"Learning rate: {rate.learning_rate:.4g}, the law's best."
    return (
        f"Learning rate: {rate.learning_rate:g}, untuned: the middle of the swept "
        f"{rate.swept[0]:g} to {rate.swept[1]:g}."
    )


def metrics_window(iterations: int) -> int:
    """Iterations between metric lines: 20 to 40 windows a run, whole ones where possible.

    >>> metrics_window(400), metrics_window(397), metrics_window(7)
    (10, 13, 1)
    """
    shortest = max(1, -(-iterations // _MOST_WINDOWS))
    longest = max(shortest, iterations // _FEWEST_WINDOWS)
    whole = [each for each in range(shortest, longest + 1) if iterations % each == 0]
    return whole[0] if whole else min(max(shortest, round(iterations / 30)), longest)
