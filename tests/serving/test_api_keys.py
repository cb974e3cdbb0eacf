"""API keys: creation, authentication, changes at runtime, and no secrets in files and logs."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from segue.cli.keys import app
from segue.serving.auth.api_keys import (
    ApiKey,
    ApiKeys,
    check_public_access,
    create_key,
    default_keys_file,
    is_loopback,
    list_keys,
    revoke_key,
)


class Clock:
    """Simulated clock."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_create_and_authenticate(path: Path) -> None:
    token = create_key(path, "shop", ["write", "read"])
    key = ApiKeys(path).authenticate(token)
    assert key is not None
    assert (key.name, key.scopes) == ("shop", ("read", "write"))
    assert token.split("_")[:2] == ["segue", key.id]


def test_the_file_contains_no_secret_and_is_private(path: Path) -> None:
    token = create_key(path, "shop", ["read"])
    text = path.read_text()
    assert token.split("_", 2)[2] not in text
    assert hashlib.sha256(token.split("_", 2)[2].encode()).hexdigest() in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["keys.json"]
    assert "hash" not in repr(list_keys(path)[0])


def test_keys_are_unique(path: Path) -> None:
    tokens = [create_key(path, "shop", ["read"]) for _ in range(20)]
    assert len({token.split("_", 2)[1] for token in tokens}) == len({token.split("_", 2)[2] for token in tokens}) == 20
    keys = ApiKeys(path)
    assert all(keys.authenticate(token) for token in tokens)


def invalid_tokens(token: str) -> list[str]:
    """Return malformed and almost valid tokens."""
    _, name, secret = token.split("_", 2)
    other = "0" * 8 if name != "0" * 8 else "1" * 8
    return [
        "",
        "segue",
        token[:-1],
        token + "x",
        token + "\n",
        " " + token,
        token.upper(),
        f"segue_{other}_{secret}",
        f"segue_{name}_{'A' * 43}",
        f"segue_{name}_{secret[:-1]}\u00e4",
        f"segue_{name}_" + "\x00" * 43,
        "segue_" + "a" * 100_000,
        hashlib.sha256(secret.encode()).hexdigest(),
        f"segue_{name}_{hashlib.sha256(secret.encode()).hexdigest()}"[:58],
        "\ud800",
    ]


def test_invalid_tokens(path: Path) -> None:
    token = create_key(path, "shop", ["read"])
    keys = ApiKeys(path)
    assert keys.authenticate(token)
    assert not [text for text in invalid_tokens(token) if keys.authenticate(text) is not None]


def test_the_work_is_the_same_for_unknown_keys(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = create_key(path, "shop", ["read"])
    keys = ApiKeys(path)
    compared: list[tuple[int, int]] = []
    digest = hmac.compare_digest

    def count(a: str, b: str) -> bool:
        compared.append((len(a), len(b)))
        return digest(a, b)

    monkeypatch.setattr("segue.serving.auth.api_keys.hmac.compare_digest", count)
    for text in (token, *invalid_tokens(token)):
        keys.authenticate(text)
    assert compared == [(64, 64)] * (1 + len(invalid_tokens(token)))


def test_keys_expire(path: Path) -> None:
    now = [datetime.now(UTC)]
    token = create_key(path, "shop", ["read"], days=2)
    keys = ApiKeys(path, now=lambda: now[0])
    assert keys.authenticate(token)
    now[0] += timedelta(days=1.9)
    assert keys.authenticate(token)
    now[0] += timedelta(days=0.2)
    assert keys.authenticate(token) is None
    assert (keys.n_valid, list_keys(path)[0].state(now[0])) == (0, "expired")


def test_changes_are_adopted_at_runtime(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "segue.serving.auth.api_keys")
    clock = Clock()
    first = create_key(path, "shop", ["read"])
    keys = ApiKeys(path, clock=clock)
    second = create_key(path, "office", ["admin"])
    assert keys.authenticate(second) is None, "the file is checked once a second"
    clock.seconds += 1
    assert keys.authenticate(second)
    revoke_key(path, first.split("_")[1])
    assert keys.authenticate(first)
    clock.seconds += 1
    assert keys.authenticate(first) is None
    assert keys.authenticate(second)
    assert "2 valid" in caplog.messages[0]
    assert not [message for message in caplog.messages if first[15:] in message or second[15:] in message]


@pytest.mark.parametrize("broken", ["", "{", '{"version":2,"keys":[]}', '{"keys":[{"id":"x"}]}', "[" * 10_000, "\x00"])
def test_an_invalid_file_keeps_the_previous_keys(path: Path, broken: str, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    token = create_key(path, "shop", ["read"])
    keys = ApiKeys(path, clock=clock)
    whole = path.read_text()
    path.write_text(broken)
    for _ in range(3):
        clock.seconds += 1
        assert keys.authenticate(token)
    assert [record.levelname for record in caplog.records] == ["ERROR"], "once, not at every check"
    path.write_text(whole.replace("shop", "mall"))
    clock.seconds += 1
    found = keys.authenticate(token)
    assert found is not None
    assert found.name == "mall"


def test_a_missing_file_keeps_the_previous_keys(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    token = create_key(path, "shop", ["read"])
    keys = ApiKeys(path, clock=clock)
    path.unlink()
    clock.seconds += 1
    assert keys.authenticate(token)
    assert "no such file" in caplog.text


def test_a_replaced_file_with_equal_size_and_time_is_detected(path: Path) -> None:
    clock = Clock()
    create_key(path, "shop", ["read"])
    keys = ApiKeys(path, clock=clock)
    before = path.stat()
    other = path.with_name("other.json")
    token = create_key(other, "shop", ["read"])
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert other.stat().st_size == before.st_size
    other.replace(path)
    clock.seconds += 1
    assert keys.authenticate(token)


def test_a_missing_or_invalid_file_at_startup(path: Path) -> None:
    with pytest.raises(ValueError, match="no such file; create a key with: segue keys add"):
        ApiKeys(path)
    path.write_text('{"keys": [{"id": "0011aabb", "name": "x", "hash": "secret"}]}')
    with pytest.raises(ValueError, match=r"invalid key file: keys\.0\.hash") as error:
        ApiKeys(path)
    assert "secret" not in str(error.value)


def test_duplicate_ids_are_rejected(path: Path) -> None:
    create_key(path, "shop", ["read"])
    content = json.loads(path.read_text())
    path.write_text(json.dumps({"keys": content["keys"] * 2}))
    with pytest.raises(ValueError, match="duplicate key ids"):
        list_keys(path)


def test_without_a_file_the_service_is_open() -> None:
    keys = ApiKeys(None)
    assert keys.is_open
    assert keys.authenticate("segue_00000000_" + "A" * 43) is None


def test_a_warning_for_a_file_writable_by_others(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    create_key(path, "shop", ["read"])
    path.chmod(0o666)
    ApiKeys(path)
    assert "is writable by users other than its owner" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scopes": ["reed"]}, "unknown 'reed', did you mean 'read'"),
        ({"scopes": []}, "expected one or more of recommend, read, write, admin"),
        ({"name": ""}, "expected 1 to 100 printable"),
        ({"name": "a\nb"}, "expected 1 to 100 printable"),
        ({"name": "a" * 101}, "expected 1 to 100 printable"),
        ({"days": 0}, "expected more than 0"),
        ({"days": float("nan")}, "expected more than 0"),
        ({"days": 1e9}, "at most 36500"),
    ],
)
def test_invalid_arguments(path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_key(path, **{"name": "shop", "scopes": ["read"], **arguments})
    assert not path.exists()


def test_concurrent_additions(path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        tokens = list(pool.map(lambda i: create_key(path, f"shop {i}", ["read"]), range(12)))
    keys = ApiKeys(path)
    assert all(keys.authenticate(token) for token in tokens)


def test_revocation_is_idempotent(path: Path) -> None:
    name = create_key(path, "shop", ["read"]).split("_")[1]
    first = revoke_key(path, name)
    assert revoke_key(path, name) == first == list_keys(path)[0]
    assert first.state(datetime.now(UTC)) == "revoked"
    with pytest.raises(ValueError, match="keys: unknown id 'nobody'"):
        revoke_key(path, "nobody")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]", "LOCALHOST"])
def test_a_local_service_needs_no_keys(host: str) -> None:
    check_public_access(host, has_keys=False, allow_open=False)


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "192.168.1.5", "example.org", "localhost.example.org", "127.0.0.1.nip.io", "2130706433"],
)
def test_a_public_service_needs_keys(host: str) -> None:
    with pytest.raises(ValueError, match=r"segue keys add NAME --scope read.*--open"):
        check_public_access(host, has_keys=False, allow_open=False)
    check_public_access(host, has_keys=True, allow_open=False)
    check_public_access(host, has_keys=False, allow_open=True)
    assert not is_loopback(host)


def run_command(*arguments: str, home: Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments, env={"SEGUE_HOME": str(home)})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    status, out, err = run_command("add", "shop", "--scope", "read", "--scope", "write", "--days", "30", home=tmp_path)
    assert status == 0
    assert out.startswith("segue_")
    assert "only once" in err
    token = out.strip()
    assert ApiKeys(default_keys_file()).authenticate(token)
    _, out, _ = run_command("list", "--json", home=tmp_path)
    (key,) = json.loads(out)
    assert (key["name"], key["scopes"], key["state"]) == ("shop", ["read", "write"], "valid")
    _, out, _ = run_command("list", home=tmp_path)
    assert "shop" in out
    assert token.split("_", 2)[2] not in out
    _, out, _ = run_command("revoke", key["id"], home=tmp_path)
    assert f"{key['id']} (shop) is revoked" in out
    assert ApiKeys(default_keys_file()).authenticate(token) is None
    _, out, _ = run_command("add", "x", "--scope", "admin", "--json", "--file", str(tmp_path / "a.json"), home=tmp_path)
    assert ApiKeys(tmp_path / "a.json").authenticate(json.loads(out)["key"])
    path = tmp_path / "b.json"
    _, out, _ = run_command("add", "x", "--scope", "recommend", "--file", str(path), home=tmp_path)
    found = ApiKeys(path).authenticate(out.strip())
    assert found is not None
    assert found.scopes == ("recommend",)
    with pytest.raises(ValueError, match="unknown 'all'"):
        run_command("add", "x", "--scope", "all", home=tmp_path)


def test_keys_are_immutable(path: Path) -> None:
    create_key(path, "shop", ["read"])
    change: Callable[[ApiKey], None] = lambda key: setattr(key, "scopes", ("admin",))  # noqa: E731
    with pytest.raises(ValueError, match="frozen"):
        change(list_keys(path)[0])


def test_dates_need_a_time_zone(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    token = create_key(path, "shop", ["read"], days=30)
    keys = ApiKeys(path, clock=iter(range(0, 100, 2)).__next__)
    path.write_text(re.sub(r'("expires": "[^"]*)Z"', r'\1"', path.read_text()))
    assert keys.authenticate(token) is not None  # unchanged
    with pytest.raises(ValueError, match=r"keys.0.expires"):
        ApiKeys(path)
