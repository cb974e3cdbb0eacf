"""Routes of the item catalog.

An id may contain any character, slashes included, percent-encoded in the path or not. A path ends with the route
``similar`` only if its last segment, between unencoded slashes, is ``similar``: ``/v1/items/a%2Fsimilar`` is the item
``a/similar``, and ``/v1/items/a%2Fsimilar/similar`` are the items similar to it.
"""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Path, Query, Request, Response

from segue.core.vocab import ID_PATTERN, MAX_ID_LENGTH
from segue.features.new_items import InvalidItems
from segue.serving import schemas
from segue.serving.api.dependencies import (
    CONFLICT,
    NOT_FOUND,
    RETRY_SECONDS,
    ApiDependencies,
    Limit,
    PathId,
    invalid_field,
    json_response,
)
from segue.serving.catalog.added_items import CannotAdd, ItemBatch, ItemsResult, TooLate
from segue.serving.errors import ApiError
from segue.serving.model_registry import LoadedModel
from segue.serving.scheduling.fair_queue import Overloaded
from segue.serving.stores.store import StoreError

__all__ = ["ItemRoutes"]

SearchText = Annotated[str, Query(max_length=256, description="Words of titles or ids; empty: the most popular items.")]

SimilarId = Annotated[str, Path(max_length=MAX_ID_LENGTH, pattern=ID_PATTERN.replace("+", "*"))]
"""As :data:`PathId`, but may be empty: the item ``/similar`` has the path ``/v1/items/%2Fsimilar``."""


SEND_AGAIN_ADVICE = "; send the items again: the result is the same if they were stored"


class ItemRoutes:
    """Routes that search and show items of the active model's catalog, and add items."""

    def __init__(self, dependencies: ApiDependencies) -> None:
        self._dependencies, self._service = dependencies, dependencies.service
        self._models = dependencies.service.models

    def add_to(self, router: APIRouter) -> None:
        """Register the routes."""
        router.add_api_route("/items", self.items, methods=["GET"], response_model=schemas.ItemList)
        router.add_api_route(
            "/items", self.put_items, methods=["POST"], response_model=schemas.ItemsStored, responses=CONFLICT
        )
        router.add_api_route(
            "/items/{id:path}/similar",
            self.similar,
            methods=["GET"],
            response_model=schemas.ItemList,
            responses=NOT_FOUND,
        )
        router.add_api_route(
            "/items/{id:path}", self.item, methods=["GET"], response_model=schemas.Item, responses=NOT_FOUND
        )
        router.add_api_route(
            "/items/{id:path}",
            self.delete_item,
            methods=["DELETE"],
            response_model=schemas.ItemDeleted,
            responses=NOT_FOUND,
        )

    async def items(self, query: SearchText = "", limit: Limit = 20) -> Response:
        """Search items by words of their titles or ids, or list the most popular."""
        await self._dependencies.refresh_items()
        catalog = self._models.active.catalog
        items = await asyncio.to_thread(lambda: [catalog.item(int(code)) for code in catalog.search(query, limit)])
        return json_response(schemas.ItemList(items=items))

    async def item(self, id: PathId) -> Response:  # noqa: A002
        """Show one item of the catalog.

        Encode slashes in the id as ``%2F``.
        """
        await self._dependencies.refresh_items()
        model = self._models.active
        return json_response(model.catalog.item(_item_code(model, id)))

    async def put_items(self, request: schemas.ItemsRequest, caller: Request) -> Response:
        """Add items to the catalog, or replace them; the next request may recommend them.

        An item whose id the catalog has is replaced as a whole. Either all items are stored or none.
        """
        settings = self._service.settings
        if len(request.items) > settings.max_batch_items:
            raise invalid_field("items", f"got {len(request.items)}, expected at most {settings.max_batch_items}")
        deadline = caller.state.arrival + settings.items_timeout_ms / 1000
        batch = ItemBatch([item.values() for item in request.items], deadline)
        try:
            # items are stored even if the client disconnects
            client = getattr(caller.state, "client", "")
            (result,) = await asyncio.shield(self._dependencies.item_queue.submit([batch], client))
        except Overloaded as overloaded:
            raise ApiError(503, retry_after=overloaded.retry_after) from None
        except StoreError as error:
            result = error
        if isinstance(result, ItemsResult):
            return json_response(
                schemas.ItemsStored(
                    added=result.added,
                    replaced=result.replaced,
                    models=list(result.models),
                    other_models=list(result.other_models),
                    notes=list(result.notes),
                )
            )
        if isinstance(result, InvalidItems):
            raise _invalid_items(result)
        if isinstance(result, CannotAdd):
            raise ApiError(409, message=str(result))
        if isinstance(result, StoreError):
            raise self._dependencies.store_unavailable("put_items", result, SEND_AGAIN_ADVICE)
        if isinstance(result, TooLate):
            raise ApiError(503, retry_after=RETRY_SECONDS)
        raise result

    async def delete_item(self, id: PathId) -> Response:  # noqa: A002
        """Remove an item that was added.

        An item that a model knows from training becomes again what it was. Encode slashes in the id as ``%2F``.
        """
        if not await self._dependencies.call_store("delete_item", lambda: self._service.added_items.delete(id)):
            raise ApiError(404, message="no item with this id was added to the catalog")
        return json_response(schemas.ItemDeleted(id=id))

    async def similar(
        self,
        request: Request,
        id: SimilarId,  # noqa: A002
        k: Annotated[int, Query(ge=1, le=50)] = 10,
    ) -> Response:
        """List items that often co-occur with this item.

        Encode slashes in the id as ``%2F``.
        """
        if not _ends_with_segment(request, "similar"):
            return await self.item(f"{id}/similar")
        await self._dependencies.refresh_items()
        model = self._models.active
        codes, similarities = model.artifact.neighbors.nearest(_item_code(model, id), k)
        items = [
            model.catalog.item(code, min(1.0, similarity))
            for code, similarity in zip(codes.tolist(), similarities.tolist(), strict=True)
        ]
        return json_response(schemas.ItemList(items=items))


def _invalid_items(error: InvalidItems) -> ApiError:
    """Return a validation error that repeats no text of the request."""
    fields = {}
    for cell in error.cells:
        name = cell.column if cell.column in ("id", "title") else f"features.{cell.column}"
        fields[f"items[{cell.row}].{name}"] = f"got {_describe_value(cell.value)}, expected {cell.expected}"
    message = "; ".join(f"{name}: {reason}" for name, reason in fields.items())
    return ApiError(422, message=message, fields=fields)


def _describe_value(value: Any) -> str:
    """Describe a value without repeating text."""
    if isinstance(value, str):
        return "a text"
    if isinstance(value, list):
        noun = "text" if any(isinstance(one, str) for one in value) else "number"
        return f"a list of {len(value)} {noun}{'' if len(value) == 1 else 's'}"
    return json.dumps(value)


def _ends_with_segment(request: Request, segment: str) -> bool:
    """Return whether the last segment of the path is ``segment``.

    In ``/v1/items/a%2Fsimilar`` it is part of the id ``a/similar``.
    """
    raw_path: bytes = request.scope.get("raw_path") or request.url.path.encode()
    return unquote(raw_path.partition(b"?")[0].rpartition(b"/")[2].decode("latin-1")) == segment


def _item_code(model: LoadedModel, item: str) -> int:
    codes, _ = model.catalog.encode([item])
    if not len(codes):
        raise ApiError(404, message="item not found in the catalog")
    return int(codes[0])
