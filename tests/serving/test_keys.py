"""API keys: made, checked, changed under a running service, and never to be had from a file or a log."""

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
from segue.serving.auth.api_keys import Key, Keys, guard_public, keys_file, listed, local, make, revoke


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_opens_what_it_was_made_for(path: Path) -> None:
    token = make(path, "shop", ["write", "read"])
    key = Keys(path).check(token)
    assert key is not None
    assert (key.name, key.scopes) == ("shop", ("read", "write"))
    assert token.split("_")[:2] == ["segue", key.id]


def test_the_file_holds_no_secret_and_is_its_owners_alone(path: Path) -> None:
    token = make(path, "shop", ["read"])
    text = path.read_text()
    assert token.split("_", 2)[2] not in text
    assert hashlib.sha256(token.split("_", 2)[2].encode()).hexdigest() in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["keys.json"]
    assert "hash" not in repr(listed(path)[0])


def test_two_keys_are_never_alike(path: Path) -> None:
    tokens = [make(path, "shop", ["read"]) for _ in range(20)]
    assert len({token.split("_", 2)[1] for token in tokens}) == len({token.split("_", 2)[2] for token in tokens}) == 20
    keys = Keys(path)
    assert all(keys.check(token) for token in tokens)


def wrong(token: str) -> list[str]:
    """What is nearly a key, and what is not at all."""
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


def test_nothing_else_is_a_key(path: Path) -> None:
    token = make(path, "shop", ["read"])
    keys = Keys(path)
    assert keys.check(token)
    assert not [text for text in wrong(token) if keys.check(text) is not None]


def test_the_work_is_the_same_for_keys_that_nobody_has(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = make(path, "shop", ["read"])
    keys = Keys(path)
    compared: list[tuple[int, int]] = []
    digest = hmac.compare_digest

    def count(a: str, b: str) -> bool:
        compared.append((len(a), len(b)))
        return digest(a, b)

    monkeypatch.setattr("segue.serving.auth.api_keys.hmac.compare_digest", count)
    for text in (token, *wrong(token)):
        keys.check(text)
    assert compared == [(64, 64)] * (1 + len(wrong(token)))


def test_a_key_expires(path: Path) -> None:
    now = [datetime.now(UTC)]
    token = make(path, "shop", ["read"], days=2)
    keys = Keys(path, now=lambda: now[0])
    assert keys.check(token)
    now[0] += timedelta(days=1.9)
    assert keys.check(token)
    now[0] += timedelta(days=0.2)
    assert keys.check(token) is None
    assert (keys.valid, listed(path)[0].state(now[0])) == (0, "expired")


def test_keys_are_added_and_revoked_while_the_service_runs(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "segue.serving.auth.api_keys")
    clock = Clock()
    first = make(path, "shop", ["read"])
    keys = Keys(path, clock=clock)
    second = make(path, "office", ["admin"])
    assert keys.check(second) is None, "looked at once a second at most"
    clock.seconds += 1
    assert keys.check(second)
    revoke(path, first.split("_")[1])
    assert keys.check(first)
    clock.seconds += 1
    assert keys.check(first) is None
    assert keys.check(second)
    assert "2 open something" in caplog.messages[0]
    assert not [message for message in caplog.messages if first[15:] in message or second[15:] in message]


@pytest.mark.parametrize("broken", ["", "{", '{"version":2,"keys":[]}', '{"keys":[{"id":"x"}]}', "[" * 10_000, "\x00"])
def test_a_broken_file_keeps_the_keys_as_they_were(path: Path, broken: str, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    token = make(path, "shop", ["read"])
    keys = Keys(path, clock=clock)
    whole = path.read_text()
    path.write_text(broken)
    for _ in range(3):
        clock.seconds += 1
        assert keys.check(token)
    assert [record.levelname for record in caplog.records] == ["ERROR"], "once, not at every look"
    path.write_text(whole.replace("shop", "mall"))
    clock.seconds += 1
    found = keys.check(token)
    assert found is not None
    assert found.name == "mall"


def test_a_file_that_goes_keeps_the_keys_as_they_were(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    token = make(path, "shop", ["read"])
    keys = Keys(path, clock=clock)
    path.unlink()
    clock.seconds += 1
    assert keys.check(token)
    assert "no such file" in caplog.text


def test_a_file_in_its_place_is_seen_though_size_and_time_are_the_same(path: Path) -> None:
    clock = Clock()
    make(path, "shop", ["read"])
    keys = Keys(path, clock=clock)
    before = path.stat()
    other = path.with_name("other.json")
    token = make(other, "shop", ["read"])
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert other.stat().st_size == before.st_size
    other.replace(path)
    clock.seconds += 1
    assert keys.check(token)


def test_a_service_does_not_start_without_its_keys(path: Path) -> None:
    with pytest.raises(ValueError, match="no such file; make a key with: segue keys add"):
        Keys(path)
    path.write_text('{"keys": [{"id": "0011aabb", "name": "x", "hash": "secret"}]}')
    with pytest.raises(ValueError, match=r"not a file of keys: keys\.0\.hash") as error:
        Keys(path)
    assert "secret" not in str(error.value)


def test_one_id_is_one_key(path: Path) -> None:
    make(path, "shop", ["read"])
    content = json.loads(path.read_text())
    path.write_text(json.dumps({"keys": content["keys"] * 2}))
    with pytest.raises(ValueError, match="two keys have one id"):
        listed(path)


def test_no_file_is_no_keys() -> None:
    keys = Keys(None)
    assert keys.open
    assert keys.check("segue_00000000_" + "A" * 43) is None


def test_a_file_that_others_can_write_is_told_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(path, "shop", ["read"])
    path.chmod(0o666)
    Keys(path)
    assert "can be written by others" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"scopes": ["reed"]}, "unknown 'reed', did you mean 'read'"),
        ({"scopes": []}, "expected one or more of read, write, admin"),
        ({"name": ""}, "expected 1 to 100 printable"),
        ({"name": "a\nb"}, "expected 1 to 100 printable"),
        ({"name": "a" * 101}, "expected 1 to 100 printable"),
        ({"days": 0}, "expected more than 0"),
        ({"days": float("nan")}, "expected more than 0"),
        ({"days": 1e9}, "at most 36500"),
    ],
)
def test_a_key_that_cannot_be_is_not_made(path: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(path, **{"name": "shop", "scopes": ["read"], **arguments})
    assert not path.exists()


def test_two_who_add_keys_at_once_lose_none(path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        tokens = list(pool.map(lambda i: make(path, f"shop {i}", ["read"]), range(12)))
    keys = Keys(path)
    assert all(keys.check(token) for token in tokens)


def test_a_key_is_revoked_once_and_stays_listed(path: Path) -> None:
    name = make(path, "shop", ["read"]).split("_")[1]
    first = revoke(path, name)
    assert revoke(path, name) == first == listed(path)[0]
    assert first.state(datetime.now(UTC)) == "revoked"
    with pytest.raises(ValueError, match="keys: unknown 'nobody'"):
        revoke(path, "nobody")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]", "LOCALHOST"])
def test_a_service_of_this_machine_alone_may_be_open(host: str) -> None:
    guard_public(host, keys=False, allow_open=False)


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "192.168.1.5", "example.org", "localhost.example.org", "127.0.0.1.nip.io", "2130706433"],
)
def test_a_service_that_others_reach_asks_for_a_key(host: str) -> None:
    with pytest.raises(ValueError, match=r"segue keys add NAME --scope read.*--open"):
        guard_public(host, keys=False, allow_open=False)
    guard_public(host, keys=True, allow_open=False)
    guard_public(host, keys=False, allow_open=True)
    assert not local(host)


def told(*arguments: str, home: Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, arguments, env={"SEGUE_HOME": str(home)})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    status, out, err = told("add", "shop", "--scope", "read", "--scope", "write", "--days", "30", home=tmp_path)
    assert status == 0
    assert out.startswith("segue_")
    assert "only time" in err
    token = out.strip()
    assert Keys(keys_file()).check(token)
    _, out, _ = told("list", "--json", home=tmp_path)
    (key,) = json.loads(out)
    assert (key["name"], key["scopes"], key["state"]) == ("shop", ["read", "write"], "valid")
    _, out, _ = told("list", home=tmp_path)
    assert "shop" in out
    assert token.split("_", 2)[2] not in out
    _, out, _ = told("revoke", key["id"], home=tmp_path)
    assert f"{key['id']} (shop) opens nothing any more" in out
    assert Keys(keys_file()).check(token) is None
    _, out, _ = told("add", "x", "--scope", "admin", "--json", "--file", str(tmp_path / "a.json"), home=tmp_path)
    assert Keys(tmp_path / "a.json").check(json.loads(out)["key"])
    with pytest.raises(ValueError, match="unknown 'all'"):
        told("add", "x", "--scope", "all", home=tmp_path)


def test_a_key_is_a_value(path: Path) -> None:
    make(path, "shop", ["read"])
    change: Callable[[Key], None] = lambda key: setattr(key, "scopes", ("admin",))  # noqa: E731
    with pytest.raises(ValueError, match="frozen"):
        change(listed(path)[0])


def test_a_date_without_its_zone_is_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    token = make(path, "shop", ["read"], days=30)
    keys = Keys(path, clock=iter(range(0, 100, 2)).__next__)
    path.write_text(re.sub(r'("expires": "[^"]*)Z"', r'\1"', path.read_text()))
    assert keys.check(token) is not None  # as they were
    with pytest.raises(ValueError, match=r"keys.0.expires"):
        Keys(path)
