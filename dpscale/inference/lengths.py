"""Lengths that texts are padded to: few, so that few programs are compiled."""


def padded_length(length: int) -> int:
    """The power of two, at least 16, that a length is padded to.

    >>> padded_length(17)
    32
    """
    return max(16, 1 << (length - 1).bit_length())


def round_up(number: int, multiple: int) -> int:
    """The least multiple that is at least `number`.

    >>> round_up(17, 16)
    32
    """
    return -(-number // multiple) * multiple
