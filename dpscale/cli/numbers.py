"""Numbers as people type them and read them: whole ones may be written 1e8; bounds stay bounds."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Context

from dpscale.errors import InputError


def whole_number(option: str, value: float) -> int:
    """`value` as an integer.

    Raises:
      InputError: It is not a whole number.
    """
    if value != value or value in (float("inf"), float("-inf")) or value != int(value):
        raise InputError(option, f"expected a whole number, found {value:g}.")
    return int(value)


def rounded_up(value: float, *, digits: int = 4) -> str:
    """An upper bound to a few significant digits, still an upper bound.

    >>> rounded_up(1.71001)
    '1.711'
    """
    return _rounded(value, digits, ROUND_CEILING)


def bounds(lower: float | None, upper: float, *, digits: int = 4) -> str:
    """An interval in words, its ends rounded outwards.

    >>> bounds(1.70883, 1.71054)
    '1.708 to 1.711'
    >>> bounds(None, 1.71054)
    'at most 1.711'
    """
    high = rounded_up(upper, digits=digits)
    if lower is None:
        return f"at most {high}"
    low = _rounded(lower, digits, ROUND_FLOOR)
    return high if low == high else f"{low} to {high}"


def _rounded(value: float, digits: int, rounding: str) -> str:
    decimal = Context(prec=digits, rounding=rounding).create_decimal_from_float(value)
    return f"{float(decimal):.{digits}g}"
