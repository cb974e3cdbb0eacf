"""Fit a logistic regression by Newton's method with conjugate gradients.

Lin, Weng and Keerthi 2008, "Trust region Newton method for large-scale logistic regression"; here with a line search.

The loss is ``sum_t c_t log(1 + exp(-s_t x_t . w)) + 0.5 sum_p l2_p w_p^2`` with labels ``s_t`` of 1 and -1 and weights
``c_t``. It is convex, so the result does not depend on the start.

Shapes: T examples, P columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, cg
from scipy.special import expit

__all__ = ["LogisticLoss"]

Values = NDArray[np.float64]

CG_ITERATIONS = 200
"""Maximum number of conjugate gradient iterations per Newton step."""

CG_TOLERANCE = 0.02
"""Relative residual at which a Newton step is exact enough."""

MAX_HALVINGS = 20
"""Maximum number of times that a step is halved because it increases the loss."""


class LogisticLoss:
    """The regularized logistic loss of a sparse design matrix.

    Args:
        design_TP: features of the examples.
        is_positive_T: their labels.
        l2_P: L2 regularization of each weight, above 0.
        counts_T: weights of the examples; ``None``: all are 1.
    """

    def __init__(
        self,
        design_TP: csr_array[Any],
        is_positive_T: NDArray[np.bool_],
        l2_P: Values,
        counts_T: NDArray[Any] | None = None,
    ) -> None:
        self.design_TP = design_TP.astype(np.float64)
        self.transposed_PT = csr_array(self.design_TP.T)
        self.squares_PT = self.transposed_PT.power(2)
        self.is_positive_T = is_positive_T
        self.signs_T = np.where(is_positive_T, 1.0, -1.0)
        self.l2_P = l2_P
        self.counts_T: Any = 1.0 if counts_T is None else np.asarray(counts_T, np.float64)

    def __call__(self, weights_P: Values) -> float:
        """Compute the loss, summed over the examples."""
        margins_T = self.signs_T * (self.design_TP @ weights_P)
        return float((self.counts_T * np.logaddexp(0.0, -margins_T)).sum() + 0.5 * self.l2_P @ np.square(weights_P))

    def step(self, weights_P: Values) -> Values:
        """Return the weights after a Newton step that does not increase the loss."""
        probabilities_T = expit(self.design_TP @ weights_P)
        errors_T = self.counts_T * (probabilities_T - self.is_positive_T)
        gradient_P = self.transposed_PT @ errors_T + self.l2_P * weights_P
        if not gradient_P.any():
            return weights_P
        variances_T = self.counts_T * (probabilities_T * (1.0 - probabilities_T))

        def multiply_by_hessian(vector_P: Values) -> Values:
            product: Values = self.transposed_PT @ (variances_T * (self.design_TP @ vector_P)) + self.l2_P * vector_P
            return product

        shape, diagonal_P = (len(weights_P),) * 2, self.squares_PT @ variances_T + self.l2_P
        direction_P, _ = cg(
            LinearOperator(shape, matvec=multiply_by_hessian, dtype=np.float64),
            -gradient_P,
            rtol=CG_TOLERANCE,
            maxiter=CG_ITERATIONS,
            M=LinearOperator(shape, matvec=lambda vector_P: vector_P / diagonal_P, dtype=np.float64),
        )
        loss, size = self(weights_P), 1.0
        for _ in range(MAX_HALVINGS):
            found_P: Values = weights_P + size * direction_P
            if self(found_P) <= loss:
                return found_P
            size /= 2
        return weights_P
