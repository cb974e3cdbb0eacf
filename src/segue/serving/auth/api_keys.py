"""API keys with scopes.

A key has the form ``segue_<id>_<secret>``. The key file stores the SHA-256 of the secret, never the secret. Slow hashes
(bcrypt, Argon2) compensate for guessable passwords; a secret of 256 random bits is not guessable, so a slow hash would
only slow down every request and make floods of wrong keys expensive. A salt is not needed either, as secrets are
unique.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from segue.core.config import suggest
from segue.core.files import write_text

__all__ = [
    "SCOPES",
    "ApiKey",
    "ApiKeys",
    "Scope",
    "check_public_access",
    "create_key",
    "default_keys_file",
    "is_loopback",
    "list_keys",
    "revoke_key",
]

Scope: TypeAlias = Literal["recommend", "read", "write", "admin"]
"""Permission of a key. No scope includes another, but ``read`` permits everything that ``recommend`` does: a key that
reads and writes has both scopes."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
"""All scopes."""

TOKEN = re.compile(r"segue_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
DUMMY_HASH = hashlib.sha256(secrets.token_bytes(32)).hexdigest()
"""Compared with the secret of an unknown key, so that the check takes as long as for a known one."""

logger = logging.getLogger("segue.serving.auth.api_keys")


class ApiKey(BaseModel):
    """API key without its secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    """Id, used in logs."""
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
    """Name of the owner."""
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
    """SHA-256 of the secret."""
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    created: AwareDatetime
    expires: AwareDatetime | None = None
    """Time of expiry; ``None``: never."""
    revoked: AwareDatetime | None = None
    """Time of revocation."""

    def state(self, now: datetime) -> Literal["valid", "expired", "revoked"]:
        """Return the state of the key at time ``now``."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "valid"


class _KeyFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1
    keys: tuple[ApiKey, ...] = ()


class ApiKeys:
    """API keys of a file that may change while the service runs.

    The file is checked for changes at most once per second. If it is unreadable or missing, the previous keys stay in
    force and an error is logged: a typo in the file neither locks clients out nor opens the service.

    Args:
        path: key file; ``None``: no keys, the service is open.
        clock: monotonic clock in seconds.
        now: current time in UTC.

    Raises:
        ValueError: the file is missing or invalid.
    """

    def __init__(
        self,
        path: Path | None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._path, self._clock, self._now = path, clock, now
        self._checked_at = clock()
        self._fingerprint = None if path is None else _file_fingerprint(path)
        self._keys = {} if path is None else {key.id: key for key in _read_file(path)}

    @property
    def is_open(self) -> bool:
        """Whether no key is required."""
        return self._path is None

    @property
    def n_valid(self) -> int:
        """Number of keys that are valid now."""
        return sum(key.state(self._now()) == "valid" for key in self._keys.values())

    def authenticate(self, token: str) -> ApiKey | None:
        """Return the key of ``token``, or ``None`` if the token is not valid.

        An invalid token is malformed, unknown, wrong, expired or revoked. The work is the same in all of these cases.
        """
        self._reload_if_changed()
        match = TOKEN.fullmatch(token)
        key_id, secret = match.groups() if match else ("", token[:64])
        key = self._keys.get(key_id)
        is_equal = hmac.compare_digest(_hash(secret), DUMMY_HASH if key is None else key.hash)
        return key if key is not None and is_equal and key.state(self._now()) == "valid" else None

    def _reload_if_changed(self) -> None:
        if self._path is None or self._clock() - self._checked_at < 1.0:
            return
        self._checked_at = self._clock()
        fingerprint = _file_fingerprint(self._path)
        if fingerprint == self._fingerprint:
            return
        self._fingerprint = fingerprint
        try:
            self._keys = {key.id: key for key in _read_file(self._path)}
        except (ValueError, OSError) as error:
            logger.error("API keys: file unreadable, previous keys stay in force: %s", error)
        else:
            logger.info("API keys: reloaded, %d valid", self.n_valid)


def is_loopback(host: str) -> bool:
    """Check whether only this machine can reach ``host``.

    Names other than ``localhost`` give false.
    """
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return address.is_loopback


def check_public_access(host: str, has_keys: bool, allow_open: bool) -> None:
    """Reject a service without API keys on a public address.

    Args:
        has_keys: whether the service requires API keys.
        allow_open: whether the operator explicitly allowed access without keys.

    Raises:
        ValueError: the address is public and neither is true.
    """
    if not (has_keys or allow_open or is_loopback(host)):
        raise ValueError(
            f"host: got '{host}', a public address, but no API keys; create one with 'segue keys add NAME --scope read'"
            " and pass its file with --keys, or allow access without keys with --open"
        )


def default_keys_file() -> Path:
    """Return the default path of the key file.

    It is ``keys.json`` under ``SEGUE_HOME``, or in the working directory if that variable is not set.
    """
    home = os.environ.get("SEGUE_HOME")
    return Path(home).expanduser() / "keys.json" if home else Path("keys.json")


def create_key(path: Path, name: str, scopes: Sequence[str], days: float | None = None) -> str:
    """Add a key to the file and return the token, which is not stored.

    The file is created if necessary.

    Args:
        scopes: one or more of :data:`SCOPES`.
        days: days until the key expires; ``None``: never.

    Raises:
        ValueError: invalid scope, name or days, or an invalid key file.
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise ValueError(f"scope: unknown '{scope}'{suggest(scope, SCOPES)}")
    if not scopes:
        raise ValueError(f"scope: none given, expected one or more of {', '.join(SCOPES)}")
    if not (1 <= len(name) <= 100 and name.isprintable()):
        raise ValueError(f"name: got {name[:100]!r}, expected 1 to 100 printable characters")
    if days is not None and not 0 < days <= 36_500:
        raise ValueError(f"days: got {days}, expected more than 0 and at most 36500")
    now = datetime.now(UTC).replace(microsecond=0)
    secret = secrets.token_urlsafe(32)
    with _file_lock(path):
        existing = _read_file(path) if path.exists() else ()
        used_ids = {key.id for key in existing}
        key = ApiKey(
            id=next(key_id for key_id in iter(lambda: secrets.token_hex(4), "") if key_id not in used_ids),
            name=name,
            hash=_hash(secret),
            scopes=tuple(scope for scope in SCOPES if scope in scopes),
            created=now,
            expires=None if days is None else now + timedelta(days=days),
        )
        _write_file(path, (*existing, key))
    return f"segue_{key.id}_{secret}"


def revoke_key(path: Path, key_id: str) -> ApiKey:
    """Revoke a key; it stays in the file so that logs that mention it remain readable.

    Raises:
        ValueError: unknown key or missing file.
    """
    with _file_lock(path):
        keys = {key.id: key for key in _read_file(path)}
        if key_id not in keys:
            raise ValueError(
                f"keys: unknown id '{key_id[:100]}'{suggest(key_id, keys) if keys else f'; {path} has no keys'}"
            )
        if keys[key_id].revoked is None:
            now = datetime.now(UTC).replace(microsecond=0)
            keys[key_id] = keys[key_id].model_copy(update={"revoked": now})
            _write_file(path, tuple(keys.values()))
    return keys[key_id]


def list_keys(path: Path) -> list[ApiKey]:
    """Return all keys of a file, oldest first.

    Raises:
        ValueError: the file is missing or invalid.
    """
    return list(_read_file(path))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _file_fingerprint(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _read_file(path: Path) -> tuple[ApiKey, ...]:
    try:
        keys = _KeyFile.model_validate_json(path.read_bytes()).keys
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; create a key with: segue keys add NAME --scope read") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        location = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: invalid key file: {location}: {first['msg']}") from None
    if len({key.id for key in keys}) < len(keys):
        raise ValueError(f"{path}: duplicate key ids")
    if path.stat().st_mode & 0o022:
        logger.warning("API keys: %s is writable by users other than its owner", path)
    return keys


def _write_file(path: Path, keys: tuple[ApiKey, ...]) -> None:
    write_text(path, _KeyFile(keys=keys).model_dump_json(indent=2) + "\n", mode=0o600)


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    """Lock the key file against concurrent changes, where the platform supports it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
