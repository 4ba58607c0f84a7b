"""The one way in which certified accounting fails on input that is valid."""

from dpscale.errors import DpscaleError


class NoCertifiedInterval(DpscaleError):
    """No interval of the promised width within the promised work; the message says for what."""
