"""RecTools's metrics with the definitions that Segue and RecBole share."""

from __future__ import annotations

from rectools.metrics import MAP, MRR, NDCG, HitRate, Precision, Recall

__all__ = ["shared_metrics"]


def shared_metrics(ks) -> dict:
    """Return the metrics at each of ``ks``; MAP is the same where no user has more targets than k."""
    found = {}
    for k in ks:
        own = {"precision": Precision(k), "recall": Recall(k), "hit_rate": HitRate(k), "mrr": MRR(k), "map": MAP(k)}
        own["ndcg"] = NDCG(k, divide_by_achievable=True)
        found |= {f"{name}@{k}": metric for name, metric in own.items()}
    return found
