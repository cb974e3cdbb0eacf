"""Downloads from a local server: complete, interrupted and resumed, and failing."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from segue.data.archives import Archive, ArchiveSpec
from segue.data.download import DownloadError, download, fetch

BODY = bytes(range(256)) * 4000
SHA = f"sha256:{hashlib.sha256(BODY).hexdigest()}"


class Server(ThreadingHTTPServer):
    """Serve ``BODY`` and record range requests; optionally abort, or do not support ranges."""

    daemon_threads = True
    break_at: int | None = None
    supports_ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.range_headers: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        range_header = self.headers.get("Range")
        self.server.range_headers.append(range_header)
        if self.path == "/absent.zip":
            self.send_error(404)
            return
        start = (
            int(range_header.removeprefix("bytes=").removesuffix("-"))
            if range_header and self.server.supports_ranges
            else 0
        )
        if start >= len(BODY):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(BODY)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
        self.send_header("Content-Length", str(len(BODY) - start))
        self.end_headers()
        stop = len(BODY)
        if self.server.break_at is not None and start < self.server.break_at:
            stop = self.server.break_at
        self.wfile.write(BODY[start:stop])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_complete_download(server: Server, tmp_path: Path) -> None:
    target = fetch(server.url, tmp_path / "a" / "f.zip", SHA)
    assert target.read_bytes() == BODY
    assert server.range_headers == [None]
    assert [p.name for p in target.parent.iterdir()] == ["f.zip"]


def test_interrupted_download_is_resumed(server: Server, tmp_path: Path) -> None:
    server.break_at = 300_000
    assert fetch(server.url, tmp_path / "f.zip", SHA).read_bytes() == BODY
    assert server.range_headers == [None, "bytes=300000-"]


def test_next_call_resumes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.zip.part").write_bytes(BODY[:1000])
    assert fetch(server.url, tmp_path / "f.zip", SHA).read_bytes() == BODY
    assert server.range_headers == ["bytes=1000-"]


def test_complete_part_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.zip.part").write_bytes(BODY)
    assert fetch(server.url, tmp_path / "f.zip", SHA).read_bytes() == BODY


def test_too_long_part_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.zip.part").write_bytes(BODY + b"more")
    assert fetch(server.url, tmp_path / "f.zip", SHA).read_bytes() == BODY


def test_server_without_range_requests(server: Server, tmp_path: Path) -> None:
    server.supports_ranges = False
    (tmp_path / "f.zip.part").write_bytes(b"wrong" * 10)
    assert fetch(server.url, tmp_path / "f.zip", SHA).read_bytes() == BODY


def test_wrong_checksum(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="checksum does not match the official one"):
        fetch(server.url, tmp_path / "f.zip", "md5:" + "0" * 32)
    assert not list(tmp_path.iterdir())


def test_failures_are_download_errors(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="404"):
        fetch(server.url.replace("file", "absent"), tmp_path / "f.zip")
    assert server.range_headers == [None], "a missing file is requested once"
    with pytest.raises(DownloadError, match="SEGUE_ARCHIVES"):
        fetch("http://127.0.0.1:9/f.zip", tmp_path / "f.zip")
    with pytest.raises(DownloadError, match="no download"):
        download(ArchiveSpec(("missing/dataset",)), "key", tmp_path, lambda text: None)
    assert issubclass(DownloadError, OSError)


def test_archive_from_published_files(server: Server, tmp_path: Path) -> None:
    messages: list[str] = []
    archived = ArchiveSpec(("x/a.txt",), files={"x/a.txt": (server.url, SHA), "x/b.txt": (server.url, None)})
    path = download(archived, "key", tmp_path, messages.append)
    assert path == tmp_path / "key.zip"
    assert Archive(path).read("x/a.txt") == BODY
    assert any("downloading 2 files" in text for text in messages)
