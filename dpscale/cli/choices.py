"""Choices that several verbs offer, kept apart so that `--help` imports nothing heavy."""

from typing import Literal

AskedForm = Literal["semi-parametric", "form-3", "form-5", "effective-noise", "ceiling"]
"""The forms that a law can be asked for: those of `scaling.scores` that describe noise."""
