"""Sample truncated normal numbers by inversion.

Each sample is a function of one uniform number, even far in the tail. The inverse distribution function is that of
Wichura 1988 (AS 241, doi:10.2307/2347330), accurate to 16 digits.

Shapes: T numbers, J cutpoints.
"""

from __future__ import annotations

import math

import numpy as np
from numba import float32, float64, int32
from numpy.typing import NDArray

from segue.core.numba_kernels import fastmath_kernel, input_array, kernel, output_array
from segue.core.types import Codes, Scores

__all__ = ["sample_truncated_errors"]

Numbers = NDArray[np.float64]

TAIL_START = 36.0
"""Standard deviations beyond which the tail is approximated by a Rayleigh distribution, to 0.1 %."""

SQRT_HALF = math.sqrt(0.5)


def sample_truncated_errors(
    scores_T: Scores, levels_T: Codes, noise_scales_T: Scores, cuts_J: Numbers, uniforms_T: Numbers
) -> Scores:
    """Sample hidden values between the cutpoints of their level.

    Return ``(T,)`` scores minus values.

    Args:
        scores_T: means of the hidden values.
        levels_T: level k lies between cutpoints k - 1 and k; the lowest and the highest have one cutpoint.
        noise_scales_T: square roots of the precisions of hidden values.
        cuts_J: ascending cutpoints.
        uniforms_T: at least 0 and below 1.
    """
    edges = np.concatenate([[-np.inf], cuts_J, [np.inf]])
    errors_T = np.empty(len(scores_T), np.float32)
    _sample_kernel(scores_T, levels_T, noise_scales_T, edges, uniforms_T, errors_T)
    return errors_T


@kernel
def _tail(r_root: float) -> float:
    """Return the quantile of exp(-r_root²)."""
    if r_root <= 5.0:
        r = r_root - 1.6
        top = (((((((7.74545014278341407640e-4 * r + 2.27238449892691845833e-2) * r + 2.41780725177450611770e-1) * r
                   + 1.27045825245236838258e0) * r + 3.64784832476320460504e0) * r + 5.76949722146069140550e0) * r
                + 4.63033784615654529590e0) * r + 1.42343711074968357734e0)  # fmt: skip
        bottom = (((((((1.05075007164441684324e-9 * r + 5.47593808499534494600e-4) * r + 1.51986665636164571966e-2) * r
                   + 1.48103976427480074590e-1) * r + 6.89767334985100004550e-1) * r + 1.67638483018380384940e0) * r
                + 2.05319162663775882187e0) * r + 1.0)  # fmt: skip
    else:
        r = r_root - 5.0
        top = (((((((2.01033439929228813265e-7 * r + 2.71155556874348757815e-5) * r + 1.24266094738807843860e-3) * r
                   + 2.65321895265761230930e-2) * r + 2.96560571828504891230e-1) * r + 1.78482653991729133580e0) * r
                + 5.46378491116411436990e0) * r + 6.65790464350110377720e0)  # fmt: skip
        bottom = (((((((2.04426310338993978564e-15 * r + 1.42151175831644588870e-7) * r + 1.84631831751005468180e-5) * r
                   + 7.86869131145613259100e-4) * r + 1.48753612908506148525e-2) * r + 1.36929880922735805310e-1) * r
                + 5.99832206555887937690e-1) * r + 1.0)  # fmt: skip
    return -top / bottom


@kernel
def _quantile(probability: float) -> float:
    """Return the normal quantile of a probability strictly between 0 and 1."""
    q = probability - 0.5
    if abs(q) > 0.425:
        tail = probability if q < 0 else 1.0 - probability
        value = _tail(math.sqrt(-math.log(tail)))
        return value if q < 0 else -value
    r = 0.180625 - q * q
    top = (((((((2.50908092873012267270e3 * r + 3.34305755835881281050e4) * r + 6.72657709270087008530e4) * r
               + 4.59219539315498714570e4) * r + 1.37316937655094611250e4) * r + 1.97159095030655144270e3) * r
            + 1.33141667891784377450e2) * r + 3.38713287279636660800e0)  # fmt: skip
    bottom = (((((((5.22649527885285456100e3 * r + 2.87290857357219426740e4) * r + 3.93078958000927106100e4) * r
               + 2.12137943015865958670e4) * r + 5.39419602142475110770e3) * r + 6.87187007492057908300e2) * r
            + 4.23133307016009112520e1) * r + 1.0)  # fmt: skip
    return q * top / bottom


@fastmath_kernel(
    input_array(float32),
    input_array(int32),
    input_array(float32),
    input_array(float64),
    input_array(float64),
    output_array(float32),
)
def _sample_kernel(
    scores: Scores, levels: Codes, noise_scales: Scores, edges: Numbers, uniforms: Numbers, errors: Scores
) -> None:
    for t in range(len(scores)):
        scale = np.float64(noise_scales[t])
        low, high = (edges[levels[t]] - scores[t]) * scale, (edges[levels[t] + 1] - scores[t]) * scale
        is_mirrored = low > -high  # probabilities near 0 keep their digits, those near 1 do not
        if is_mirrored:
            low, high = -high, -low
        uniform = max(uniforms[t], 2.0**-54)
        if high < -TAIL_START:
            # tail approximation: density z exp(-z²/2) instead of exp(-z²/2)
            uniform += (1.0 - uniform) * math.exp(0.5 * (high - low) * (high + low))
            value = -math.sqrt(high * high - 2.0 * math.log(uniform))
        else:
            cdf_low, cdf_high = 0.5 * math.erfc(-low * SQRT_HALF), 0.5 * math.erfc(-high * SQRT_HALF)
            value = _quantile(min(cdf_low + uniform * (cdf_high - cdf_low), 1.0 - 2.0**-54))
        value = min(max(value, low), high)
        errors[t] = (value if is_mirrored else -value) / scale
