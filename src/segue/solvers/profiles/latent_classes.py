"""Classes of users, whose probabilities depend on the profile.

A user belongs to one of K classes, and their items are drawn from the distribution of the class (Hofmann and Puzicha
1999, "Latent class models for collaborative filtering"). The class probabilities before the first event are a softmax
regression on the user's features (concomitant variables: Dayton and Macready 1988, doi:10.1080/01621459.1988.10478584);
each event updates them by Bayes' rule. All parameters are fitted by expectation maximization.

Shapes: U users, N queries, I items, K classes, F columns of features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from segue.core.model import StateArrays
from segue.core.model_arrays import load_array
from segue.core.types import Dataset, Scores

__all__ = ["LatentClasses", "event_counts", "fit_latent_classes"]

Numbers = NDArray[np.float64]

L2 = 1.0
"""Regularization of the regression of classes on features, in users."""
PRIOR_STEPS = 5
"""Steps of the regression in each iteration."""


@dataclass(frozen=True, eq=False)
class LatentClasses:
    """Distributions of items by class, and the regression of classes on features."""

    log_items_KI: Scores
    """Logarithms of the probabilities of items in each class."""
    weights_FK: Scores
    bias_K: Scores

    def probabilities(self, rows_NF: csr_array[Any], counts_NI: csr_array[Any], event_weight: float) -> Scores:
        """Return the probabilities of the classes given features and events, ``(N, K)``.

        Args:
            event_weight: exponent of the likelihood of each event.
        """
        logits_NK: NDArray[Any] = np.asarray(rows_NF @ self.weights_FK) + self.bias_K
        logits_NK = logits_NK + event_weight * np.asarray(counts_NI @ self.log_items_KI.T)
        return _softmax(logits_NK).astype(np.float32)

    def mix(self, classes_NK: Scores) -> Scores:
        """Return the probabilities of the items given those of the classes, ``(N, I)``.

        Each row is a sum in the order of the classes, so it does not depend on the other rows: a dense product rounds
        differently for other numbers of rows.
        """
        mixed_NI: Scores = csr_array(classes_NK) @ np.exp(self.log_items_KI)
        return mixed_NI

    def arrays(self) -> StateArrays:
        """Return the parameters."""
        return {"classes/items": self.log_items_KI, "classes/weights": self.weights_FK, "classes/bias": self.bias_K}

    @classmethod
    def restore(cls, arrays: StateArrays, n_classes: int, n_items: int, n_columns: int) -> LatentClasses:
        """Load what :meth:`arrays` returned.

        Raises:
            ValueError: an array is missing or has another shape.
        """
        return cls(
            load_array(arrays, "classes/items", (n_classes, n_items), np.float32),
            load_array(arrays, "classes/weights", (n_columns, n_classes), np.float32),
            load_array(arrays, "classes/bias", (n_classes,), np.float32),
        )


def event_counts(train: Dataset) -> csr_array[Any]:
    """Count the events of each user and item, ``(U, I)``.

    Only events of the target action count, if there is one.
    """
    events = train.histories
    weights_T = np.ones(events.size, np.float32)
    if train.target is not None and events.actions is not None:
        weights_T = np.equal(events.actions, train.target).astype(np.float32)
    return events.csr(train.n_items, weights_T)


def fit_latent_classes(
    counts_UI: csr_array[Any],
    rows_UF: csr_array[Any],
    n_classes: int,
    iterations: int,
    smoothing: float,
    rng: np.random.Generator,
    log: Callable[[int, dict[str, float]], None],
) -> LatentClasses:
    """Fit classes by expectation maximization from random classes of the users.

    Args:
        smoothing: events, distributed like those of all users, that are added to each class.
        log: called with the number of each iteration and its metrics.
    """
    is_active_U = np.diff(counts_UI.indptr) > 0
    counts_UI, rows_UF = csr_array(counts_UI[is_active_U]), csr_array(rows_UF[is_active_U])
    popularity_I = np.asarray(counts_UI.sum(axis=0), np.float64).ravel() + 1.0
    popularity_I /= popularity_I.sum()
    classes_UK = rng.dirichlet(np.full(n_classes, 0.5), counts_UI.shape[0])
    weights_FK = np.zeros((rows_UF.shape[1] + 1, n_classes))
    n_events = float(counts_UI.sum())
    for iteration in range(1, iterations + 1):
        items_KI = np.asarray((counts_UI.T @ classes_UK).T, np.float64) + smoothing * popularity_I
        log_items_KI = np.log(items_KI / items_KI.sum(axis=1, keepdims=True))
        weights_FK = _fit_prior(rows_UF, classes_UK, weights_FK)
        log_joint_UK = _prior_logits(rows_UF, weights_FK)
        log_joint_UK -= np.logaddexp.reduce(log_joint_UK, axis=1, keepdims=True)
        log_joint_UK += counts_UI @ log_items_KI.T
        log_likelihood_U = np.logaddexp.reduce(log_joint_UK, axis=1)
        classes_UK = np.exp(log_joint_UK - log_likelihood_U[:, None])
        log(iteration, {"loss": -float(log_likelihood_U.sum()) / n_events})
    parameters = log_items_KI, weights_FK[:-1], weights_FK[-1]
    return LatentClasses(*(array.astype(np.float32) for array in parameters))


def _prior_logits(rows_UF: csr_array[Any], weights_FK: Numbers) -> Numbers:
    logits_UK: Numbers = np.asarray(rows_UF @ weights_FK[:-1]) + weights_FK[-1]
    return logits_UK


def _fit_prior(rows_UF: csr_array[Any], classes_UK: Numbers, start_FK: Numbers) -> Numbers:
    """Improve the regression of class probabilities on features.

    The last row of the weights is the bias.
    """
    from scipy.optimize import minimize

    def objective(flat: Numbers) -> tuple[float, Numbers]:
        weights_FK = flat.reshape(start_FK.shape)
        logits_UK = _prior_logits(rows_UF, weights_FK)
        log_p_UK = logits_UK - np.logaddexp.reduce(logits_UK, axis=1, keepdims=True)
        residuals_UK = np.exp(log_p_UK) - classes_UK
        gradient_FK = L2 * weights_FK
        gradient_FK[:-1] += rows_UF.T @ residuals_UK
        gradient_FK[-1] += residuals_UK.sum(axis=0)
        loss = 0.5 * L2 * float(np.square(weights_FK).sum()) - float((classes_UK * log_p_UK).sum())
        return loss, gradient_FK.ravel()

    found = minimize(objective, start_FK.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": PRIOR_STEPS})
    weights_FK: Numbers = found.x.reshape(start_FK.shape)
    return weights_FK


def _softmax(logits_NK: NDArray[Any]) -> NDArray[Any]:
    exponents_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    probabilities_NK: NDArray[Any] = exponents_NK / exponents_NK.sum(axis=1, keepdims=True)
    return probabilities_NK
