"""What a law says of one point, or of many: losses, intervals, and what it has not seen."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from dpscale.scaling.advice.budget import expect_number
from dpscale.scaling.law.extrapolation import Extrapolation, find_extrapolations
from dpscale.scaling.law.law import ScalingLaw
from dpscale.scaling.law.scores import FormName
from dpscale.scaling.reading.runs import Target

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Prediction:
    """The loss that a law expects at one point, in nats per token.

    Args:
      predicts: For which loss.
      law_interval: 90 %, for the law's own loss there, its form being right.
      run_interval: 90 %, for the loss of one new run.
      extrapolations: What of the point the law has not seen; empty inside its range.
      statement: Where the law comes from.
    """

    num_params: float
    iterations: float
    noise_batch_ratio: float
    form: FormName
    predicts: Target
    predicted_loss: float
    law_interval: tuple[float, float]
    run_interval: tuple[float, float]
    extrapolations: tuple[Extrapolation, ...]
    statement: str


def predict(
    law: ScalingLaw,
    *,
    num_params: float,
    iterations: float,
    noise_batch_ratio: float,
    batch_size: float | None = None,
    form: FormName | None = None,
) -> Prediction:
    """Asks `law` for one point.

    Args:
      num_params: All parameters, the tied embedding counted once; above 0.
      iterations: Of the whole run; at least 1.
      noise_batch_ratio: Noise on the mean gradient in clip norms; 0 for no noise.
      batch_size: Examples averaged per iteration; by default those of the law's runs. Only the
        forms with effective noise look at it.
      form: By default the law's own.

    Raises:
      InputError: A value out of range, or a form that the law does not hold.
    """
    expect_number("--params", num_params > 0, "above 0", num_params)
    expect_number("--iterations", iterations >= 1, "at least 1", iterations)
    expect_number("--noise-batch-ratio", noise_batch_ratio >= 0, "at least 0", noise_batch_ratio)
    expect_number(
        "--batch-size", batch_size is None or batch_size >= 1, "at least 1", batch_size or 0
    )
    point = (num_params, iterations, noise_batch_ratio)
    loss = law.predict(*point, batch_size=batch_size, form=form)
    of_law = law.law_interval(*point, batch_size=batch_size, form=form)
    of_run = law.interval(*point, batch_size=batch_size, form=form)
    return Prediction(
        *point,
        form=form or law.form,
        predicts=law.target,
        predicted_loss=float(loss),
        law_interval=(float(of_law[0]), float(of_law[1])),
        run_interval=(float(of_run[0]), float(of_run[1])),
        extrapolations=find_extrapolations(
            law,
            num_params=num_params,
            iterations=iterations,
            noise_batch_ratio=noise_batch_ratio,
            epochs=0.0,
            seq_len=law.seq_len,
            vocab_size=law.vocab_size,
        ),
        statement=law.statement,
    )


def prediction_frame(
    law: ScalingLaw,
    *,
    num_params: ArrayLike,
    iterations: ArrayLike,
    noise_batch_ratio: ArrayLike,
    form: FormName | None = None,
) -> "pd.DataFrame":
    """Predictions for many points, which broadcast against each other: a row each.

    Columns: `num_params`, `iterations`, `noise_batch_ratio`, `predicted_loss`, `law_low`,
    `law_high`, `run_low`, `run_high` (nats per token), and `is_extrapolated`.
    """
    import pandas as pd

    arrays = (np.asarray(each, float) for each in (num_params, iterations, noise_batch_ratio))
    m, t, r = (each.ravel() for each in np.broadcast_arrays(*arrays))
    of_law, of_run = law.law_interval(m, t, r, form=form), law.interval(m, t, r, form=form)
    return pd.DataFrame(
        {
            "num_params": m,
            "iterations": t,
            "noise_batch_ratio": r,
            "predicted_loss": law.predict(m, t, r, form=form),
            "law_low": of_law[0],
            "law_high": of_law[1],
            "run_low": of_run[0],
            "run_high": of_run[1],
            "is_extrapolated": law.valid_range.excludes(m, t, r),
        }
    )
