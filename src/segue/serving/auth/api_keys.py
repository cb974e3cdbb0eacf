"""API keys: who may ask, who may write, who may change models.

A key is ``segue_<id>_<secret>``. The file holds the SHA-256 of the secret and never the secret. A slow hash (bcrypt,
Argon2) makes up for passwords that can be guessed; a secret of 256 random bits cannot, so it would only make every
request slow, and a flood of wrong keys costly. A salt is needed as little: no two secrets are alike.
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

__all__ = ["SCOPES", "Key", "Keys", "Scope", "guard_public", "keys_file", "listed", "local", "make", "revoke"]

Scope: TypeAlias = Literal["read", "write", "admin"]
"""What a key may do; none holds another: a key that is to read and to write is given both."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
"""All of them."""

TOKEN = re.compile(r"segue_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
NOBODY = hashlib.sha256(secrets.token_bytes(32)).hexdigest()
"""What the secret of an unknown key is compared with, so that it takes as long as that of a known one."""

logger = logging.getLogger("segue.serving.auth.api_keys")


class Key(BaseModel):
    """One key, without its secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    """What stands in logs."""
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
    """Whose it is, in words."""
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
    """SHA-256 of the secret."""
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    created: AwareDatetime
    expires: AwareDatetime | None = None
    """From when on it is worth nothing."""
    revoked: AwareDatetime | None = None
    """Since when it is worth nothing."""

    def state(self, now: datetime) -> Literal["valid", "expired", "revoked"]:
        """Whether it opens anything at this moment."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "valid"


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1
    keys: tuple[Key, ...] = ()


class Keys:
    """The keys of a file, which may change while the service runs.

    The file is looked at again at most once a second. One that cannot be read, or is gone, leaves the keys as they were
    and says so in the log: a slip of the editor locks nobody out, and opens nothing.

    Args:
        path: the file; ``None``: there are no keys, and the service is open.
        clock: seconds that only grow.
        now: the moment, in UTC.

    Raises:
        ValueError: the file is missing or is not one of keys.
    """

    def __init__(
        self,
        path: Path | None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._path, self._clock, self._now = path, clock, now
        self._looked = clock()
        self._stamp = None if path is None else _stamp(path)
        self._keys = {} if path is None else {key.id: key for key in _read(path)}

    @property
    def open(self) -> bool:
        """Whether there are no keys to be asked for."""
        return self._path is None

    @property
    def valid(self) -> int:
        """How many keys open something now."""
        return sum(key.state(self._now()) == "valid" for key in self._keys.values())

    def check(self, token: str) -> Key | None:
        """The key that ``token`` is, or ``None``: malformed, unknown, wrong, expired or revoked, without saying which.

        The work is the same for all of these.
        """
        self._look()
        match = TOKEN.fullmatch(token)
        name, secret = match.groups() if match else ("", token[:64])
        key = self._keys.get(name)
        same = hmac.compare_digest(_hash(secret), NOBODY if key is None else key.hash)
        return key if key is not None and same and key.state(self._now()) == "valid" else None

    def _look(self) -> None:
        if self._path is None or self._clock() - self._looked < 1.0:
            return
        self._looked = self._clock()
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = {key.id: key for key in _read(self._path)}
        except (ValueError, OSError) as error:
            logger.error("keys: kept as they were, as the file cannot be read: %s", error)
        else:
            logger.info("keys: read anew, %d open something", self.valid)


def local(host: str) -> bool:
    """Whether only this machine can reach an address; of a name other than ``localhost`` that is not known."""
    if host.lower() == "localhost":
        return True
    try:
        found = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return found.is_loopback


def guard_public(host: str, keys: bool, allow_open: bool) -> None:
    """Refuse a service that everybody on the network could use and change.

    Args:
        keys: whether it asks for keys.
        allow_open: whether the operator said that it shall not.

    Raises:
        ValueError: it would be open on an address that others can reach.
    """
    if not (keys or allow_open or local(host)):
        raise ValueError(
            f"host: got '{host}', which others can reach, and no key is asked for: make one with"
            " 'segue keys add NAME --scope read' and name its file with --keys, or let everybody in with --open"
        )


def keys_file() -> Path:
    """``keys.json`` under ``SEGUE_HOME``, or in the working directory where that is not set."""
    home = os.environ.get("SEGUE_HOME")
    return Path(home).expanduser() / "keys.json" if home else Path("keys.json")


def make(path: Path, name: str, scopes: Sequence[str], days: float | None = None) -> str:
    """Add a key to the file, which is made where there is none; returns the key, which cannot be had again.

    Args:
        scopes: of :data:`SCOPES`, at least one.
        days: until it expires; ``None``: never.

    Raises:
        ValueError: a scope or a name that cannot be, days that are not positive, or a file that is not one of keys.
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise ValueError(f"scope: unknown '{scope}'{suggest(scope, SCOPES)}")
    if not scopes:
        raise ValueError(f"scope: none was given, expected one or more of {', '.join(SCOPES)}")
    if not (1 <= len(name) <= 100 and name.isprintable()):
        raise ValueError(f"name: got {name[:100]!r}, expected 1 to 100 printable characters")
    if days is not None and not 0 < days <= 36_500:
        raise ValueError(f"days: got {days}, expected more than 0 and at most 36500")
    now = datetime.now(UTC).replace(microsecond=0)
    secret = secrets.token_urlsafe(32)
    with _alone(path):
        before = _read(path) if path.exists() else ()
        taken = {key.id for key in before}
        key = Key(
            id=next(found for found in iter(lambda: secrets.token_hex(4), "") if found not in taken),
            name=name,
            hash=_hash(secret),
            scopes=tuple(scope for scope in SCOPES if scope in scopes),
            created=now,
            expires=None if days is None else now + timedelta(days=days),
        )
        _write(path, (*before, key))
    return f"segue_{key.id}_{secret}"


def revoke(path: Path, key_id: str) -> Key:
    """Let a key open nothing from now on; it stays in the file, so that logs that name it can be read.

    Raises:
        ValueError: there is no such key or no such file.
    """
    with _alone(path):
        keys = {key.id: key for key in _read(path)}
        if key_id not in keys:
            raise ValueError(
                f"keys: unknown '{key_id[:100]}'{suggest(key_id, keys) if keys else f'; there are none in {path}'}"
            )
        if keys[key_id].revoked is None:
            now = datetime.now(UTC).replace(microsecond=0)
            keys[key_id] = keys[key_id].model_copy(update={"revoked": now})
            _write(path, tuple(keys.values()))
    return keys[key_id]


def listed(path: Path) -> list[Key]:
    """All keys of a file, oldest first.

    Raises:
        ValueError: the file is missing or is not one of keys.
    """
    return list(_read(path))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> tuple[Key, ...]:
    try:
        keys = _File.model_validate_json(path.read_bytes()).keys
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; make a key with: segue keys add NAME --scope read") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: not a file of keys: {place}: {first['msg']}") from None
    if len({key.id for key in keys}) < len(keys):
        raise ValueError(f"{path}: two keys have one id")
    if path.stat().st_mode & 0o022:
        logger.warning("keys: %s can be written by others than its owner", path)
    return keys


def _write(path: Path, keys: tuple[Key, ...]) -> None:
    write_text(path, _File(keys=keys).model_dump_json(indent=2) + "\n", mode=0o600)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep others who would change the file waiting, where the system can."""
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
