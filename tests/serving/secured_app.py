"""Application with the security middleware, and a client that checks the format of every error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segue[serve]'")
httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install 'segue[dev]'")

from fastapi import APIRouter, FastAPI, Request  # noqa: E402
from fastapi.responses import HTMLResponse, StreamingResponse  # noqa: E402
from starlette.staticfiles import StaticFiles  # noqa: E402

from segue.serving import schemas  # noqa: E402
from segue.serving.auth.api_keys import ApiKeys  # noqa: E402
from segue.serving.middleware.security import install_security  # noqa: E402
from segue.serving.settings import ServingSettings  # noqa: E402

EVENT = {"user": "a", "item": "b"}
JSON = {"content-type": "application/json"}


def application(tmp_path: Path) -> FastAPI:
    app = FastAPI()
    v1 = APIRouter()
    (tmp_path / "files").mkdir(exist_ok=True)
    (tmp_path / "files" / "page.js").write_text("1")
    (tmp_path / "secret.txt").write_text("secret")

    @v1.post("/recommend")
    async def recommend(request: schemas.RecommendRequest) -> dict[str, Any]:
        return {"k": request.k, "history": len(request.history or [])}

    @v1.post("/events")
    async def events(event: schemas.EventRequest) -> schemas.EventRequest:
        return event

    @v1.get("/users/{user}")
    async def user(user: schemas.Id, request: Request) -> dict[str, str]:
        return {"request_id": request.state.request_id}

    @v1.delete("/users/{user:path}")
    async def delete_user(user: schemas.Id) -> None:
        raise KeyError(user)

    @v1.get("/items")
    async def items(query: str) -> None: ...

    @v1.get("/models")
    async def models() -> None: ...

    @v1.post("/models/{name}/activate")
    async def activate(name: str) -> None: ...

    @v1.post("/models/rollback")
    async def rollback() -> None: ...

    @v1.post("/later")  # not listed in the scopes
    async def later() -> None: ...

    @app.get("/", response_class=HTMLResponse)
    async def page() -> str:
        return "<html>"

    @app.get("/stream")
    async def stream(fail: bool = False, user: str = "alice") -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"a"
            if fail:
                raise KeyError(user)
            yield b"b"

        return StreamingResponse(parts(), headers={"server": "x", "cache-control": "max-age=60"})

    for path in ("/healthz", "/readyz", "/metrics"):
        app.get(path)(models)
    app.include_router(v1, prefix="/v1")
    app.mount("/static", StaticFiles(directory=tmp_path / "files"))
    return app


class SecuredApp:
    """Application with the security middleware, and a client."""

    def __init__(self, tmp_path: Path, keys: ApiKeys | None = None, **options: Any) -> None:
        middleware_options = {
            name: options.pop(name)
            for name in ("hosts", "on_request", "scopes_for", "limiter", "clock")
            if name in options
        }
        self.app = application(tmp_path)
        install_security(self.app, settings=ServingSettings(**options), keys=keys, **middleware_options)

    async def send_async(self, method: str, path: str, **options: Any) -> Any:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
            return await client.request(method, path, **options)

    def send(self, method: str, path: str, **options: Any) -> Any:
        response = asyncio.run(self.send_async(method, path, **options))
        assert "x-request-id" in response.headers
        if response.status_code >= 400:
            error = schemas.ErrorResponse.model_validate_json(response.text)
            assert error.request_id == response.headers["x-request-id"]
        return response

    def status(self, method: str, path: str, **options: Any) -> int:
        return int(self.send(method, path, **options).status_code)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def send_raw(service: SecuredApp, sent: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    """Send raw ASGI messages, repeating the last one, and return the messages of the application."""
    received: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return sent.pop(0) if len(sent) > 1 else sent[0]

    async def send(message: dict[str, Any]) -> None:
        received.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/recommend",
        "raw_path": b"/v1/recommend",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"2"), (b"host", b"localhost")],
        **options,
    }
    asyncio.run(service.app(scope, receive, send))  # type: ignore[arg-type]
    return received
