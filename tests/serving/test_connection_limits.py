"""Limits on connections and open files."""

from __future__ import annotations

import asyncio
import io
import json

import pytest

from segue.serving import connection_limits
from segue.serving.connection_limits import (
    Admission,
    ConnectionLimiter,
    accept_backlog,
    connection_limit,
    file_limit,
    peer_address,
    raise_file_limit,
)


def test_one_address_cannot_use_all_connections(logs: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    excess: list[int] = []
    monkeypatch.setattr(connection_limits, "LOG_SECONDS", 0.0)

    async def attack() -> None:
        limiter = ConnectionLimiter(20, on_excess=lambda: excess.append(1))
        admissions = [limiter.admit("attacker") for _ in range(100)]
        assert admissions[:10] == [Admission.OPEN] * 10
        assert admissions[10:14] == [Admission.PROBES] * 4, "some connections of an address may still be probes"
        assert admissions[14:] == [Admission.REFUSED] * 86
        others = [limiter.admit(f"client {number}") for number in range(50)]
        assert others == [Admission.OPEN] * 10 + [Admission.PROBES] * 28 + [Admission.REFUSED] * 12
        for admission in admissions:
            limiter.release("attacker", admission)
        assert limiter.admit("another") is Admission.OPEN
        await asyncio.sleep(1.1)

    asyncio.run(attack())
    assert len(excess) == 130
    (line,) = [json.loads(line) for line in logs.getvalue().splitlines() if "above the limit" in line]
    assert line["message"].startswith("130 connections above the limit of 20")


def test_addresses_of_one_client_count_together() -> None:
    assert peer_address("10.0.0.1") == "10.0.0.1"
    assert peer_address("2001:db8:1:2::a") == peer_address("2001:db8:1:2:3:4:5:6") == "2001:db8:1:2::/64"
    assert peer_address("2001:db8:1:3::a") != peer_address("2001:db8:1:2::a")
    assert peer_address("::ffff:10.0.0.1") == "10.0.0.1"
    assert peer_address("fe80::1%eth0") == "fe80::/64"
    assert peer_address("testclient:") == "testclient:"


def test_connections_stay_below_the_limit_on_files(logs: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "_count_open_files", lambda: 40)
    for files, wanted, expected in ((65_536, 0, 10_000), (65_536, 20, 20), (1_024, 0, 760), (256, 0, 88), (64, 0, 8)):
        monkeypatch.setattr(connection_limits, "file_limit", lambda files=files: files)
        logs.truncate(0)
        assert connection_limit(wanted) == expected
        assert ("may open only" in logs.getvalue()) == (expected < (wanted or 10_000))
        assert expected + accept_backlog(files) + 40 < files or files == 64


def test_the_limit_on_open_files_is_raised() -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 500), hard))
    try:
        assert raise_file_limit() == file_limit() == min(hard if hard != resource.RLIM_INFINITY else 65_536, 65_536)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
