"""Downloads that show progress, go on where they stopped, and are proven by a checksum."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
import zipfile
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from segue.data.archives import Archived
from segue.data.raw_log import Say

__all__ = ["DownloadError", "download", "fetch"]

ATTEMPTS = 3
TIMEOUT = 30.0
"""Seconds without a byte."""
CHUNK = 1 << 18


class DownloadError(OSError):
    """A file that is needed could not be fetched; what arrived is kept and the next attempt goes on from there."""


def download(archived: Archived, key: str, folder: Path, say: Say) -> Path:
    """The archive of ``key`` as ``folder/key.zip``, fetched whole or put together from its published files.

    Raises:
        DownloadError: nobody publishes it, the network failed, or the checksum is not the official one.
    """
    target = folder / f"{key}.zip"
    if archived.url:
        say(f"{key}: not in SEGUE_ARCHIVES; downloading {archived.url}")
        return fetch(archived.url, target, archived.checksum)
    if not archived.files:
        raise DownloadError(f"{key}: no archive with {', '.join(archived.members)} in SEGUE_ARCHIVES, and no download")
    say(f"{key}: not in SEGUE_ARCHIVES; downloading {len(archived.files)} files")
    parts = {member: folder / key / Path(member).name for member in archived.files}
    for member, (url, checksum) in archived.files.items():
        if not parts[member].exists():
            fetch(url, parts[member], checksum)
    fresh = target.with_suffix(".new")
    with zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED) as file:
        for member, path in parts.items():
            file.write(path, member)
    os.replace(fresh, target)
    for path in parts.values():
        path.unlink()
    return target


def fetch(url: str, target: Path, checksum: str | None = None) -> Path:
    """``url`` as the file ``target``; a download that broke off goes on from ``target.part``.

    Args:
        checksum: ``md5:...`` or ``sha256:...`` that the file must have.
    """
    import pooch

    part = target.with_name(f"{target.name}.part")

    def resuming(address: str, output: str, _: Any) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _continue(address, part)
                break
            except urllib.error.HTTPError as error:
                if error.code < 500 or attempt == ATTEMPTS:
                    raise
            except (OSError, HTTPException):
                if attempt == ATTEMPTS:
                    raise
        os.replace(part, output)

    target.parent.mkdir(parents=True, exist_ok=True)
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        pooch.retrieve(url, known_hash=checksum, fname=target.name, path=target.parent, downloader=resuming)
    except (OSError, HTTPException) as error:
        raise DownloadError(f"{url}: {error}; put the archive into the folder SEGUE_ARCHIVES or try again") from error
    except ValueError as error:
        raise DownloadError(f"{url}: checksum is not the official one ({error})") from None
    finally:
        logger.setLevel(level)
    return target


def _continue(url: str, part: Path) -> None:
    """Append to ``part`` what it lacks of ``url``."""
    from tqdm import tqdm

    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "segue", "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response: HTTPResponse = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 416:
                raise
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return None
        part.unlink()
        return _continue(url, part)
    with response:
        if have and not (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            have = 0  # the server sends the whole file again
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
        ):
            while block := response.read(CHUNK):
                file.write(block)
                bar.update(len(block))
            size = file.tell()
    if total is not None and size != total:
        raise DownloadError(f"{url}: {size} of {total} bytes arrived")
    return None
