"""Fusion: any sequential encoder over items of id, text and other features.

The vector of an item combines its own embedding with embeddings of its features, by a gated sum (Arevalo et al. 2017,
arXiv:1702.01992) or by cross-attention; it is used for the history and for the scores. Text is read as vector features,
which are replaced by whitened principal components. In training a random set of items has no own embedding in each step
(cf. Volkovs et al. 2017, DropoutNet), and an item without training events never has one: it is scored by its features
alone, in the same space as all others.

Shapes: B sequences, L positions, D width, I items, N queries, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Self, cast

import numpy as np
import polars as pl
import torch
from annotated_types import Ge, Lt
from numpy.typing import NDArray
from pydantic import field_validator, model_validator
from torch import Tensor

from segue.core.batches import SequenceBatch
from segue.core.config import parse, reject_unused, suggest
from segue.core.model import StateArrays
from segue.core.network import Loss, Network
from segue.core.registry import model_class, model_keys
from segue.core.state import State
from segue.core.types import Codes, DataSchema, Dataset, Events, Queries, Scores
from segue.nn.added_items import add_items
from segue.nn.inputs.input_encoder import InputName
from segue.nn.inputs.item_fusion import FusionMethod, ItemFusion
from segue.nn.sequence_model import SequenceModel, SequenceSettings
from segue.nn.streaming_model import StreamingModel

__all__ = ["Fusion"]


class Fusion(Network):
    """A sequential model whose items are represented by their ids and their features.

    The sequential model is built by its key and does everything else: windows, objective, inputs of events and users,
    scoring. With a recurrent encoder, the model has a recurrent state too.
    """

    scale = "logit"
    required_features = ("item_features",)

    class Config(SequenceSettings):
        """Settings of ``fusion``.

        Those of all sequential models are also the settings of its encoder.
        """

        backbone: str = "sasrec"
        """Key of the sequential model over items represented by fusion: ``sasrec``, ``transformer_xl``, ``xlstm``,
        ..."""
        backbone_settings: dict[str, Any] = {}  # noqa: RUF012 - never changed
        """Settings of that model in addition to those of all sequential models, such as ``{"num_blocks": 3}``."""
        fusion: FusionMethod = "gated_sum"
        """How the parts of an item are combined: as a sum in which each part (id, text, other features) has gates that
        depend on all parts, or by attention of the id to the features."""
        id_dropout: Annotated[float, Ge(0), Lt(1)] = 0.2
        """Probability in training that an item is represented by its features alone, so that features learn to
        represent new items; drawn independently for every position of a history and every candidate."""
        vector_dim: Annotated[int, Ge(0)] = 128
        """Number of whitened principal components that replace each vector feature; 0: vectors are used unchanged."""
        normalize: bool = True
        """Whether the vectors that score items have the same, learned length: an item is then not scored high for its
        many events, and new items compete with others on equal terms."""
        new_item_bonus: float = 0.0
        """Added to the scores of items without training events. The scores of new items are less certain, so that few
        of them are among the best; a bonus recommends more of them, at some cost for the others. It changes nothing in
        training: choose it on validation, with ``split.cold_items``."""
        inputs: tuple[InputName, ...] = ("item_features",)
        """Inputs in addition to the items: the event inputs ``value``, ``action``, ``gap`` (time since the previous
        event), ``query_time`` (time from the newest event to the query), ``session_position``, and ``hour``,
        ``weekday``, ``month`` and ``season`` of the event or, with the prefix ``query_``, of the query;
        ``user_features``. ``item_features`` are always read."""
        feature_dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
        """Probability in training that an input of a sequence other than its items is replaced by unknown,
        independently for each input."""

        @field_validator("inputs")
        @classmethod
        def _with_item_features(cls, inputs: tuple[InputName, ...]) -> tuple[InputName, ...]:
            return inputs if "item_features" in inputs else ("item_features", *inputs)

        @model_validator(mode="after")
        def _check_settings(self) -> Self:
            reject_unused(self, {"feature_dropout": (len(self.inputs) > 1, "a model with inputs other than items")})
            self.backbone_config()
            return self

        def backbone_config(self) -> SequenceSettings:
            """Return the settings of the encoder.

            Raises:
                ValueError: there is no such encoder, or it rejects its settings.
            """
            kind = _encoder_class(self.backbone)
            shared = {name: getattr(self, name) for name in SequenceSettings.model_fields}
            if errors := [
                f"backbone_settings.{name}: set {name} of fusion instead"
                for name in self.backbone_settings
                if name in shared
            ]:
                raise ValueError("\n".join(errors))
            settings: SequenceSettings = parse(kind.Config, {**shared, **self.backbone_settings}, "backbone_settings")  # type: ignore[assignment]
            return settings

    config: Config
    state: Callable[[Queries], State]
    step: Callable[[State, Events], State]
    encode_state: Callable[[State, NDArray[np.int64] | None], NDArray[np.float32]]

    def __init__(self, config: Config, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.encoder = _encoder_class(config.backbone)(config.backbone_config(), schema)
        inputs, width = self.encoder.inputs, config.embedding_dim
        assert inputs is not None, "the encoder has at least the input item_features"
        std = (2.0 / (len(self.encoder.items.weight) + width)) ** 0.5  # that of the items' own embeddings
        inputs.items = ItemFusion(
            *(schema.item_features, schema.n_items, width, std),
            *(config.fusion, config.id_dropout, config.vector_dim),
            normalize=config.normalize,
            new_item_bonus=config.new_item_bonus,
        )
        if isinstance(self.encoder, StreamingModel):  # then the model fulfills the protocol Streaming
            encoder = self.encoder
            self.state, self.step, self.encode_state = encoder.state, encoder.step, encoder.encode_state

    @classmethod
    def schema_for(cls, config: Config, data: Dataset) -> DataSchema:
        """Return the schema of ``data`` with the features that ``config.inputs`` needs."""
        return _encoder_class(config.backbone).schema_for(config.backbone_config(), data)

    def prepare(self, train: Dataset) -> None:
        """Encode the features, and compute what the other inputs need."""
        self.encoder.prepare(train)

    @property
    def fusion(self) -> ItemFusion:
        """Return the part of the encoder that represents items."""
        assert self.encoder.inputs is not None
        assert isinstance(self.encoder.inputs.items, ItemFusion)
        return self.encoder.inputs.items

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns read in addition to the items; see :class:`SequenceModel`."""
        return self.encoder.columns

    def batches(self, train: Dataset, size: int, rng: np.random.Generator) -> tuple[int, Iterator[SequenceBatch]]:
        """Return the batches of the encoder."""
        return self.encoder.batches(train, size, rng)

    def objective(self, batch: SequenceBatch, loss: Loss) -> tuple[Tensor, int]:
        """Return the loss of the encoder; item vectors are computed once per batch."""
        with self.fusion.computed_once():
            return self.encoder.objective(batch, loss)

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Return the hidden state after each query's history, ``(N, D)``."""
        return self.encoder.encode(queries)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Return the vectors that score items, ``(I, D)``."""
        return self.encoder.vectors

    @property
    def bias(self) -> NDArray[np.float32]:
        """Return the item biases, ``(I,)``; zeros without ``item_bias``."""
        return self.encoder.bias

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return logits of the next item."""
        return self.encoder.score(queries, candidates)

    @torch.no_grad()
    def explain_features(self, queries: Queries, item: int) -> tuple[str, dict[str, float]]:
        """Return what id, text and features add to a score.

        See :class:`segue.core.model.FeatureExplainer`.
        They are the products of the hidden state with the gated parts of the item's vector. Cross-attention has none.
        """
        state_D = torch.from_numpy(self.encode(queries)[0])
        parts = self.fusion.parts(item, self.encoder.items.weight)
        terms = {name: float(part_D.detach().cpu() @ state_D) for name, part_D in parts.items()}
        if terms and (bias := float(self.bias[item])):
            terms["bias"] = bias
        return "score", terms

    def similar(self, items: Codes) -> Scores:
        """Return the cosine similarity of item vectors."""
        return self.encoder.similar(items)

    @property
    def can_add_items(self) -> bool:
        """See :class:`segue.core.model.Extensible`."""
        return True

    def with_items(self, codes: Codes, table: pl.DataFrame) -> Self:
        """See :meth:`segue.core.model.Extensible.with_items`."""
        extended, rows_NJ = add_items(self, self.fusion, codes, table)
        extended.fusion.rows_IJ[torch.from_numpy(codes.astype(np.int64))] = rows_NJ
        return extended

    def arrays(self) -> StateArrays:
        """Return the arrays of the encoder, which include the fusion.

        So the hash of a recurrent state is that of the model's arrays.
        """
        return self.encoder.arrays()

    def restore(self, arrays: StateArrays) -> None:
        """Load the arrays of the encoder.

        Raises:
            ValueError: they do not match, or have numbers that are not finite.
        """
        self.encoder.restore(arrays)
        self.eval()


def _encoder_class(key: str) -> type[SequenceModel]:
    """Return the sequential model of this key.

    Raises:
        ValueError: there is no such model, or it cannot be an encoder.
    """
    known = model_keys()
    if key in known and _is_encoder(key):
        return cast(type[SequenceModel], model_class(key))
    encoders = [name for name in known if name != "fusion" and _is_encoder(name)]
    what = f"'{key}' is not a sequential model" if key in known else f"unknown '{key}'"
    raise ValueError(f"backbone: {what}{suggest(key, encoders)}")


def _is_encoder(key: str) -> bool:
    try:
        kind = model_class(key)
    except ValueError:  # an extra is not installed
        return False
    return issubclass(kind, SequenceModel) and kind.builtin_loss is None
