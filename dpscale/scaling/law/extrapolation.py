"""Where a question lies outside what a law was fitted on, coordinate by coordinate."""

from dataclasses import dataclass

from dpscale.scaling.law.law import ScalingLaw
from dpscale.scaling.law.learning_rate import RateAnswer
from dpscale.scaling.law.scores import FormName

BATCH_MATTERS = 0.01
"""A batch is flagged where it changes the predicted loss by more than this share."""


@dataclass(frozen=True)
class Extrapolation:
    """One coordinate that lies outside the law's range, with the sentence that says so."""

    coordinate: str
    message: str


def find_extrapolations(
    law: ScalingLaw,
    *,
    num_params: float,
    iterations: float,
    noise_batch_ratio: float,
    epochs: float,
    seq_len: int,
    vocab_size: int,
    form: FormName | None = None,
    averaged_batch: float | None = None,
    rate: RateAnswer | None = None,
) -> tuple[Extrapolation, ...]:
    """Everything about a run that the law has not seen; empty where it has seen the like.

    Args:
      averaged_batch: The batch that the law was asked about; None for that of its own runs.
      rate: The learning rate that goes with the answer, if one does.
    """
    spans = law.valid_range
    found = [
        _outside("num_params", num_params, spans.num_params, _size_words),
        _outside("iterations", iterations, spans.iterations, _length_words),
        _outside("noise_batch_ratio", noise_batch_ratio, spans.noise_batch_ratio, _noise_words),
    ]
    if epochs > 1:
        text = f"{epochs:.3g} epochs: the runs behind the law see each unit about once"
        found.append(Extrapolation("epochs", text))
    if averaged_batch is not None:
        where = (num_params, iterations, noise_batch_ratio)
        found.append(_batch_matters(law, where, averaged_batch, form))
    for name, asked, fitted in (
        ("seq_len", seq_len, law.seq_len),
        ("vocab_size", vocab_size, law.vocab_size),
    ):
        if asked != fitted:
            found.append(Extrapolation(name, f"{name} {asked}: the law was fitted at {fitted}"))
    if rate is not None and not rate.is_tuned:
        text = (
            f"learning rate {rate.learning_rate:.4g} is untuned: the middle of the swept "
            f"{rate.swept[0]:.4g} to {rate.swept[1]:.4g}, of which the law does not know the best"
        )
        found.append(Extrapolation("learning_rate", text))
    return tuple(each for each in found if each is not None)


def _batch_matters(
    law: ScalingLaw,
    where: tuple[float, float, float],
    batch: float,
    form: FormName | None,
) -> Extrapolation | None:
    """What the law says of the batch, where that changes its answer by more than 1 %."""
    loss = float(law.predict(*where, batch_size=batch, form=form))
    measured = float(law.predict(*where, form=form))
    if abs(loss / measured - 1) <= BATCH_MATTERS:
        return None
    return Extrapolation(
        "expected_batch_size",
        f"batch {batch:,.0f}: the law saw physical batch {law.physical_batch_size:,} only, for "
        f"which it predicts {measured:.3f} in place of {loss:.3f}",
    )


_size_words = ("{:.3g} parameters", "largest model", "smallest model")
_length_words = ("{:.6g} iterations", "longest run", "shortest run")
_noise_words = ("noise-batch ratio {:.3g}", "highest noise", "lowest noise")


def _outside(
    name: str, value: float, span: tuple[float, float], words: tuple[str, str, str]
) -> Extrapolation | None:
    """The sentence for a value outside `span`, None inside."""
    subject, upper, lower = words
    if value > span[1]:
        side = f"{_factor(value / span[1])} beyond the {upper}"
    elif value == 0 < span[0]:
        side = f"below the {lower}"
    elif value < span[0]:
        side = f"{_factor(span[0] / value)} below the {lower}"
    else:
        return None
    return Extrapolation(name, f"{subject.format(value)} is {side} the law saw")


def _factor(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio < 2 else f"{ratio:.3g}x"
