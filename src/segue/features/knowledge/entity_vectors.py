"""Entity vectors of TransE and RotatE, and their use as an item feature.

TransE (Bordes et al. 2013) moves the vector of the head by that of the relation: the nearer the tail, the better the
triple. RotatE (Sun et al. 2019, arXiv:1902.10197) reads a vector as complex numbers and rotates each by an angle of the
relation, so that it also learns relations that hold in both directions. Both are trained with the self-adversarial loss
of Sun et al. (eq. 5 and 6): negatives are random heads or tails, weighted by how plausible the model finds them.

Shapes: E entities, R relations, T triples, B triples of a batch, K negatives of a triple, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import numpy as np
import polars as pl
from annotated_types import Gt
from numpy.typing import NDArray

from segue.core.config import Settings
from segue.core.knowledge.knowledge import Knowledge
from segue.core.run import Run
from segue.core.types import Dataset

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EntityVectorSettings", "EntityVectors", "add_entity_vectors", "train_entities"]

Floats: TypeAlias = NDArray[np.float32]


class EntityVectorSettings(Settings):
    """How entity vectors are trained."""

    method: Literal["transe", "rotate"] = "transe"
    """``transe`` translates the head by the relation, ``rotate`` rotates it."""
    embedding_dim: Annotated[int, Gt(0)] = 64
    """Width of the entity vectors; even for ``rotate``, which has half as many complex numbers. Choose it well below
    the number of items: vectors of at least that many numbers can be at right angles to each other, and then a model
    that compares items, such as ``content``, learns little from them."""
    epochs: Annotated[int, Gt(0)] = 100
    """Passes over the triples."""
    batch_size: Annotated[int, Gt(0)] = 1024
    """Triples per batch."""
    num_negatives: Annotated[int, Gt(0)] = 32
    """Negatives of a triple: random heads in one half of the batches, random tails in the other."""
    learning_rate: Annotated[float, Gt(0)] = 0.01
    """Learning rate of Adam."""
    margin: Annotated[float, Gt(0)] | None = None
    """Distance at which a triple is as likely true as false; none: a tenth of the width, as distances grow with it."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Divisor of the scores in the weights of the negatives."""


@dataclass(frozen=True, eq=False)
class EntityVectors:
    """Trained vectors of entities and relations."""

    method: str
    entities_ED: Floats
    relations_RD: Floats
    """Translations; for ``rotate`` angles, half as wide."""

    def rank_tails(self, heads: NDArray[np.int32], relations: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return all entities for each head and relation, ``(T, E)``.

        The most plausible tail is the first.
        """
        import torch

        entities, moves = torch.from_numpy(self.entities_ED), torch.from_numpy(self.relations_RD)
        rows = [
            _distance(self.method, entities[[int(head)]], moves[[int(relation)]], entities)
            for head, relation in zip(heads, relations, strict=True)
        ]
        return np.stack([np.argsort(row.numpy(), kind="stable") for row in rows])


def train_entities(
    knowledge: Knowledge, settings: EntityVectorSettings | None = None, run: Run | None = None
) -> EntityVectors:
    """Train vectors of all entities and relations on the triples.

    Raises:
        ValueError: the width is odd for ``rotate``.
    """
    import torch
    import torch.nn.functional as F

    settings, run = settings or EntityVectorSettings(), run or Run()
    width, is_rotation = settings.embedding_dim, settings.method == "rotate"
    if is_rotation and width % 2:
        raise ValueError(f"embedding_dim: got {width}, expected an even number for rotate")
    rng = run.rng("entities")
    n_entities, n_relations = len(knowledge.entities), len(knowledge.relations)
    entities_ED = torch.from_numpy(rng.normal(0, 0.1, (n_entities, width)).astype(np.float32)).requires_grad_()
    size = (n_relations, width // 2 if is_rotation else width)
    relations_RD = torch.from_numpy(rng.uniform(-0.1, 0.1, size).astype(np.float32)).requires_grad_()
    optimizer = torch.optim.Adam([entities_ED, relations_RD], settings.learning_rate)
    margin = width / 10 if settings.margin is None else settings.margin
    columns = [np.asarray(part, np.int64) for part in (knowledge.heads, knowledge.relation_codes, knowledge.tails)]
    step = 0
    with run.progress(settings.epochs, settings.method, "epochs") as advance:
        for _ in range(settings.epochs):
            order = rng.permutation(len(knowledge))
            for start in range(0, len(order), settings.batch_size):
                rows = order[start : start + settings.batch_size]
                heads, relations, tails = (torch.from_numpy(column[rows]) for column in columns)
                wrong = torch.from_numpy(rng.integers(n_entities, size=(len(rows), settings.num_negatives)))
                head, tail, move = entities_ED[heads], entities_ED[tails], relations_RD[relations]
                positive_B = margin - _distance(settings.method, head, move, tail)
                ends = (entities_ED[wrong], tail[:, None]) if step % 2 else (head[:, None], entities_ED[wrong])
                negative_BK = margin - _distance(settings.method, ends[0], move[:, None], ends[1])
                weights_BK = torch.softmax(negative_BK.detach() / settings.temperature, dim=1)
                loss = -F.logsigmoid(positive_B).mean() - (weights_BK * F.logsigmoid(-negative_BK)).sum(1).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
            advance(1)
    return EntityVectors(settings.method, entities_ED.detach().numpy(), relations_RD.detach().numpy())


def _distance(method: str, head: Tensor, move: Tensor, tail: Tensor) -> Tensor:
    """Return the distance between the moved head and the tail.

    It is over the last dimension.
    """
    if method == "transe":
        return (head + move - tail).abs().sum(-1)
    import torch

    real, imaginary = head.chunk(2, dim=-1)
    cosine, sine = move.cos(), move.sin()
    turned = torch.cat([real * cosine - imaginary * sine, real * sine + imaginary * cosine], dim=-1)
    differences = torch.stack((turned - tail).chunk(2, dim=-1))
    return (differences.square().sum(0) + 1e-12).sqrt().sum(-1)


def add_entity_vectors(
    data: Dataset,
    settings: EntityVectorSettings | None = None,
    *,
    name: str = "entity_vector",
    run: Run | None = None,
) -> Dataset:
    """Add the vectors of the entities of items as an item feature.

    Any model of features can read it.

    Items that are not in the graph have none.

    Raises:
        ValueError: the data has no triples, or has a feature of this name.
    """
    knowledge = data.knowledge_for("entity vectors")
    table = pl.DataFrame({"id": data.items.ids}) if data.item_features is None else data.item_features.collect()
    if name in table.columns:
        raise ValueError(f"name: '{data.name}' has an item feature '{name}' already; choose another name")
    vectors = train_entities(knowledge, settings, run).entities_ED
    rows = [vectors[code].tolist() if code >= 0 else None for code in knowledge.item_entities.tolist()]
    column = pl.Series(name, rows, dtype=pl.List(pl.Float32))
    return replace(data, item_features=table.with_columns(column).lazy())
