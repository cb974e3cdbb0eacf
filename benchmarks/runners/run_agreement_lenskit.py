"""Evaluate given lists with LensKit's metrics, on average over the lists: users and items are their codes."""

from __future__ import annotations

import warnings
from importlib.metadata import version

import numpy as np
import pandas as pd
from lenskit.data import ItemListCollection, UserIDKey, from_interactions_df
from lenskit.metrics import (
    DCG,
    NDCG,
    RBP,
    ExposureGini,
    Hit,
    ListGini,
    LogRankWeight,
    MeanPopRank,
    Precision,
    Recall,
    RecipRank,
    RunAnalysis,
)
from lenskit.metrics.ranking import AveragePrecision
from measure import Job


def all_metrics(k: int, n_items: int, train) -> dict:
    """Return every metric of lists, by the name that the page shows."""
    found = {
        "Precision": Precision(k),
        "Recall": Recall(k),
        "Hit": Hit(k),
        "RecipRank": RecipRank(k),
        "AveragePrecision": AveragePrecision(k),
        "NDCG": NDCG(k),
        "NDCG(weight=LogRankWeight(offset=1))": NDCG(k, weight=LogRankWeight(offset=1)),
        "NDCG(gain='rating')": NDCG(k, gain="rating"),
        "DCG": DCG(k),
        "RBP": RBP(k),
        "RBP(patience=0.8)": RBP(k, patience=0.8),
        "RBP(normalize=True)": RBP(k, normalize=True),
        "ListGini": ListGini(k, items=n_items),
        "ExposureGini": ExposureGini(k, items=n_items),
        "MeanPopRank": MeanPopRank(train, n=k),
    }
    return {f"{name}@{k}": metric for name, metric in found.items()}


def main() -> None:
    warnings.simplefilter("ignore")
    job = Job()
    arrays = job.arrays()
    lists, n_items = arrays["lists"], len(arrays["tags"])
    users, ranks = np.nonzero(lists >= 0)
    # a table has no rows for a user without recommendations
    table = pd.DataFrame({"user_id": users, "item_id": lists[lists >= 0], "rank": ranks + 1})
    outputs = ItemListCollection.from_df(table, UserIDKey)
    outputs = ItemListCollection.from_dict({key: type(items)(items, ordered=True) for key, items in outputs}, UserIDKey)
    true = pd.DataFrame(
        {"user_id": arrays["target_users"], "item_id": arrays["target_items"], "rating": arrays["target_values"]}
    )
    test = ItemListCollection.from_df(true, UserIDKey)
    train = from_interactions_df(
        pd.DataFrame({"user_id": arrays["train_users"], "item_id": arrays["train_items"]}).drop_duplicates()
    )
    values, errors = {}, {}
    for k in job.settings["ks"]:
        for name, metric in all_metrics(k, n_items, train).items():
            analysis = RunAnalysis()
            analysis.add_metric(metric, label=name)
            try:
                found = analysis.measure(outputs, test)
            except ZeroDivisionError as error:
                errors[name] = f"{type(error).__name__}: {error}"
                continue
            summary = found.list_summary()
            is_listed = name in summary.index and not isinstance(metric, ListGini | ExposureGini)
            values[name] = float(summary.loc[name, "mean"] if is_listed else found.global_metrics()[name])
    job.record(version=version("lenskit"), values=values, errors=errors)
    job.finish()


main()
