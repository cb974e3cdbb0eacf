"""Normal numbers between two bounds, by the inverse of their distribution.

The same uniform number gives the same normal one, however far out the bounds are. The inverse is that of Wichura 1988
(AS 241, doi:10.2307/2347330), good to 16 digits.

Shapes: T numbers, J cuts.
"""

from __future__ import annotations

import math

import numpy as np
from numba import float32, float64, int32
from numpy.typing import NDArray

from segue.core.numba_kernels import kernel, read, summing_kernel, written
from segue.core.types import Codes, Scores

__all__ = ["errors_between"]

Numbers = NDArray[np.float64]

FURTHEST = 36.0
"""Standard deviations from which on the tail is that of Rayleigh's distribution, to a thousandth."""

HALF = math.sqrt(0.5)


def errors_between(scores_T: Scores, levels_T: Codes, roots_T: Scores, cuts_J: Numbers, uniforms_T: Numbers) -> Scores:
    """``(T,)`` scores minus values that are normal about them, between the two cuts of their level.

    Args:
        levels_T: level k lies between cuts k - 1 and k; the lowest and the highest have one cut.
        roots_T: roots of the precisions of the values.
        uniforms_T: at least 0 and below 1.
    """
    edges = np.concatenate([[-np.inf], cuts_J, [np.inf]])
    errors_T = np.empty(len(scores_T), np.float32)
    _draw(scores_T, levels_T, roots_T, edges, uniforms_T, errors_T)
    return errors_T


@kernel
def _tail(far: float) -> float:
    """The number below which exp(-far²) of a normal distribution lies."""
    if far <= 5.0:
        r = far - 1.6
        top = (((((((7.74545014278341407640e-4 * r + 2.27238449892691845833e-2) * r + 2.41780725177450611770e-1) * r
                   + 1.27045825245236838258e0) * r + 3.64784832476320460504e0) * r + 5.76949722146069140550e0) * r
                + 4.63033784615654529590e0) * r + 1.42343711074968357734e0)  # fmt: skip
        low = (((((((1.05075007164441684324e-9 * r + 5.47593808499534494600e-4) * r + 1.51986665636164571966e-2) * r
                   + 1.48103976427480074590e-1) * r + 6.89767334985100004550e-1) * r + 1.67638483018380384940e0) * r
                + 2.05319162663775882187e0) * r + 1.0)  # fmt: skip
    else:
        r = far - 5.0
        top = (((((((2.01033439929228813265e-7 * r + 2.71155556874348757815e-5) * r + 1.24266094738807843860e-3) * r
                   + 2.65321895265761230930e-2) * r + 2.96560571828504891230e-1) * r + 1.78482653991729133580e0) * r
                + 5.46378491116411436990e0) * r + 6.65790464350110377720e0)  # fmt: skip
        low = (((((((2.04426310338993978564e-15 * r + 1.42151175831644588870e-7) * r + 1.84631831751005468180e-5) * r
                   + 7.86869131145613259100e-4) * r + 1.48753612908506148525e-2) * r + 1.36929880922735805310e-1) * r
                + 5.99832206555887937690e-1) * r + 1.0)  # fmt: skip
    return -top / low


@kernel
def _quantile(share: float) -> float:
    """The number below which ``share`` of a normal distribution lies, above 0 and below 1."""
    q = share - 0.5
    if abs(q) > 0.425:
        tail = share if q < 0 else 1.0 - share
        found = _tail(math.sqrt(-math.log(tail)))
        return found if q < 0 else -found
    r = 0.180625 - q * q
    top = (((((((2.50908092873012267270e3 * r + 3.34305755835881281050e4) * r + 6.72657709270087008530e4) * r
               + 4.59219539315498714570e4) * r + 1.37316937655094611250e4) * r + 1.97159095030655144270e3) * r
            + 1.33141667891784377450e2) * r + 3.38713287279636660800e0)  # fmt: skip
    low = (((((((5.22649527885285456100e3 * r + 2.87290857357219426740e4) * r + 3.93078958000927106100e4) * r
               + 2.12137943015865958670e4) * r + 5.39419602142475110770e3) * r + 6.87187007492057908300e2) * r
            + 4.23133307016009112520e1) * r + 1.0)  # fmt: skip
    return q * top / low


@summing_kernel(read(float32), read(int32), read(float32), read(float64), read(float64), written(float32))
def _draw(scores: Scores, levels: Codes, roots: Scores, edges: Numbers, uniforms: Numbers, errors: Scores) -> None:
    for t in range(len(scores)):
        root = np.float64(roots[t])
        low, high = (edges[levels[t]] - scores[t]) * root, (edges[levels[t] + 1] - scores[t]) * root
        turned = low > -high  # near minus infinity probabilities keep their digits, near 1 they do not
        if turned:
            low, high = -high, -low
        share = max(uniforms[t], 2.0**-54)
        if high < -FURTHEST:
            # density z exp(-z²/2) in place of exp(-z²/2)
            share += (1.0 - share) * math.exp(0.5 * (high - low) * (high + low))
            found = -math.sqrt(high * high - 2.0 * math.log(share))
        else:
            below, above = 0.5 * math.erfc(-low * HALF), 0.5 * math.erfc(-high * HALF)
            found = _quantile(min(below + share * (above - below), 1.0 - 2.0**-54))
        found = min(max(found, low), high)
        errors[t] = (found if turned else -found) / root
