"""Routes of the item catalog.

An id may contain any character, slashes included, percent-encoded in the path or not. A path ends with the route
``similar`` only if its last segment, between unencoded slashes, is ``similar``: ``/v1/items/a%2Fsimilar`` is the item
``a/similar``, and ``/v1/items/a%2Fsimilar/similar`` are the items similar to it.
"""

from __future__ import annotations

import asyncio
from typing import Annotated
from urllib.parse import unquote

from fastapi import APIRouter, Path, Query, Request, Response

from segue.core.vocab import ID_PATTERN, MAX_ID_LENGTH
from segue.serving import schemas
from segue.serving.api.dependencies import NOT_FOUND, ApiDependencies, Limit, PathId, json_response
from segue.serving.errors import ApiError
from segue.serving.model_registry import LoadedModel

__all__ = ["ItemRoutes"]

SearchText = Annotated[str, Query(max_length=256, description="Words of titles or ids; empty: the most popular items.")]

SimilarId = Annotated[str, Path(max_length=MAX_ID_LENGTH, pattern=ID_PATTERN.replace("+", "*"))]
"""As :data:`PathId`, but may be empty: the item ``/similar`` has the path ``/v1/items/%2Fsimilar``."""


class ItemRoutes:
    """Routes that search and show items of the active model's catalog."""

    def __init__(self, dependencies: ApiDependencies) -> None:
        self._models = dependencies.service.models

    def add_to(self, router: APIRouter) -> None:
        """Register the routes."""
        router.add_api_route("/items", self.items, methods=["GET"], response_model=schemas.ItemList)
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

    async def items(self, query: SearchText = "", limit: Limit = 20) -> Response:
        """Search items by words of their titles or ids, or list the most popular."""
        catalog = self._models.active.catalog
        items = await asyncio.to_thread(lambda: [catalog.item(int(code)) for code in catalog.search(query, limit)])
        return json_response(schemas.ItemList(items=items))

    async def item(self, id: PathId) -> Response:  # noqa: A002
        """Show one item of the catalog.

        Encode slashes in the id as ``%2F``.
        """
        model = self._models.active
        return json_response(model.catalog.item(_item_code(model, id)))

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
        model = self._models.active
        codes, similarities = model.artifact.neighbors.nearest(_item_code(model, id), k)
        items = [
            model.catalog.item(code, min(1.0, similarity))
            for code, similarity in zip(codes.tolist(), similarities.tolist(), strict=True)
        ]
        return json_response(schemas.ItemList(items=items))


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
