"""A table as it came from somebody's file: read, its columns found, its numbers made sure of.

A cell that no run can have (text for a number, a negative ratio, half an iteration) makes the
table wrong, not a run: it is refused with its row, its column and the way out. Rows are counted
from 1, the header and blank lines not among them.
"""

import difflib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dpscale.errors import InputError
from dpscale.scaling.forms import Array

if TYPE_CHECKING:
    import pandas as pd

MAX_RATE = 10.0
"""No optimizer here trains at a larger rate: a larger number is some other quantity."""


def read_frame(path: Path) -> "pd.DataFrame":
    """The table in a .parquet or .csv file.

    Raises:
      InputError: No such file, another ending, or no table in it.
    """
    import pandas as pd  # slow to import, and only tables need it

    if path.suffix not in (".parquet", ".csv"):
        raise InputError(str(path), "expected a table in .parquet or .csv.")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(io.BytesIO(path.read_bytes()))  # on a bucket too
        return pd.read_csv(
            io.BytesIO(path.read_bytes()), low_memory=False
        )  # in one piece: a column has one type
    except FileNotFoundError:
        raise InputError(str(path), "no such file.") from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(str(path), f"cannot be read as a table ({reason}).") from None


def expect_columns(
    frame: "pd.DataFrame",
    columns: Sequence[str],
    path: Path,
    *,
    layout: Sequence[str],
    hint: str = "",
) -> None:
    """Refuses a table that lacks one of `columns`, naming the nearest that it has.

    Args:
      layout: All columns that the layout has, which are no misspellings of each other.
      hint: A sentence for the end of the message.
    """
    found = [str(column) for column in frame.columns]
    missing = [name for name in columns if name not in found]
    if not missing:
        return
    strangers = [name for name in found if name not in layout]
    by_lower = {name.lower().replace("_", " ").strip(): name for name in strangers}
    wanted = missing[0].lower().replace("_", " ")
    near = difflib.get_close_matches(wanted, list(by_lower), n=1)
    nearest = f" (the nearest is {by_lower[near[0]]!r}: rename it)" if near else ""
    others = f", and {', '.join(map(repr, missing[1:]))}" if missing[1:] else ""
    if len(missing) > 4:
        others = f", and {len(missing) - 1} more"
    raise InputError(str(path), f"column {missing[0]!r} is missing{nearest}{others}.{hint}")


def numbers(frame: "pd.DataFrame", column: str, path: Path) -> Array:
    """float64[rows] of a column; NaN where a cell is empty.

    Raises:
      InputError: A cell holds something else than a number.
    """
    import pandas as pd

    cells = frame[column]
    values = np.asarray(pd.to_numeric(cells, errors="coerce"), dtype=np.float64)
    wrong = np.isnan(values) & cells.notna().to_numpy()
    if wrong.any():
        row = int(np.argmax(wrong))
        raise _refusal(path, row, column, f"expected a number, found {cells.iloc[row]!r}.")
    return values


def expect_filled(frame: "pd.DataFrame", column: str, path: Path) -> None:
    """Refuses empty cells."""
    row = _first(frame[column].isna().to_numpy())
    if row is not None:
        raise _refusal(path, row, column, "is empty; every row needs a value.")


def expect_ratios(values: Array, column: str, path: Path) -> None:
    """Refuses noise-batch ratios that are infinite or logarithms; empty cells pass."""
    row = _first((values < 0) & np.isfinite(values))
    if row is not None:
        raise _refusal(path, row, column, _not_its_log("ratio", values[row]))
    _expect_finite(values, column, path)
    there = values[~np.isnan(values)]
    if there.size and (there > 1).all():
        row = int(np.nanargmin(values))
        raise _refusal(
            path,
            row,
            column,
            f"every noise-batch ratio is above 1, the least is {values[row]:g}; store the noise on "
            "the mean gradient in clip norms, noise_multiplier / batch size (a log2 without its "
            f"sign? 2**-{values[row]:g} = {_power_of_two(-values[row])}).",
        )


def expect_rates(values: Array, column: str, path: Path) -> None:
    """Refuses learning rates that are zero, above `MAX_RATE` or logarithms; empty cells pass."""
    row = _first((values < 0) & np.isfinite(values))
    if row is not None:
        raise _refusal(path, row, column, _not_its_log("learning rate", values[row]))
    _expect_finite(values, column, path)
    row = _first((values == 0) | (values > MAX_RATE))
    if row is not None:
        raise _refusal(
            path,
            row,
            column,
            f"expected a learning rate above 0 and up to {MAX_RATE:g}, found {values[row]:g}; "
            "store the rate itself, as the optimizer got it.",
        )


def expect_whole(values: Array, column: str, path: Path) -> None:
    """Refuses counts that are negative or not whole; empty cells pass."""
    _expect_finite(values, column, path)
    row = _first(~np.isnan(values) & ((values < 0) | (values != np.floor(values))))
    if row is not None:
        raise _refusal(
            path,
            row,
            column,
            f"expected a whole number of iterations, found {values[row]:g}; store optimizer "
            "steps, not epochs or tokens.",
        )


def _expect_finite(values: Array, column: str, path: Path) -> None:
    row = _first(np.isinf(values))
    if row is not None:
        raise _refusal(path, row, column, f"expected a finite number, found {values[row]:g}.")


def _not_its_log(name: str, value: float) -> str:
    """`value` where `name` was expected: the logarithm to base 2, by all appearances.

    >>> _not_its_log("ratio", -9.0)
    'found -9, which looks like a log2; store the ratio itself: 2**-9 = 0.00195, not -9.'
    """
    return (
        f"found {value:g}, which looks like a log2; store the {name} itself: "
        f"2**{value:g} = {_power_of_two(value)}, not {value:g}."
    )


def _power_of_two(exponent: float) -> str:
    return f"{math.pow(2.0, max(exponent, -1000.0)):.3g}"


def _first(wrong: NDArray[np.bool_]) -> int | None:
    return int(np.argmax(wrong)) if wrong.any() else None


def _refusal(path: Path, row: int, column: str, message: str) -> InputError:
    return InputError(f"{path}: row {row + 1}, column {column!r}", message)
