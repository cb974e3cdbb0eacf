"""Download files with progress, resumption and checksums."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
import zipfile
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from segue.data.archives import ArchiveSpec
from segue.data.raw_log import Log

__all__ = ["DownloadError", "download", "fetch"]

ATTEMPTS = 3
TIMEOUT = 30.0
"""Seconds without data after which an attempt fails."""
CHUNK = 1 << 18


class DownloadError(OSError):
    """A required download failed.

    The received part is kept, and the next attempt resumes the download.
    """


def download(spec: ArchiveSpec, key: str, folder: Path, log: Log) -> Path:
    """Download the archive of ``key`` to ``folder/key.zip``.

    If there is no such download, the archive is created from its published files.

    Raises:
        DownloadError: there is no public download, the network failed, or a checksum does not match.
    """
    target = folder / f"{key}.zip"
    if spec.url:
        log(f"{key}: not in SEGUE_ARCHIVES; downloading {spec.url}")
        return fetch(spec.url, target, spec.checksum)
    if not spec.files:
        raise DownloadError(f"{key}: no archive with {', '.join(spec.members)} in SEGUE_ARCHIVES, and no download")
    log(f"{key}: not in SEGUE_ARCHIVES; downloading {len(spec.files)} files")
    parts = {member: folder / key / Path(member).name for member in spec.files}
    for member, (url, checksum) in spec.files.items():
        if not parts[member].exists():
            fetch(url, parts[member], checksum)
    temporary = target.with_suffix(".new")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
        for member, path in parts.items():
            file.write(path, member)
    os.replace(temporary, target)
    for path in parts.values():
        path.unlink()
    return target


def fetch(url: str, target: Path, checksum: str | None = None) -> Path:
    """Download ``url`` to ``target``.

    An interrupted download is resumed from ``target.part``.

    Args:
        checksum: expected ``md5:...`` or ``sha256:...`` of the file.
    """
    import pooch

    part = target.with_name(f"{target.name}.part")

    def download_with_retries(address: str, output: str, _: Any) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _append_missing(address, part)
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
        pooch.retrieve(
            url, known_hash=checksum, fname=target.name, path=target.parent, downloader=download_with_retries
        )
    except (OSError, HTTPException) as error:
        raise DownloadError(f"{url}: {error}; put the archive into the folder SEGUE_ARCHIVES or try again") from error
    except ValueError as error:
        raise DownloadError(f"{url}: checksum does not match the official one ({error})") from None
    finally:
        logger.setLevel(level)
    return target


def _append_missing(url: str, part: Path) -> None:
    """Append the missing bytes of ``url`` to ``part``."""
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
        return _append_missing(url, part)
    with response:
        if have and not (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            have = 0  # the server sends the complete file again
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
        raise DownloadError(f"{url}: received {size} of {total} bytes")
    return None
