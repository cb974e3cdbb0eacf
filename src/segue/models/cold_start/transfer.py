"""Transfer: pre-train on one catalog, fine-tune on another through text.

A sequential encoder over items that are represented by their text alone, as in UniSRec (Hou et al. 2022,
arXiv:2206.05941): nothing but the vectors of the texts ties the model to a catalog, so that its weights can be the
start of a model of another catalog. Without a source the model is trained from scratch, which is the pre-training; with
a source it starts from the weights of that model. Fine-tuning is inductive (text alone) or transductive (text and own
embeddings of the target's items, without effect before the first step). Parts can learn more slowly or be frozen:
UniSRec trains only the item representation. VQ-Rec (Hou et al. 2023, arXiv:2210.12316) and RecFormer (Li et al. 2023,
arXiv:2305.13731) represent text in other ways; MoRec (Yuan et al. 2023, arXiv:2303.13835) compares it with ids.

The whitening of vectors and the encoding of all features are those of the source, because its weights were learned with
them.

Shapes: I items of the target, D width, N queries, C candidates.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Self, cast

import numpy as np
import polars as pl
import torch
from annotated_types import Ge, Lt
from numpy.typing import NDArray
from pydantic import field_validator, model_validator
from torch import Tensor

from segue.core import bundle
from segue.core.batches import SequenceBatch
from segue.core.bundle import TrainedModel
from segue.core.config import parse, reject_unused, suggest
from segue.core.features import infer_features
from segue.core.files import read_checked_json
from segue.core.model import StateArrays, Streaming
from segue.core.network import Loss, Network
from segue.core.registry import model_class
from segue.core.state import State
from segue.core.types import Codes, DataSchema, Dataset, Events, Feature, Queries, Scores
from segue.nn.added_items import add_items
from segue.nn.inputs.input_encoder import InputName
from segue.nn.inputs.item_fusion import FusionMethod
from segue.nn.sequence_model import SequenceSettings

__all__ = ["Transfer"]

NETWORK = "fusion"
"""Key of the model that provides the network."""

SOURCES = ("transfer", NETWORK)
"""Keys of the models that can be a source."""

NETWORK_SETTINGS = (
    "embedding_dim", "max_length", "objective", "inputs", "session_gap", "backbone", "backbone_settings", "fusion",
    "vector_dim", "normalize",
)  # fmt: skip
"""Settings that the weights depend on: those of a target are those of its source."""

CATALOG_ARRAYS = ("items.weight", "offsets", "inputs.items.rows_IJ", "inputs.items.in_training_I")
"""Arrays with a row per item, which are never carried over, except for the tokens in the first."""

ITEM_PREFIX = "inputs.items."
"""Prefix of the arrays that map features to item vectors."""


class Transfer(Network):
    """A sequential model of texts that can start from another catalog's model.

    The network is that of ``fusion`` with or without own embeddings of items. With a recurrent encoder, the model has a
    recurrent state too. The source is only read, and only in training.
    """

    scale = "logit"
    required_features = ("item_features",)

    class Config(SequenceSettings):
        """Settings of ``transfer``.

        Those of all sequential models are also the settings of its encoder. With a source, those that define the
        network are the source's.
        """

        source: str | None = None
        """Folder of a run or of a saved model (``transfer`` or ``fusion``) on another catalog, whose weights are the
        start; ``None``: the model is trained from scratch."""
        source_hash: str | None = None
        """SHA-256 of the source's weights; filled in from the source. If it is given, training fails with any other
        weights."""
        encoder_lr_factor: Annotated[float, Ge(0)] = 1.0
        """Factor on the learning rate of the sequence encoder, which comes from the source; 0: it is frozen."""
        item_lr_factor: Annotated[float, Ge(0)] = 1.0
        """Factor on the learning rate of the map from features to item vectors, which comes from the source; 0: it is
        frozen."""
        features: tuple[str, ...] = ()
        """Item features that represent items; empty: all vectors, such as text vectors. With a source, those of the
        source."""
        id_embeddings: bool = False
        """Whether items also have their own embeddings (transductive), or are represented by features alone
        (inductive)."""
        id_dropout: Annotated[float, Ge(0), Lt(1)] = 0.2
        """Probability in training that an item with its own embedding is represented by its features alone."""
        backbone: str = "sasrec"
        """Key of the sequential model; see ``fusion``."""
        backbone_settings: dict[str, Any] = {}  # noqa: RUF012 - never changed
        """Settings of that model in addition to those of all sequential models."""
        fusion: FusionMethod = "gated_sum"
        """How features and own embeddings are combined; see ``fusion``."""
        vector_dim: Annotated[int, Ge(0)] = 128
        """Number of whitened principal components that replace each vector feature; 0: vectors are used unchanged."""
        normalize: bool = True
        """Whether the vectors that score items have the same, learned length."""
        inputs: tuple[InputName, ...] = ("item_features",)
        """Inputs in addition to the items that have the same meaning in every log: ``value``, ``gap``, ``query_time``,
        ``session_position``, and ``hour``, ``weekday``, ``month`` and ``season`` of the event or, with the prefix
        ``query_``, of the query. ``item_features`` are always read."""
        feature_dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
        """Probability in training that an input of a sequence other than its items is replaced by unknown."""

        @field_validator("inputs")
        @classmethod
        def _check_inputs(cls, inputs: tuple[InputName, ...]) -> tuple[InputName, ...]:
            if own := [name for name in inputs if name in ("action", "user_features") or "context" in name]:
                raise ValueError(f"'{own[0]}' has another meaning in every log, so it cannot be carried over")
            return inputs if "item_features" in inputs else ("item_features", *inputs)

        @model_validator(mode="before")
        @classmethod
        def _take_settings_of_source(cls, values: Any) -> Any:
            """Fill in what the source determines, unless it is filled in already."""
            if not isinstance(values, dict) or not values.get("source") or values.get("source_hash"):
                return values
            folder = _bundle_folder(str(values["source"]))
            about = _read_description(folder)
            taken = {name: about["config"][name] for name in NETWORK_SETTINGS}
            taken["features"] = [feature["name"] for feature in about["schema"]["item_features"]]
            given = {**values, "inputs": ["item_features", *values["inputs"]]} if "inputs" in values else values
            if errors := [
                f"{name}: got {values[name]!r}, the source {values['source']} has {one!r}; leave it out"
                for name, one in taken.items()
                if name in values and _as_json(given[name]) != _as_json(one)
            ]:
                raise ValueError("\n".join(errors))
            source = str(folder.parent if folder.name == "bundle" else folder)
            return {**values, **taken, "source": source, "source_hash": about["sha256"][bundle.ARRAYS]}

        @model_validator(mode="after")
        def _check_settings(self) -> Self:
            has_source = self.source is not None
            reject_unused(
                self,
                {
                    "source_hash": (has_source, "a source"),
                    "encoder_lr_factor": (has_source, "a source"),
                    "item_lr_factor": (has_source, "a source"),
                    "id_dropout": (self.id_embeddings, "id_embeddings=true"),
                    "feature_dropout": (len(self.inputs) > 1, "a model with inputs other than items"),
                },
            )
            if not (self.encoder_lr_factor or self.item_lr_factor or self.id_embeddings):
                raise ValueError("item_lr_factor: got 0 with encoder_lr_factor 0, so that nothing would be trained")
            self.network_config()
            return self

        def network_config(self) -> SequenceSettings:
            """Return the settings of the network.

            Raises:
                ValueError: the encoder rejects its settings.
            """
            kind = model_class(NETWORK).Config
            own = type(self).model_fields
            values = {name: getattr(self, name) for name in kind.model_fields if name in own}
            values["id_dropout"] = self.id_dropout if self.id_embeddings else 0.0
            try:
                return cast(SequenceSettings, parse(kind, values, "model"))
            except ValueError as error:
                raise ValueError(str(error).replace("model.", "")) from None

    config: Config
    state: Callable[[Queries], State]
    step: Callable[[State, Events], State]
    encode_state: Callable[[State, NDArray[np.int64] | None], NDArray[np.float32]]

    def __init__(self, config: Config, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.network = cast(Any, model_class(NETWORK)(config.network_config(), schema))
        if not config.id_embeddings:
            self.network.fusion.has_ids = False
            with torch.no_grad():
                self.network.encoder.items.weight[: schema.n_items].zero_()  # not read
        if isinstance(self.network, Streaming):  # then the model fulfills the protocol Streaming
            self.state, self.step, self.encode_state = self.network.state, self.network.step, self.network.encode_state

    @classmethod
    def schema_for(cls, config: Config, data: Dataset) -> DataSchema:
        """Return the schema of ``data`` with the features that represent items.

        With a source, their encoding is that of the source.

        Raises:
            ValueError: the data lacks the features, or their vectors come from another text encoder.
        """
        available = infer_features(data.item_features)[0]
        if config.source is None:
            return replace(data.schema, item_features=_choose_features(config, available, data.name))
        source = _load_source(config)
        _check_vectors(source, data, available)
        return replace(data.schema, item_features=source.model.schema.item_features)

    def prepare(self, train: Dataset) -> None:
        """Encode the features, and start from the weights of the source."""
        self.network.prepare(train)
        if self.config.source is not None:
            self._start_from(_load_source(self.config), train)

    def _start_from(self, source: TrainedModel, train: Dataset) -> None:
        """Copy all arrays of the source but those of its catalog.

        Raises:
            ValueError: an array is missing or has another shape.
        """
        theirs, own, n_items = source.model.arrays(), self.network.encoder.state_dict(), self.schema.n_items
        carried = [name for name in own if name not in CATALOG_ARRAYS]
        if wrong := [name for name in carried if name not in theirs or theirs[name].shape != tuple(own[name].shape)]:
            raise ValueError(f"source: {self.config.source}: its array '{wrong[0]}' is missing or has another shape")
        fusion, tokens_TD = self.network.fusion, theirs["items.weight"][source.model.schema.n_items :]
        with torch.no_grad():
            for name in carried:
                own[name].copy_(torch.from_numpy(np.array(theirs[name])))
            own["items.weight"][n_items:].copy_(torch.from_numpy(np.array(tokens_TD)))
            if self.config.id_embeddings:  # then the model is that of the source before the first step
                own["items.weight"][:n_items].copy_(fusion.unknown_D.expand(n_items, -1))
        assert train.item_features is not None
        fusion.rows_IJ.copy_(fusion.encode_rows(train.item_features.collect()))
        factors = self.learning_rate_factors()
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(factors.get(name, 1.0) > 0)
        self.training_notes = _describe_transfer(
            self.config, source, {name: theirs[name].size for name in carried}, train
        )

    def learning_rate_factors(self) -> Mapping[str, float]:
        """Return the factors on the learning rate; own embeddings and biases have 1."""
        config, factors = self.config, {}
        for name, _ in self.named_parameters():
            array = name.removeprefix("network.encoder.")
            if array.startswith(ITEM_PREFIX):
                factors[name] = config.item_lr_factor
            elif array not in CATALOG_ARRAYS or (array == "items.weight" and not config.id_embeddings):
                factors[name] = config.encoder_lr_factor
        return factors

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns read in addition to the items; see ``SequenceModel``."""
        columns: tuple[str, ...] = self.network.columns
        return columns

    def batches(self, train: Dataset, size: int, rng: np.random.Generator) -> tuple[int, Iterator[SequenceBatch]]:
        """Return the batches of the network."""
        batches: tuple[int, Iterator[SequenceBatch]] = self.network.batches(train, size, rng)
        return batches

    def objective(self, batch: SequenceBatch, loss: Loss) -> tuple[Tensor, int]:
        """Return the loss of the network."""
        value: tuple[Tensor, int] = self.network.objective(batch, loss)
        return value

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Return the hidden state after each query's history, ``(N, D)``."""
        hidden_ND: NDArray[np.float32] = self.network.encode(queries)
        return hidden_ND

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Return the vectors that score items, ``(I, D)``."""
        vectors_ID: NDArray[np.float32] = self.network.vectors
        return vectors_ID

    @property
    def bias(self) -> NDArray[np.float32]:
        """Return the item biases, ``(I,)``; zeros without ``item_bias``."""
        bias_I: NDArray[np.float32] = self.network.bias
        return bias_I

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return logits of the next item."""
        scores: Scores = self.network.score(queries, candidates)
        return scores

    def similar(self, items: Codes) -> Scores:
        """Return the cosine similarity of item vectors."""
        similarity: Scores = self.network.similar(items)
        return similarity

    @property
    def can_add_items(self) -> bool:
        """See :class:`segue.core.model.Extensible`."""
        return True

    def with_items(self, codes: Codes, table: pl.DataFrame) -> Self:
        """See :meth:`segue.core.model.Extensible.with_items`."""
        extended, rows_NJ = add_items(self, self.network.fusion, codes, table)
        extended.network.fusion.rows_IJ[torch.from_numpy(codes.astype(np.int64))] = rows_NJ
        return extended

    def arrays(self) -> StateArrays:
        """Return the arrays of the network."""
        arrays: StateArrays = self.network.arrays()
        return arrays

    def restore(self, arrays: StateArrays) -> None:
        """Load the arrays of the network.

        Raises:
            ValueError: they do not match, or have numbers that are not finite.
        """
        self.network.restore(arrays)
        self.eval()


def _choose_features(config: Transfer.Config, available: Sequence[Feature], data: str) -> tuple[Feature, ...]:
    """Return the features that represent items of a model without a source.

    Raises:
        ValueError: there is no such feature, or no vector.
    """
    by_name = {feature.name: feature for feature in available}
    if config.features:
        if unknown := [name for name in config.features if name not in by_name]:
            hint = suggest(unknown[0], by_name) if by_name else "; it has none"
            raise ValueError(f"model.features: '{data}' has no usable item feature '{unknown[0]}'{hint}")
        return tuple(by_name[name] for name in config.features)
    vectors = tuple(feature for feature in available if feature.kind == "vector")
    if not vectors:
        raise ValueError(
            f"model.features: the item_features of '{data}' have no vectors; encode text with text.columns=[title] "
            "(in Python: segue.add_text), or name other features"
        )
    return vectors


def _bundle_folder(source: str) -> Path:
    """Return the folder of the saved model that a source names.

    It is that of a run, or the source itself. A link such as ``runs/latest`` is followed, because it will point to
    another run.

    Raises:
        ValueError: neither is there.
    """
    folder = Path(source).expanduser()
    if folder.is_symlink():
        folder = folder.parent / os.readlink(folder)
    for path in (folder / "bundle", folder):
        if (path / "bundle.json").is_file():
            return path
    raise ValueError(
        f"source: got '{source}', which is neither the folder of a finished run nor that of a saved model; expected a "
        "path such as runs/NAME"
    )


def _read_description(folder: Path) -> dict[str, Any]:
    """Read the settings and the schema of a source, without its weights.

    Raises:
        ValueError: the model cannot be a source, or its description is malformed.
    """
    about: dict[str, Any] = read_checked_json(folder / "bundle.json")
    if about.get("model") not in SOURCES:
        raise ValueError(f"source: {folder} is a model '{about.get('model')}', expected {' or '.join(SOURCES)}")
    try:
        names = [*(about["config"][name] for name in NETWORK_SETTINGS), about["sha256"][bundle.ARRAYS]]
        names += [feature["name"] for feature in about["schema"]["item_features"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"source: {folder / 'bundle.json'}: malformed: {error!r}") from None
    return about


def _load_source(config: Transfer.Config) -> TrainedModel:
    """Load the source.

    Raises:
        ValueError: it is missing or damaged, or its weights are others than at the time of the settings.
    """
    folder = _bundle_folder(str(config.source))
    found = _read_description(folder)["sha256"][bundle.ARRAYS]
    if config.source_hash != found:
        raise ValueError(
            f"model.source: the weights of {config.source} have the SHA-256 {found[:12]}, expected "
            f"{str(config.source_hash)[:12]} (model.source_hash): the source has changed; restore it, or train again "
            "from the new one"
        )
    return bundle.load(folder)


def _check_vectors(source: TrainedModel, data: Dataset, available: Sequence[Feature]) -> None:
    """Check that vectors of source and target come from the same encoder.

    Raises:
        ValueError: a vector feature is missing, or has another size or encoder.
    """
    sizes = {feature.name: feature.size for feature in available if feature.kind == "vector"}
    encoders = [
        {one.settings["name"]: one for one in listed} for listed in (source.text_encodings, data.text_encodings)
    ]
    errors = []
    for feature in source.model.schema.item_features:
        name, about = feature.name, f"model.source: vectors '{feature.name}'"
        theirs, own = (listed.get(name) for listed in encoders)
        if feature.kind != "vector":
            continue
        if name not in sizes:
            how = "" if theirs is None else f"; encode text with text.encoder={theirs.settings['encoder']}"
            errors.append(f"{about} represent the items of the source, and '{data.name}' has none{how}")
        elif (theirs and theirs.digest) != (own and own.digest):
            labels = [
                "none of Segue's encoders" if one is None else f"{one.settings['encoder']} (digest {one.digest[:12]})"
                for one in (theirs, own)
            ]
            hint = (
                ""
                if own is None
                else "; an encoder that learns from texts differs for each catalog, unlike transformer"
            )
            errors.append(f"{about} of the source come from {labels[0]}, those of '{data.name}' from {labels[1]}{hint}")
        elif sizes[name] != feature.size:
            errors.append(f"{about} have {feature.size} numbers in the source, {sizes[name]} in '{data.name}'")
    if errors:
        raise ValueError("\n".join(errors))


def _describe_transfer(
    config: Transfer.Config, source: TrainedModel, sizes: Mapping[str, int], train: Dataset
) -> tuple[str, ...]:
    """Return what was carried over and what was not, for the record."""
    assert train.item_features is not None
    n_item_numbers = sum(size for name, size in sizes.items() if name.startswith(ITEM_PREFIX))
    frozen = [
        name
        for name, factor in (
            ("the sequence encoder", config.encoder_lr_factor),
            ("the item representation", config.item_lr_factor),
        )
        if not factor
    ]
    known = train.item_features.collect_schema().names()
    missing = [name for name in config.features if name not in known]
    own = [f"own embeddings of {train.n_items:,} items"] if config.id_embeddings else []
    own += [f"biases of {train.n_items:,} items"] if config.item_bias else []
    encoded = {one.settings["name"] for one in source.text_encodings}
    unchecked = [one.name for one in source.model.schema.item_features if one.kind == "vector"]
    unchecked = [name for name in unchecked if name not in encoded]
    return (
        f"transfer: carried over from {config.source} ('{source.key}' on {source.metadata.get('data')}, weights "
        f"{str(config.source_hash)[:12]}): {sum(sizes.values()) - n_item_numbers:,} numbers of the sequence encoder, "
        f"{n_item_numbers:,} of the item representation ({', '.join(config.features)})",
        f"transfer: initialized: {', '.join(own) or 'nothing'}; frozen: {', '.join(frozen) or 'nothing'}",
        *(f"transfer: '{train.name}' has no item feature '{name}', which is unknown for all items" for name in missing),
        *(
            f"transfer: '{name}' was not encoded by Segue: whether both catalogs have the same encoder was not checked"
            for name in unchecked
        ),
    )


def _as_json(value: Any) -> Any:
    """Return tuples as lists without repetitions, for a comparison."""
    if not isinstance(value, list | tuple):
        return value
    return list(dict.fromkeys(value))
