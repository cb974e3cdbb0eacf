"""Files of an SQLite store: identity, size, and leftover bytes.

SQLite keeps writing to a file that was deleted or replaced, so that everything stored after that is lost at the end of
the process. :meth:`StoreFile.check` recognizes it by the device and inode of the file, ``-wal`` and ``-shm``. If the
file or a folder above it is a symbolic link, the path is checked both with and without following it. It also checks
that the file has one name only: processes that open it by different hard links have different ``-wal`` files and
overwrite each other's changes.

``secure_delete`` overwrites deleted rows and free pages with zeros. It does not cover the gap of a b-tree page, between
the cell pointers and the cells: when SQLite rebuilds a page (``rebuildPage`` in ``btree.c``), older copies of cells
remain there. :meth:`StoreFile.zero_gaps` overwrites them. See https://www.sqlite.org/fileformat2.html#b_tree_pages.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from segue.serving.stores.store import STORE_LINKED, StoreError

__all__ = ["StoreFile"]

READ_BYTES = 4_194_304
"""Bytes read at once while looking for old bytes; a multiple of all page sizes."""
BTREE_HEADER_BYTES = {2: 12, 5: 12, 10: 8, 13: 8}
"""Size of the header of a b-tree page by its type, the first byte. Other pages begin with a page number."""
MAX_PAGES = 0x02000000
"""Number of pages from which the first byte of other pages may look like the type of a b-tree page; 137 GB."""

_descriptors: dict[tuple[int, int], list[int]] = {}  # by device and inode; the first one is used
_n_users: dict[tuple[int, int], int] = {}
_lock = threading.Lock()


class StoreFile:
    """File of a store and the files that SQLite keeps next to it.

    A descriptor stays open until :meth:`close`. Closing a descriptor releases all locks of this process on the file,
    including those of SQLite, so the objects for one file share a descriptor.

    Args:
        path: main file, created if it does not exist and readable by its owner only; may be a symbolic link.

    Attributes:
        path: the file without symbolic links. As SQLite does, the other files are beside it.

    Raises:
        ValueError: the folder does not exist.
        StoreError: the file cannot be read, written or created, or has hard links.
    """

    def __init__(self, path: Path) -> None:
        original_path = str(path.absolute())
        try:
            self.path = path.resolve()
            has_folder = self.path.parent.is_dir()
        except RuntimeError:
            raise ValueError(f"store: {path}: symbolic links that lead to each other") from None
        except OSError as error:
            raise ValueError(f"store: {path}: {error.strerror}") from None
        if not has_folder:
            raise ValueError(f"store: {self.path.parent}: no such folder")
        self._path = str(self.path)
        try:
            self._descriptor, self._identity = _open_descriptor(self._path)
        except OSError as error:
            raise StoreError(f"store: {path}: cannot be opened for writing: {error.strerror}") from None
        self._identities = [(self._path, self._identity)]
        if original_path != self._path:  # a restart follows the link again, which may lead elsewhere by then
            self._identities.append((original_path, self._identity))
        self._is_watched = self._is_closed = False
        if os.fstat(self._descriptor).st_nlink > 1:
            self.close()
            raise StoreError(_describe_links(self._path))

    def watch(self) -> None:
        """Begin to check ``-wal`` and ``-shm``, too, and that the file is not empty.

        A connection must keep the files in existence from now on.
        """
        self._is_watched = True
        for path in (f"{self._path}-wal", f"{self._path}-shm"):
            try:
                status = os.stat(path)
            except FileNotFoundError:  # not in WAL mode
                continue
            self._identities.append((path, (status.st_dev, status.st_ino)))

    def check(self) -> None:
        """Check that the files still are those that were opened.

        The check takes about 5 microseconds. It succeeds again if the same files are put back.

        Raises:
            StoreError: a file was deleted, replaced or emptied, or the file has hard links.
        """
        for path, identity in self._identities:
            try:
                status = os.stat(path)
            except OSError as error:
                problem = "was deleted or moved" if error.errno == errno.ENOENT else f"fails: {error.strerror}"
                raise self._error(path, problem) from None
            if (status.st_dev, status.st_ino) != identity:
                raise self._error(path, "was replaced")
            if status.st_nlink > 1 and identity == self._identity:
                raise StoreError(_describe_links(path))
            if self._is_watched and not status.st_size and path == self._path:
                raise self._error(path, "was emptied")

    def size_bytes(self) -> int:
        """Return the size of the main file."""
        return os.fstat(self._descriptor).st_size

    def wal_bytes(self) -> int:
        """Return the size of the ``-wal`` file; 0 if it does not exist."""
        try:
            return os.stat(f"{self._path}-wal").st_size
        except FileNotFoundError:
            return 0

    def pages_with_gaps(self) -> Iterator[int]:
        """Iterate over the b-tree pages whose gap is not zero; the first page is 0.

        Raises:
            StoreError: the file is too large, or the store was closed.
        """
        size = self._page_bytes()
        n_pages = self.size_bytes() // size
        if n_pages >= MAX_PAGES:
            raise StoreError(
                f"sqlite: got a file of {n_pages} pages, expected fewer than {MAX_PAGES} for erasing bytes"
            )
        zeros = bytes(size)
        for start in range(0, n_pages, READ_BYTES // size):
            if self._is_closed:
                raise StoreError("the store is closed")
            data = os.pread(self._descriptor, READ_BYTES, start * size)
            for index in range(len(data) // size):
                begin, end = _find_gap(data, index * size, start + index, size)
                if data[begin:end] != zeros[: end - begin]:
                    yield start + index

    def zero_gaps(self, pages: Sequence[int]) -> None:
        """Overwrite the gaps of pages with zeros.

        The caller holds SQLite's write lock, and the ``-wal`` file is empty, so no other connection writes the main
        file, and it has the newest version of every page. Readers do not read gaps.
        """
        size = self._page_bytes()
        for page in pages:
            begin, end = _find_gap(os.pread(self._descriptor, size, page * size), 0, page, size)
            os.pwrite(self._descriptor, bytes(end - begin), page * size + begin)

    def sync(self) -> None:
        """Write the main file to the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the descriptor, after all connections of this process."""
        if not self._is_closed:
            self._is_closed = True
            _close_descriptor(self._identity)

    def _page_bytes(self) -> int:
        (size,) = struct.unpack(">H", os.pread(self._descriptor, 2, 16))
        return 65_536 if size == 1 else int(size)

    def _error(self, path: str, problem: str) -> StoreError:
        return StoreError(
            f"sqlite: {path} {problem} while the store was open; put back the files that were open, or stop the "
            "service, restore the store and start it again"
        )


def _describe_links(path: str) -> str:
    return (
        f"sqlite: {path}: {STORE_LINKED}, and processes that open it by different names would destroy each other's "
        f"events; delete the other name (find / -xdev -samefile {path}), and back up with sqlite3 {path} '.backup FILE'"
    )


def _find_gap(data: bytes, offset: int, page: int, size: int) -> tuple[int, int]:
    """Return the begin and end of the gap of a page in ``data``.

    Both are equal if the page has none.

    Args:
        offset: position of the page in ``data``.
        page: number of the page in the file; page 0 begins with the file's header.
        size: size of a page in bytes.
    """
    header = offset + (100 if page == 0 else 0)
    header_bytes = BTREE_HEADER_BYTES.get(data[header])
    if header_bytes is None:
        return offset, offset
    n_cells, cells = struct.unpack_from(">HH", data, header + 3)
    begin, end = header + header_bytes + 2 * n_cells, offset + (cells or 65_536)
    return (begin, end) if begin < end <= offset + size else (offset, offset)


def _open_descriptor(path: str) -> tuple[int, tuple[int, int]]:
    with _lock:
        try:
            status = os.stat(path)
        except FileNotFoundError:
            status = None
        identity = None if status is None else (status.st_dev, status.st_ino)
        if identity is None or identity not in _descriptors:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
            status = os.fstat(descriptor)
            identity = status.st_dev, status.st_ino
            _descriptors.setdefault(identity, []).append(descriptor)
        _n_users[identity] = _n_users.get(identity, 0) + 1
        return _descriptors[identity][0], identity


def _close_descriptor(identity: tuple[int, int]) -> None:
    with _lock:
        _n_users[identity] -= 1
        if not _n_users[identity]:
            del _n_users[identity]
            for descriptor in _descriptors.pop(identity):
                os.close(descriptor)
