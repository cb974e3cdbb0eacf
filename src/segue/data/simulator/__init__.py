"""Simulate logs of a world with known distributions.

The best attainable metrics of such a world are known.

Shapes: U users, I items, N queries, T events, K tastes, A appetites, S = A·K states, G genres.

The choice model
----------------
A user has a profile (age, gender, occupation; visible), an *appetite* ``a`` (a fixed user type) and a *taste* ``z``
that drifts; the hidden state is ``s = (a, z)``. Sessions start at random and are visible in the times (gaps over six
hours).

* Start: ``P(a, z | profile) = P(a | profile) P(z | profile)``.
* Drift before every event but the first: ``T_b = (1 - d_b) 1 + d_b R`` with ``d_b`` the drift probability within a
  session (b = 0) or at its start (b = 1), and ``R (K, K)`` the transition matrix of drifting tastes.
  ``P(b = 1) = 1 / session_length``.
* Choice of the next item after the history ``h`` of length ``t``::

      P(i | s, h) = r_a · rep(i) + (1 - r_a) · [ q · 1(i = sequel) + (1 - q) · 1(i not in h) · p(i | s) / rem_s ]

  ``rep(i)``: share of the events with ``i`` if the event ``n`` steps ago has weight ``recency ** n``; ``r_a`` is 0 for
  an empty history. ``sequel``: the next part after the last item; ``q = q_a`` if it exists and is not in ``h``, else 0.
  ``rem_s = 1 - sum of p(j | s) over distinct j in h``. If the whole catalog is in ``h``, new choices are ``p(i | s)``.
* New choices: ``p(i | z, a) ∝ popularity_i ** tail_a · affinity_zi``, with Zipf popularity and affinity from genres.
* A rating ``v`` in 1..5 of the chosen item: ``P(v | level(z, i))``, higher where the item fits the taste.

Lengths of histories are independent of all this, so the length of a history says nothing about its next item.

The optimal recommender
-----------------------
``P(i | history, times, ratings, profile) = sum_s belief_s · P(i | s, history)``, with ``belief`` from the forward
recursion over the S states, exact up to rounding. Inputs that a query lacks (times, ratings, parts of the profile) are
marginalized exactly. Sorting by this probability gives the highest expected NDCG, MRR and hit rate of any model with
the same inputs; :func:`expected_ndcg` computes it without the noise of sampled targets. :class:`OracleRecommender`
also knows the hidden states.

The results are exact for histories that are prefixes of user histories, as in leave-one-out, temporal and held-out-user
splits, but not where a filter or a random split removed events inside a history.

All random numbers of a user come from a stream of their own: the log does not depend on the chunk size.
"""

from segue.data.simulator.impressions import ImpressionSettings, SimulatedImpressions
from segue.data.simulator.optimal import BayesOptimalRecommender, OracleRecommender, expected_ndcg
from segue.data.simulator.settings import SimulatorSettings
from segue.data.simulator.world import SimulatedWorld

__all__ = [
    "BayesOptimalRecommender",
    "ImpressionSettings",
    "OracleRecommender",
    "SimulatedImpressions",
    "SimulatedWorld",
    "SimulatorSettings",
    "expected_ndcg",
]
