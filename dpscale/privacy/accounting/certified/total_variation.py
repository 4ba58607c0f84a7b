"""A bound in closed form on delta at epsilon 0, a total variation distance.

It is at most T times one step's, q erf(1/(√8 σ)), since total variation is subadditive; and by
Pinsker's inequality at most √(T KL/2), where KL(mixture ‖ normal) is at most
χ² = q² (e^{1/σ²} − 1). Both directions have the same.
"""

import math


def total_variation_bound(sampling_prob: float, noise_multiplier: float, iterations: int) -> float:
    """A bound on delta at epsilon 0, mostly within a factor of two; may exceed 1."""
    q, sigma = sampling_prob, noise_multiplier
    one_step = q * math.erf(1 / (math.sqrt(8) * sigma))
    chi_square = q * q * math.expm1(min(sigma**-2, 700.0))
    return min(iterations * one_step, math.sqrt(iterations * chi_square / 2)) * (1 + 1e-9)
