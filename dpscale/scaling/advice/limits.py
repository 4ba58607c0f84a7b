"""What a recommendation may not exceed, besides the budget itself."""

from dataclasses import dataclass

from dpscale.errors import InputError
from dpscale.scaling.forms import Array


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on the configuration; None is no bound.

    Args:
      max_params: On all parameters, the embedding among them.
      max_batch: On the expected batch size.
      min_iterations: A run of fewer is not considered.
      max_epochs: On B·T/N. A run that would pass it is cut short.

    Raises:
      InputError: A bound that no run at all meets.
    """

    max_params: float | None = None
    max_batch: float | None = None
    min_iterations: float | None = None
    max_epochs: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("max_params", 1), ("max_batch", 1), ("min_iterations", 1)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise InputError(_option(name), f"expected at least {least}, found {value:g}.")
        if self.max_epochs is not None and not self.max_epochs > 0:
            raise InputError("--max-epochs", f"expected above 0, found {self.max_epochs:g}.")

    @property
    def fewest_iterations(self) -> float:
        """The least that a run may have."""
        return self.min_iterations or 1.0


def none_left(
    limits: Limits,
    *,
    sizes: Array,
    iterations_paid: float,
    most_iterations: float,
    dataset_size: int,
) -> InputError:
    """Which limit leaves no candidate, and the nearest value that would work.

    Args:
      sizes: Parameters of every shape there is.
      iterations_paid: What compute pays of the smallest shape at a batch of one.
      most_iterations: More are never considered.
    """
    if limits.max_params is not None and limits.max_params < sizes.min():
        return InputError(
            "--max-params",
            f"{limits.max_params:g} leaves no shape; the smallest has {sizes.min():,.0f} "
            "parameters.",
        )
    fewest = limits.fewest_iterations
    reachable = min(iterations_paid, most_iterations)
    if fewest > reachable:
        because = "the compute pays" if iterations_paid < most_iterations else "are considered"
        return InputError(
            "--min-iterations",
            f"{fewest:,.0f} leaves nothing; at most {reachable:,.0f} {because}.",
        )
    return InputError(
        "--max-epochs",
        f"{limits.max_epochs:g} leaves nothing; the least for {fewest:,.0f} "
        f"iteration{'s' if fewest > 1 else ''} of one unit is {fewest / dataset_size:.3g}.",
    )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
