"""Numbers as people type them: whole ones may be written 1e8."""

from dpscale.errors import InputError


def whole_number(option: str, value: float) -> int:
    """`value` as an integer.

    Raises:
      InputError: It is not a whole number.
    """
    if value != value or value in (float("inf"), float("-inf")) or value != int(value):
        raise InputError(option, f"expected a whole number, found {value:g}.")
    return int(value)
