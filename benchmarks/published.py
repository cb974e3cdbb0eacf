"""Published figures, by board: the source, the inputs, and how the protocol differs from that of the board.

Figures are as printed in the source. They were read in the authors' text or code, unless the note says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ATTRIBUTES", "DATES", "FEATURES", "FIGURES", "IDS", "RATED_IDS", "VALIDATION_STEPS", "Published"]

IDS = "item ids"
ATTRIBUTES = "item ids and attributes"
RATED_IDS = "user and item ids"
FEATURES = "ids and features"
DATES = "ids, dates and features"


@dataclass(frozen=True)
class Published:
    """Figures of one model from one source, in the order of the board's metrics."""

    source: str
    figures: tuple[str, ...]
    inputs: str = IDS
    note: str = ""
    has_same_test: bool = True
    """Whether the test queries and the ranked items are those of the board, and not only chosen in a similar way."""


FIGURES: dict[str, tuple[Published, ...]] = {
    "ml-1m-sasrec": (
        Published("LRURec", ("0.3264", "0.1930"), note="removes only the items of the window", has_same_test=False),
        Published("SASRec, 3,000 negatives", ("0.3159", "0.1857"), note="Klenitskiy and Vasilev 2023"),
        Published("SASRec, full cross-entropy", ("0.3152", "0.1821"), note="Klenitskiy and Vasilev 2023"),
        Published("gSASRec, 256 negatives", ("0.3003", "0.1726"), note="Petrov and Macdonald 2023"),
    ),
    "ml-1m": (
        Published("FuXi-α", ("0.3164", "0.1813"), note="a single run by a third party, on one split"),
        Published("eSASRec", ("0.3133", "0.1772")),
        Published("HSTU", ("0.3037", "0.1719")),
        Published("the first xLSTM recommender", ("0.2932", "0.1655")),
    ),
    # 64 wide, one block, length 50, 256 negatives
    "amazon-beauty": (
        Published("eSASRec", ("0.0928", "0.0523")),
        Published("SASRec, sampled softmax", ("0.0921", "0.0531")),
        Published("HSTU", ("0.0788", "0.0439")),
        Published("ActionPiece", ("0.0775", "0.0424"), "item features"),
    ),
    "ml-1m-among-100": (
        Published("MF", ("0.7294", "0.4523"), note="Rendle et al. 2020; other sampled items", has_same_test=False),
        Published("iALS of width 64", ("0.722", "0.445"), note="other sampled items", has_same_test=False),
        Published("NeuMF", ("0.6725", "0.4011"), note="run by Rendle et al.; other sampled items", has_same_test=False),
    ),
    "ratings-ml-100k-u1": (
        Published("Bayesian factorization machine, ordered probit", ("0.8808",), DATES),
        Published("GLocal-K", ("0.8889",), RATED_IDS),
        Published("GC-MC", ("0.905",), FEATURES),
    ),
    "ratings-ml-100k-folds": (
        Published("Surprise SVD++", ("0.919",), RATED_IDS, "other folds", has_same_test=False),
        Published("Surprise KNNBaseline", ("0.931",), RATED_IDS, "other folds", has_same_test=False),
        Published("Surprise SVD", ("0.934",), RATED_IDS, "other folds", has_same_test=False),
    ),
    "ratings-ml-1m-90": (
        Published("GLocal-K", ("0.8227",), RATED_IDS, "other random splits", has_same_test=False),
        Published("CF-NADE", ("0.829",), RATED_IDS, "other random splits", has_same_test=False),
        Published("GC-MC", ("0.832",), RATED_IDS, "other random splits", has_same_test=False),
    ),
}
"""Published figures by the name of the page."""

VALIDATION_STEPS = {
    "ml-1m-sasrec": ("0.1896", "0.1941", "0.1952", "0.1959"),
    "ml-1m": ("0.1919",),
    "amazon-beauty": ("0.0702", "0.0708", "0.0571"),
}
"""Validation NDCG@10 of trainings with which settings of recipes were chosen, and of which no page is kept."""
