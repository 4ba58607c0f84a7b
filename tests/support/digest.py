"""What stands for bytes in an assertion.

Where CI is set, pytest explains how two values differ byte by byte: for ever, of a file's.
"""

import hashlib


def digest(content: bytes) -> str:
    """Equal for equal bytes, and short."""
    return hashlib.sha256(content).hexdigest()
