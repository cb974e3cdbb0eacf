"""Authentication, scopes, and security headers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'segue[serve]'")
httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install 'segue[dev]'")


from segue.serving.auth.api_keys import ApiKeys  # noqa: E402
from segue.serving.auth.scopes import required_scopes  # noqa: E402
from segue.serving.middleware.security_headers import LOCAL_HOSTS  # noqa: E402
from tests.serving.secured_app import EVENT, SecuredApp, bearer  # noqa: E402

REQUIRED_SCOPES = [
    ("GET", "/", None),
    ("GET", "/healthz", None),
    ("GET", "/readyz", None),
    ("GET", "/static/page.js", None),
    ("GET", "/metrics", "read admin"),
    ("POST", "/v1/recommend", "recommend read"),
    ("GET", "/v1/users/a", "read"),
    ("GET", "/v1/items?query=a", "recommend read"),
    ("GET", "/v1/models", "read"),
    ("POST", "/v1/events", "write"),
    ("DELETE", "/v1/users/a", "write"),
    ("DELETE", "/v1/users/a%2Fb", "write"),
    ("POST", "/v1/models/a/activate", "admin"),
    ("POST", "/v1/models/rollback", "admin"),
    ("POST", "/v1/later", "admin"),
    ("GET", "/stream", "recommend read write admin"),
]


@pytest.mark.parametrize(("method", "path", "scopes"), REQUIRED_SCOPES)
def test_required_scopes_of_endpoints(
    service_with_keys: SecuredApp, tokens: dict[str, str], method: str, path: str, scopes: str | None
) -> None:
    body: dict[str, Any] = {"json": EVENT if "events" in path else {}} if method == "POST" else {}
    response = service_with_keys.send(method, path, **body)
    if scopes is None:
        assert response.status_code == 200
        return
    assert (response.status_code, response.headers["www-authenticate"]) == (401, 'Bearer realm="segue"')
    for scope, token in tokens.items():
        status = 403 if scope not in scopes else 500 if method == "DELETE" else 200
        assert service_with_keys.status(method, path, headers=bearer(token), **body) == status
        assert service_with_keys.status(method, path, headers={"X-API-Key": token}, **body) == status


def test_unknown_paths_require_a_key(service_with_keys: SecuredApp, tokens: dict[str, str]) -> None:
    for path in ("/v1/recomend", "/v2/recommend", "/.env", "/v1", "/v1//recommend", "/v1/recommend/"):
        assert service_with_keys.status("POST", path) == 401
        assert service_with_keys.status("POST", path, headers=bearer(tokens["read"])) == 404


@pytest.mark.parametrize(
    "path",
    [
        "/static/../v1/models",
        "/static/%2e%2e/v1/models",
        "/static/..%2f..%2fsecret.txt",
        "/static/..%5c..%5csecret.txt",
        "/static//etc/passwd",
        "/healthz/../v1/models",
        "/healthz;/v1/models",
        "/healthz%2f..%2fv1%2fmodels",
        "//v1/models",
        "/V1/models",
        "/v1/./models",
        "/v1/models%20",
        "/v1/models/",
        "/%76%31/models/",
        "/static/%00",
        "/v1/users/%0d%0aSet-Cookie:a",
        "/v1/users/%ff",
    ],
)
def test_path_tricks_do_not_bypass_authentication(service_with_keys: SecuredApp, path: str) -> None:
    response = service_with_keys.send("GET", httpx.URL("http://localhost:8000").copy_with(raw_path=path.encode()))
    assert response.status_code in (400, 401, 404, 405)
    assert "secret" not in response.text


def test_percent_encoded_paths(service_with_keys: SecuredApp, tokens: dict[str, str]) -> None:
    assert service_with_keys.status("GET", "/%76%31/models") == 401
    assert service_with_keys.status("GET", "/%76%31/models", headers=bearer(tokens["read"])) == 200


def test_invalid_credentials(service_with_keys: SecuredApp, tokens: dict[str, str]) -> None:
    token = tokens["read"]
    other = "segue_00000000_" + token.split("_", 2)[2]
    for header in ("", "Bearer", "Bearer ", f"Basic {token}", token, f"Bearer {token}x", f"Bearer {token} x", other):
        assert service_with_keys.status("GET", "/v1/models", headers={"Authorization": header}) == 401
    for value in (token[:-1], other, f"Bearer {token}", "\xe4" * 58):
        assert service_with_keys.status("GET", "/v1/models", headers={"X-API-Key": value.encode("latin-1")}) == 401
    assert service_with_keys.status("GET", f"/v1/models?key={token}&api_key={token}") == 401, "URLs may be logged"
    assert service_with_keys.status("GET", "/v1/models", headers={"Cookie": f"key={token}"}) == 401
    assert service_with_keys.status("GET", "/v1/models", headers={"Authorization": f"bearer  {token}"}) == 200
    assert (
        service_with_keys.status("GET", "/v1/models", headers={"Authorization": "Basic x", "X-API-Key": token}) == 200
    )


def test_repeated_headers(service_with_keys: SecuredApp, tokens: dict[str, str]) -> None:
    twice = bearer(tokens["read"]) | {"authorization": f"Bearer {tokens['admin']}"}
    assert service_with_keys.status("GET", "/v1/models", headers=list(twice.items())) == 400
    for name in ("x-api-key", "host", "content-type", "origin"):
        response = service_with_keys.send("POST", "/v1/recommend", headers=[(name, "a"), (name, "b")])
        assert response.status_code == 400
        assert name in response.json()["message"]


def test_revoked_keys(tmp_path: Path, tokens: dict[str, str]) -> None:
    from segue.serving.auth.api_keys import revoke_key

    seconds = [0.0]
    service = SecuredApp(tmp_path, ApiKeys(tmp_path / "keys.json", clock=lambda: seconds[0]))
    assert service.status("GET", "/v1/models", headers=bearer(tokens["read"])) == 200
    revoke_key(tmp_path / "keys.json", tokens["read"].split("_")[1])
    seconds[0] += 1
    assert service.status("GET", "/v1/models", headers=bearer(tokens["read"])) == 401


def test_service_without_keys(service: SecuredApp, tmp_path: Path) -> None:
    assert service.status("POST", "/v1/models/rollback") == 200
    assert service.status("GET", "/v1/models", headers=bearer("nonsense")) == 200
    assert SecuredApp(tmp_path, ApiKeys(None)).status("GET", "/v1/models") == 200


def test_unlisted_endpoints_require_admin() -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "BREW", ""):
        for path in ("/", "/healthz", "/metrics", "/v1/new", "/static/a", "", "v1/recommend"):
            assert required_scopes(method, path) == {"admin"}
    assert required_scopes("GET", "/v1/new") == {"read"}
    assert required_scopes("GET", "/new") == {"recommend", "read", "write", "admin"}
    assert required_scopes("GET", "/staticx") == {"recommend", "read", "write", "admin"}


def test_security_headers(service_with_keys: SecuredApp, tokens: dict[str, str]) -> None:
    for method, path, options in [
        ("GET", "/", {}),
        ("GET", "/static/page.js", {}),
        ("GET", "/v1/models", {}),
        ("GET", "/v1/models", {"headers": bearer(tokens["read"])}),
        ("GET", "/nowhere", {}),
        ("DELETE", "/v1/users/a", {"headers": bearer(tokens["write"])}),
    ]:
        headers = service_with_keys.send(method, path, **options).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        policy = headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers
        assert headers["cache-control"] == ("no-cache" if "static" in path else "no-store")


def test_content_security_policy_of_the_api_docs(service: SecuredApp) -> None:
    policy = service.send("GET", "/docs").headers["content-security-policy"]
    assert "img-src 'self' data:;" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "data:" not in service.send("GET", "/docs/oauth2-redirect").headers["content-security-policy"]


def test_streaming_and_cache_control(service: SecuredApp) -> None:
    response = service.send("GET", "/stream")
    assert (response.text, response.headers["cache-control"]) == ("ab", "max-age=60")
    assert "server" not in response.headers


@pytest.mark.parametrize("request_id", ["a", "A-1_b.c", "x" * 64])
def test_valid_request_ids_are_kept(service: SecuredApp, request_id: str) -> None:
    response = service.send("GET", "/v1/users/a", headers={"X-Request-ID": request_id})
    assert response.headers["x-request-id"] == request_id == response.json()["request_id"]


@pytest.mark.parametrize(
    "request_id", ["", "x" * 65, "a b", "a\r\nSet-Cookie: b", "\u00e4", "a/b", "<script>", "a\x00", "%0a"]
)
def test_invalid_request_ids_are_replaced(service: SecuredApp, request_id: str) -> None:
    response = service.send("GET", "/healthz", headers={"X-Request-ID": request_id.encode("latin-1")})
    assert response.headers["x-request-id"] != request_id
    assert len(response.headers["x-request-id"]) == 16
    assert "set-cookie" not in response.headers
    twice = service.send("GET", "/healthz", headers=[("X-Request-ID", "a"), ("X-Request-ID", "b")])
    assert twice.headers["x-request-id"] not in ("a", "b")


def test_csrf(service: SecuredApp, service_with_keys: SecuredApp) -> None:
    rollback = "/v1/models/rollback"
    assert service.status("POST", rollback) == 200, "not a browser"
    assert service.status("POST", rollback, headers={"Sec-Fetch-Site": "same-origin"}) == 200
    assert service.status("POST", rollback, headers={"Origin": "http://localhost:8000"}) == 200
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:9000"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:8000.evil.example"},
    ):
        assert service.status("POST", rollback, headers=headers) == 403
        assert service.status("DELETE", "/v1/users/a", headers=headers) == 403
        assert service.status("GET", "/v1/models", headers=headers) == 200


def test_dns_rebinding(tmp_path: Path) -> None:
    service = SecuredApp(tmp_path, hosts=LOCAL_HOSTS)
    for host in ("localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "[::1]", "LocalHost"):
        assert service.status("GET", "/v1/models", headers={"Host": host}) == 200
    for host in ("evil.example", "localhost.evil.example", "", "127.0.0.1.nip.io:8000", "evil.example:localhost"):
        assert service.status("GET", "/v1/models", headers={"Host": host}) == 421


def test_cors(tmp_path: Path, tokens: dict[str, str]) -> None:
    shop = {"Origin": "https://shop.example"}
    service = SecuredApp(tmp_path, ApiKeys(tmp_path / "keys.json"), cors_origins=("https://shop.example",))
    before = {**shop, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    response = asyncio.run(service.send_async("OPTIONS", "/v1/recommend", headers=before))
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-credentials" not in response.headers
    refused = service.send("POST", "/v1/recommend", headers=shop, json={})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://shop.example")
    assert service.status("POST", "/v1/recommend", headers={**shop, **bearer(tokens["read"])}, json={}) == 200
    other = service.send("POST", "/v1/recommend", headers={"Origin": "https://evil.example"}, json={})
    assert "access-control-allow-origin" not in other.headers
    service_without_keys = SecuredApp(tmp_path, cors_origins=("https://shop.example",))
    assert (
        service_without_keys.status("POST", "/v1/models/rollback", headers={**shop, "Sec-Fetch-Site": "cross-site"})
        == 200
    )
    for origin in ("shop.example", "https://shop.example/", "ftp://a", "https://a b/c"):
        with pytest.raises(ValueError, match="expected an origin such as"):
            SecuredApp(tmp_path, cors_origins=(origin,))


def test_no_cors_headers_by_default(service: SecuredApp) -> None:
    before = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    response = service.send("OPTIONS", "/v1/recommend", headers=before)
    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_without_keys_the_limits_of_a_client_are_those_of_its_address(tmp_path: Path) -> None:
    rated = SecuredApp(tmp_path, rate_limit=1.0, clock=lambda: 0.0)
    slots = SecuredApp(tmp_path, max_concurrent=2)

    async def get(service: SecuredApp, address: str, path: str = "/v1/models") -> int:
        transport = httpx.ASGITransport(service.app, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
            return (await client.get(path)).status_code

    async def scenario() -> tuple[list[int], list[int]]:
        rates = [await get(rated, address) for address in (*["127.0.0.2"] * 3, "127.0.0.3")]
        is_waiting, go_on = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            is_waiting.set()
            await go_on.wait()

        slots.app.get("/v1/wait")(wait)
        held = asyncio.create_task(get(slots, "127.0.0.2", "/v1/wait"))
        await is_waiting.wait()
        statuses = [await get(slots, address) for address in ("127.0.0.2", "127.0.0.3")]
        go_on.set()
        return rates, [*statuses, await held]

    assert asyncio.run(scenario()) == ([200, 200, 429, 200], [429, 200, 200])
