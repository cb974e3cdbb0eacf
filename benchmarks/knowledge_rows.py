"""Rows of the benchmark of the knowledge graph, and published figures."""

from __future__ import annotations

__all__ = [
    "MODELS",
    "NOTES",
    "PUBLISHED",
    "QUICK",
    "READ_BY",
    "RELATED",
    "VECTORS",
    "WITHOUT",
    "WITH_GRAPH",
]

READ_BY = "content"
"""Model that reads the entity vectors of a row of :data:`VECTORS`."""
VECTORS = ("transe", "rotate")
"""Rows of entity vectors: ``content`` with the vectors of this method as the only item feature."""
WITH_GRAPH = ("cease", "kgcn", "kgat", "lightkg", *VECTORS)
WITHOUT = " without triples"
"""End of the name of a row with the same model and settings, but no triples."""
MODELS = ("popular", "ease", "item_knn", "ials", "bpr", "lightgcn", *WITH_GRAPH)
QUICK = ("popular", "ease", "cease", "lightkg")
RELATED = {"cease": "ease", "lightkg": "lightgcn"}
"""The model without a graph that a model of the graph extends, with its own settings."""

PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {
    "kg-lastfm": {
        "KGCN": (0.2149, 0.0924),
        "KGAT": (0.2583, 0.1152),
        "LightGCN": (0.2695, 0.1204),
        "KGIN": (0.2727, 0.1242),
        "LightKG": (0.2976, 0.1351),
        "AdaKG": (0.3053, 0.1398),
    },
    "kg-book-crossing": {
        "KGCN": (0.0867, 0.0433),
        "LightGCN": (0.0468, 0.0198),
        "LightKG": (0.1144, 0.0520),
        "AdaKG": (0.1112, 0.0552),
    },
}
"""Recall@10 and MRR@10 in the README of ssu-dmlab/AdaKG, on the split of LightKG."""

NOTES = {
    "kg-book-crossing": "The triples are those of weifeng-ai/SARC, in place of the file of the published runs, which "
    "may differ: a figure above a published one is no win with equal inputs.",
}
"""What a page states about the published figures, by source."""
