"""A configuration of RecBole for its evaluation, without a model and data of its own."""

from __future__ import annotations

import sys

from recbole.config import Config

__all__ = ["NAMES", "evaluation_config"]

NAMES = {"Precision": "precision", "Recall": "recall", "Hit": "hit_rate", "MRR": "mrr", "MAP": "map", "NDCG": "ndcg"}
"""Its metrics of lists, and the names that all runners use."""


def evaluation_config(metrics, ks, dataset: str = "catalog") -> Config:
    """Return a configuration, which also restores names that newer NumPy lacks. RecBole reads the command line."""
    found = {
        "data_path": ".",
        "load_col": {"inter": ["user_id", "item_id"]},
        "metrics": list(metrics),
        "topk": list(ks),
        "valid_metric": f"{metrics[0]}@{ks[0]}" if metrics[0] in NAMES else metrics[0],
        "metric_decimal_place": 15,
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user", "order": "RO", "mode": "full"},
        "use_gpu": False,
        "show_progress": False,
    }
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        return Config(model="BPR", dataset=dataset, config_dict=found)
    finally:
        sys.argv = arguments
