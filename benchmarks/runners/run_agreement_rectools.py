"""Evaluate given lists with RecTools' metrics: users and items are their codes."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pandas as pd
from measure import Job
from rectools import Columns
from rectools.metrics import (
    MAP,
    MCC,
    MRR,
    NDCG,
    PAP,
    Accuracy,
    AvgRecPopularity,
    CatalogCoverage,
    CoveredUsers,
    F1Beta,
    HitRate,
    IntraListDiversity,
    MeanInvUserFreq,
    PairwiseHammingDistanceCalculator,
    PartialAUC,
    Precision,
    Recall,
    Serendipity,
    SufficientReco,
    UnrepeatedReco,
    calc_metrics,
)


def all_metrics(k: int, tags: pd.DataFrame) -> dict:
    """Return every metric that needs no second list, by the name that the page shows."""
    found = {
        "Precision": Precision(k),
        "Precision(r_precision=True)": Precision(k, r_precision=True),
        "Recall": Recall(k),
        "HitRate": HitRate(k),
        "F1Beta": F1Beta(k),
        "MRR": MRR(k),
        "MAP": MAP(k),
        "MAP(divide_by_k=True)": MAP(k, divide_by_k=True),
        "NDCG": NDCG(k),
        "NDCG(divide_by_achievable=True)": NDCG(k, divide_by_achievable=True),
        "PartialAUC": PartialAUC(k),
        "PAP": PAP(k),
        "Accuracy": Accuracy(k),
        "MCC": MCC(k),
        "MeanInvUserFreq": MeanInvUserFreq(k),
        "AvgRecPopularity": AvgRecPopularity(k),
        "AvgRecPopularity(normalize=True)": AvgRecPopularity(k, normalize=True),
        "CatalogCoverage(normalize=True)": CatalogCoverage(k, normalize=True),
        "CatalogCoverage": CatalogCoverage(k),
        "Serendipity": Serendipity(k),
        "IntraListDiversity": IntraListDiversity(k, PairwiseHammingDistanceCalculator(tags)),
        "CoveredUsers": CoveredUsers(k),
        "SufficientReco": SufficientReco(k),
        "UnrepeatedReco": UnrepeatedReco(k),
    }
    return {f"{name}@{k}": metric for name, metric in found.items()}


def main() -> None:
    job = Job()
    arrays = job.arrays()
    lists = arrays["lists"]
    users, ranks = np.nonzero(lists >= 0)
    reco = pd.DataFrame({Columns.User: users, Columns.Item: lists[lists >= 0], Columns.Rank: ranks + 1})
    true = pd.DataFrame({Columns.User: arrays["target_users"], Columns.Item: arrays["target_items"]})
    train = pd.DataFrame({Columns.User: arrays["train_users"], Columns.Item: arrays["train_items"]})
    catalog = np.arange(len(arrays["tags"]))
    tags = pd.DataFrame(arrays["tags"].astype(float), index=catalog)
    values = {}
    for k in job.settings["ks"]:
        values |= calc_metrics(all_metrics(k, tags), reco, true, train, catalog)
    job.record(version=version("rectools"), values={name: float(value) for name, value in values.items()})
    job.finish()


main()
