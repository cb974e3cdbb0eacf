"""The simulated world: a log whose truth is known, and the best answers that anyone could give to it.

Shapes: U users, I items, N queries, T events, K tastes, A appetites, S = A·K states, G genres.

The law
-------
A user has a profile (age, gender, occupation: seen by all), an *appetite* ``a`` for life and a *taste* ``z`` that
drifts; the state is ``s = (a, z)``. Sessions begin at random and show in the times (a gap over six hours).

* Start: ``P(a, z | profile) = P(a | profile) P(z | profile)``.
* Drift before every event but the first: ``T_b = (1 - d_b) 1 + d_b R`` with ``d_b`` the drift within a session
  (b = 0) or at its start (b = 1), and ``R (K, K)`` where drifting tastes go. ``P(b = 1) = 1 / session_length``.
* Choice of the next item after the history ``h`` of length ``t``::

      P(i | s, h) = r_a · rep(i) + (1 - r_a) · [ q · 1(i = sequel) + (1 - q) · 1(i not in h) · p(i | s) / rem_s ]

  ``rep(i)``: share of the events with ``i`` when the event ``n`` steps ago weighs ``recency ** n``; ``r_a`` is 0 for
  an empty history. ``sequel``: the next part after the last item; ``q = q_a`` if there is one, not yet in ``h``,
  else 0. ``rem_s = 1 - sum of p(j | s) over distinct j in h``. When all the catalogue is in ``h``, fresh choices are
  ``p(i | s)`` again.
* Fresh choices: ``p(i | z, a) ∝ popularity_i ** tail_a · affinity_zi``, popularity a Zipf law, affinity from genres.
* A rating ``v`` in 1..5 of the chosen item: ``P(v | level(z, i))``, higher where the item fits the taste.

Lengths of histories are independent of all this, so to stop a history anywhere tells nothing about its next item.

The best answer
---------------
``P(i | history, times, ratings, profile) = sum_s belief_s · P(i | s, history)``, ``belief`` by the forward recursion
over the S states, exact up to rounding. What a query lacks (times, ratings, some or all of the profile) is summed out,
exactly too. Sorting by it gives the highest NDCG, MRR and hit rate that can be expected of any model that reads the
same; :func:`expected_ndcg` says what that is, without noise from the targets. :class:`Oracle` also sees the states.

All this is exact for histories that are the beginnings of users' lives: leave-one-out, by time, held-out users; not
where a filter or a random split took events out of the middle.

Everything drawn for a user comes from a stream of its own: chunks of any size give the same log.
"""

from segue.data.simulator.optimal import Optimal, Oracle, expected_ndcg
from segue.data.simulator.settings import SimulatorSettings
from segue.data.simulator.world import World

__all__ = ["Optimal", "Oracle", "SimulatorSettings", "World", "expected_ndcg"]
