"""Items that clients add to the catalog while the service runs.

The event store holds them, so that other processes and later starts have them too. A process reads their changes from
the store and replaces each of its models by a copy with these items; running requests finish with the model they have.
Text is encoded once, by the process that receives the item; the vectors are stored with it.

Shapes: N items, D numbers per vector.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from segue.core.bundle import TrainedModel
from segue.features.new_items import (
    MODELS_FOR_NEW_ITEMS,
    InvalidItems,
    check_can_add,
    describe_clipped,
    extend_model,
    read_items,
)
from segue.features.text.encode_items import ItemTexts
from segue.features.text.user_texts import open_user_texts
from segue.serving.catalog.item_records import AddedItem, encoding_key, find_invalid, from_json, to_json, to_table
from segue.serving.errors import format_traceback
from segue.serving.model_registry import LoadedModel, ModelRegistry
from segue.serving.monitoring.metrics import Metrics
from segue.serving.stores.store import ItemChange, Store, StoreError

__all__ = ["AddedItems", "CannotAdd", "ItemBatch", "ItemsResult", "TooLate"]

PAGE_SIZE = 1_000
"""Changes read from the store at once."""

CANNOT_ENCODE = "the text of items cannot be encoded by this service; the log has the reason; nothing was changed"

CANNOT_EXTEND = "a model cannot be extended with these items; the log has the reason; nothing was changed"

logger = logging.getLogger("segue.serving")


class CannotAdd(ValueError):
    """The items cannot be added in the current state of the service.

    The message is for the client.
    """


class TooLate(Exception):
    """The items waited too long for being encoded; nothing was changed."""


@dataclass(frozen=True)
class ItemBatch:
    """Items of one request."""

    items: Sequence[Mapping[str, Any]]
    """``id``, and features by name."""
    deadline: float
    """Time in the clock of :func:`time.monotonic` after which encoding is not begun."""


@dataclass(frozen=True)
class ItemsResult:
    """Result of adding the items of one request."""

    added: int
    replaced: int
    models: tuple[str, ...]
    """Loaded models that have the items."""
    other_models: tuple[str, ...]
    """Loaded models that do not have them."""
    notes: tuple[str, ...] = ()
    """What models read otherwise than it is given."""


class AddedItems:
    """Adds items to the models of a registry. Thread-safe, except for :meth:`put`.

    Args:
        max_items: largest number of items.
    """

    def __init__(self, store: Store, models: ModelRegistry, metrics: Metrics, max_items: int) -> None:
        self._store, self._models, self._metrics, self._max_items = store, models, metrics, max_items
        self._lock = threading.Lock()
        """Held while changes are read and models are replaced; nothing is encoded meanwhile."""
        self._encode_lock = threading.Lock()
        self._items: dict[str, AddedItem] = {}
        self._sequence = 0
        self._texts: dict[str, ItemTexts] = {}
        self._failures: dict[str, int] = {}
        """Sequence numbers of changes that models could not be copied with, by model."""
        self._excluded: dict[tuple[str, str], set[AddedItem]] = {}
        """Items that models could not be extended with, by name and version of the model."""

    def __len__(self) -> int:
        return len(self._items)

    def put(self, batches: Sequence[ItemBatch]) -> list[ItemsResult | Exception]:
        """Store the items of several requests, and add them to the models.

        An item of the same id is replaced as a whole. Of several with the same id, the last one counts. The result of a
        request is an :class:`InvalidItems`, :class:`CannotAdd`, :class:`TooLate` or :class:`StoreError` if none of its
        items was stored.
        """
        self.refresh()
        bases = [_base(model) for model in self._models.loaded() if _can_add(model)]
        if not bases:
            return [CannotAdd(f"no loaded model can recommend items without events; {MODELS_FOR_NEW_ITEMS}")] * len(
                batches
            )
        results: list[ItemsResult | Exception] = [CannotAdd(CANNOT_ENCODE)] * len(batches)
        accepted: dict[int, list[Mapping[str, Any]]] = {}
        ids = set(self._items)
        for row, batch in enumerate(batches):
            try:
                if time.monotonic() > batch.deadline:
                    raise TooLate
                for base in bases:
                    read_items(base.artifact.bundle, _known_features(batch.items, base, bases))
                given = {str(item["id"]) for item in batch.items}
                if len(ids | given) > self._max_items:
                    raise CannotAdd(
                        f"the service has {len(self._items)} added items and holds at most {self._max_items} "
                        "(serving.max_added_items); train a model with them, and remove them here"
                    )
            except Exception as error:
                results[row] = error
                continue
            ids |= given
            accepted[row] = list(batch.items)
        if not accepted:
            return results
        try:
            items, vectors, refused = self._prepare(bases, accepted)
            for row, reason in refused.items():
                results[row] = reason
                del accepted[row]
            if not accepted:
                return results
            known = {item for base in bases[:1] for item in self._known_ids(base, items)}
            self._store_items({item: to_json(items[item], vectors[item]) for item in items})
        except ValueError as error:
            logger.error("items cannot be encoded: %s", error)
            return results
        except StoreError as error:
            return [error if row in accepted else result for row, result in enumerate(results)]
        self.refresh()
        models = self._models.loaded()
        for row, batch_items in accepted.items():
            given = {str(item["id"]) for item in batch_items}
            replaced = len(known & given)
            with_items = tuple(model.info.name for model in models if self._has_items(model, given))
            others = tuple(model.info.name for model in models if model.info.name not in with_items)
            notes = dict.fromkeys(
                note
                for base in bases
                for table in [read_items(base.artifact.bundle, batch_items, skip_invalid=True)]
                for note in describe_clipped(base.artifact.bundle, table)
            )
            results[row] = ItemsResult(len(batch_items) - replaced, replaced, with_items, others, tuple(notes))
        self._metrics.record_item_changes("put", len(items), len(self))
        return results

    def delete(self, item: str) -> bool:
        """Remove an added item; return whether there was one.

        An item that a model knows from training becomes again what it was.

        Raises:
            StoreError: nothing was changed.
        """
        self.refresh(raise_errors=True)
        if item not in self._items:
            return False
        self._store_items({item: None})
        self.refresh()
        self._metrics.record_item_changes("delete", 1, len(self))
        return True

    def refresh(self, *, raise_errors: bool = False) -> None:
        """Adopt changes of this and other processes; nothing is encoded.

        A model stays as it is while vectors of its items are missing; see :meth:`encode_missing`.

        Raises:
            StoreError: the changes cannot be read, and ``raise_errors`` is true.
        """
        with self._lock:
            try:
                while changes := self._store.item_changes(self._sequence, PAGE_SIZE):
                    for change in changes:
                        self._adopt(change)
                    self._sequence = changes[-1].sequence
                    if len(changes) < PAGE_SIZE:
                        break
            except StoreError:
                if raise_errors:
                    raise
            for model in self._models.loaded():
                if model.items_sequence != self._sequence and _can_add(model):
                    self._update(model)

    def update(self) -> None:
        """Adopt changes, and encode text whose vectors are missing.

        They are missing for a model that was loaded meanwhile.
        """
        self.refresh()
        self.encode_missing()

    def encode_missing(self) -> None:
        """Encode items for models whose vectors the store does not have.

        The items are then added to these models. Items whose text cannot be encoded are added without it, and the log
        has the reason.
        """
        with self._encode_lock:
            is_changed = False
            for model in self._models.loaded() if self._items else ():
                base = _base(model)
                if model.items_sequence == self._sequence or not _can_add(model):
                    continue
                for encoding in base.artifact.bundle.text_encodings:
                    key = encoding_key(encoding)
                    missing = [item for item in self._items.values() if key not in item.vectors]
                    if missing:
                        self._encode_items(base, key, missing)
                        is_changed = True
            if is_changed:
                self.refresh()

    def check_encoders(self) -> list[str]:
        """Return why the text of new items cannot be encoded, one line per model."""
        reasons = []
        for model in self._models.loaded():
            bundle = _base(model).artifact.bundle
            if _can_add(model) and bundle.text_encodings:
                try:
                    self._item_texts(_base(model)).open()
                except ValueError as error:
                    reasons.append(f"model {model.info.name}: the text of new items cannot be encoded: {error}")
            try:
                open_user_texts(bundle.user_text_encodings).open()
            except ValueError as error:
                reasons.append(f"model {model.info.name}: the text of new users cannot be encoded: {error}")
        return reasons

    def _has_items(self, model: LoadedModel, ids: set[str]) -> bool:
        """Return whether a model has the current items, those of ``ids`` included."""
        excluded = {item.id for item in self._excluded.get(_version(model), ())}
        return model.items_sequence == self._sequence and _can_add(model) and not ids & excluded

    def _prepare(
        self, bases: Sequence[LoadedModel], accepted: Mapping[int, Sequence[Mapping[str, Any]]]
    ) -> tuple[dict[str, Mapping[str, Any]], dict[str, dict[str, Any]], dict[int, Exception]]:
        """Encode items and check that models can be extended with them.

        Returns:
            Items and vectors by id, and the errors of requests whose items are not among these.

        Raises:
            ValueError: an encoder is not available.
        """
        refused: dict[int, Exception] = {}
        while True:
            rows = [row for row in accepted if row not in refused]
            items = {str(item["id"]): item for row in rows for item in accepted[row]}
            vectors = self._encode(bases, [*items.values()]) if items else {}
            if not items or self._find_error(bases, [*items.values()], vectors) is None:
                return items, vectors, refused
            errors: dict[int, Exception | None] = {}
            for row in rows:
                own = accepted[row]
                errors[row] = self._find_error(bases, own, self._encode(bases, own))
            found = {row: error for row, error in errors.items() if error is not None}
            refused |= found or dict.fromkeys(rows, CannotAdd(CANNOT_EXTEND))

    def _find_error(
        self, bases: Sequence[LoadedModel], items: Sequence[Mapping[str, Any]], vectors: Mapping[str, dict[str, Any]]
    ) -> Exception | None:
        """Return the error of the first model that cannot be extended, if any."""
        added = [
            AddedItem(str(item["id"]), 0, {n: v for n, v in item.items() if n != "id"}, vectors[str(item["id"])])
            for item in items
        ]
        for base in bases:
            try:
                extend_model(base.artifact.bundle, to_table(base, added))
            except InvalidItems as error:
                return error
            except Exception as error:  # must not affect other requests
                self._metrics.record_error("items")
                self._log_error(base, error)
                return CannotAdd(CANNOT_EXTEND)
        return None

    def _log_error(self, model: LoadedModel, error: Exception) -> None:
        extra = {"traceback": format_traceback(error)}
        logger.error("items cannot be added to model %s: %s", model.info.name, type(error).__name__, extra=extra)

    def _store_items(self, contents: Mapping[str, str | None]) -> None:
        start, failed = time.monotonic(), True
        try:
            self._store.put_items(contents)
            failed = False
        finally:
            self._metrics.record_store_call(self._store.name, "put_items", time.monotonic() - start, failed)

    def _known_ids(self, base: LoadedModel, items: Mapping[str, Any]) -> list[str]:
        _, known = base.artifact.bundle.items.encode(list(items))
        return [item for item, is_known in zip(items, known.tolist(), strict=True) if is_known or item in self._items]

    def _adopt(self, change: ItemChange) -> None:
        if change.content is None:
            self._items.pop(change.item, None)
            return
        try:
            self._items[change.item] = from_json(change)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._items.pop(change.item, None)
            logger.error("an added item in the store is malformed: %s", type(error).__name__)

    def _update(self, model: LoadedModel) -> None:
        """Replace a model by a copy with the current items."""
        base, name = _base(model), model.info.name
        if self._failures.get(name) == self._sequence:
            return
        try:
            excluded = self._excluded.get(_version(base), set()) & set(self._items.values())
            items = sorted(set(self._items.values()) - excluded, key=lambda item: item.created)
            keys = [encoding_key(encoding) for encoding in base.artifact.bundle.text_encodings]
            if any(key not in item.vectors for item in items for key in keys):
                return
            extended, items = self._extend_with_valid(base, items)
        except Exception as error:  # must not affect requests
            self._failures[name] = self._sequence
            self._metrics.record_error("items")
            self._log_error(base, error)
            return
        new_base = base if items else None
        self._models.replace(model, replace(extended, base=new_base, items_sequence=self._sequence))

    def _extend_with_valid(self, base: LoadedModel, items: list[AddedItem]) -> tuple[LoadedModel, list[AddedItem]]:
        """Return a model with all items that it can be extended with, and these items.

        The log has the others once.

        Raises:
            Exception: that of the first attempt, if the model cannot be extended with any of several items.
        """
        try:
            return (self._extend(base, items) if items else base), items
        except Exception as error:
            invalid = find_invalid(base, items)
            valid = [item for item in items if item not in invalid]
            if not valid and len(items) > 1:
                raise
            extended = self._extend(base, valid) if valid else base
            self._excluded.setdefault(_version(base), set()).update(invalid)
            self._excluded[_version(base)] &= set(self._items.values())
            self._metrics.record_error("items")
            logger.error(
                "model %s: %d added items are left out, because it cannot be extended with them: %s",
                base.info.name,
                len(invalid),
                type(error).__name__,
                extra={"traceback": format_traceback(error)},
            )
            return extended, valid

    def _extend(self, base: LoadedModel, items: Sequence[AddedItem]) -> LoadedModel:
        """Return a model with the items in this order, which all processes have in common."""
        table = to_table(base, items)
        extended = extend_model(base.artifact.bundle, table)
        codes, _ = extended.items.encode(table["id"])
        artifact = base.artifact.with_items(extended, codes)
        model = LoadedModel.from_artifact(artifact, self._models.default_rules)
        return replace(model, info=base.info, size_bytes=base.size_bytes + model.size_bytes - artifact.file_bytes)

    def _encode(self, bases: Sequence[LoadedModel], items: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return the vectors of new items by id and encoding.

        Raises:
            ValueError: an encoder is not available.
        """
        vectors: dict[str, dict[str, Any]] = {str(item["id"]): {} for item in items}
        done = set[str]()
        with self._encode_lock:
            for base in bases:
                table = read_items(base.artifact.bundle, items, skip_invalid=True)
                for index, encoding in enumerate(base.artifact.bundle.text_encodings):
                    key = encoding_key(encoding)
                    if key not in done:
                        done.add(key)
                        found_ND = self._item_texts(base).encode(index, table)
                        for item, vector_D in zip(table["id"], found_ND, strict=True):
                            vectors[item][key] = None if np.isnan(vector_D).any() else vector_D
        return vectors

    def _encode_items(self, base: LoadedModel, key: str, items: Sequence[AddedItem]) -> None:
        bundle = base.artifact.bundle
        index = [encoding_key(encoding) for encoding in bundle.text_encodings].index(key)
        for item in items:
            item.vectors[key] = None
        try:
            table = read_items(bundle, [{**item.features, "id": item.id} for item in items], skip_invalid=True)
            found_ND = self._item_texts(base).encode(index, table)
        except ValueError as error:
            logger.error("model %s: items are added without their text: %s", base.info.name, error)
            return
        by_id = dict(zip(table["id"], found_ND, strict=True))
        for item in items:
            if item.id in by_id and not np.isnan(by_id[item.id]).any():
                item.vectors[key] = by_id[item.id]

    def _item_texts(self, base: LoadedModel) -> ItemTexts:
        encodings = base.artifact.bundle.text_encodings
        key = " ".join(encoding_key(encoding) for encoding in encodings)
        if key not in self._texts:
            self._texts[key] = ItemTexts(encodings)
        return self._texts[key]


def _base(model: LoadedModel) -> LoadedModel:
    return model if model.base is None else model.base


def _version(model: LoadedModel) -> tuple[str, str]:
    return model.info.name, model.artifact.version


def _can_add(model: LoadedModel) -> bool:
    try:
        check_can_add(model.artifact.bundle)
    except ValueError:
        return False
    return True


def _known_features(
    items: Sequence[Mapping[str, Any]], base: LoadedModel, bases: Sequence[LoadedModel]
) -> list[Mapping[str, Any]]:
    """Leave out features that another model has and this one does not."""
    own = _columns(base.artifact.bundle)
    others = {name for one in bases for name in _columns(one.artifact.bundle)} - own
    return [{name: value for name, value in item.items() if name not in others} for item in items]


def _columns(bundle: TrainedModel) -> set[str]:
    return set(bundle.catalog.collect_schema().names())
