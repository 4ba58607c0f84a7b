"""Where a question lies outside what a law was fitted on, coordinate by coordinate."""

from dataclasses import dataclass

from dpscale.scaling.law import ScalingLaw


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
) -> tuple[Extrapolation, ...]:
    """Everything about a run that the law has not seen; empty where it has seen the like."""
    spans = law.valid_range
    found = [
        _outside("num_params", num_params, spans.num_params, _size_words),
        _outside("iterations", iterations, spans.iterations, _length_words),
        _outside("noise_batch_ratio", noise_batch_ratio, spans.noise_batch_ratio, _noise_words),
    ]
    if epochs > 1:
        text = f"{epochs:.3g} epochs: the runs behind the law see each unit about once"
        found.append(Extrapolation("epochs", text))
    for name, asked, fitted in (
        ("seq_len", seq_len, law.seq_len),
        ("vocab_size", vocab_size, law.vocab_size),
    ):
        if asked != fitted:
            found.append(Extrapolation(name, f"{name} {asked}: the law was fitted at {fitted}"))
    return tuple(each for each in found if each is not None)


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
