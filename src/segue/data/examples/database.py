"""Read a table from a database: the result of a query that cannot write."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl

from segue.data.examples.table import ExampleTable
from segue.data.raw_log import SourceLocation

__all__ = ["hide_password", "is_database", "is_query", "read_database"]

MAX_NAME = 255
"""Bytes of the name of a file, at most."""

BATCH_ROWS = 50_000
"""Rows that are fetched and converted at a time: as Python objects, a row takes about ten times the memory."""

SQLITE, POSTGRESQL = "sqlite:///", ("postgresql://", "postgres://")


def is_database(address: str) -> bool:
    """Check whether an address has the scheme of a database."""
    return "://" in address and not Path(address).exists()


def is_query(text: object) -> bool:
    """Check whether a value is the text of a query, not a path or a table."""
    if not isinstance(text, str) or not re.match(r"\s*(select|with|table|values)[\s(]+\S", text, re.IGNORECASE):
        return False
    return len(text.encode()) > MAX_NAME or not Path(text).exists()


def hide_password(address: str) -> str:
    """Return an address without the password, which is not to be stored.

    The client of PostgreSQL also reads it from the variable ``PGPASSWORD`` and the file ``~/.pgpass``.
    """
    if not is_database(address):
        return address
    address = re.sub(r"(://[^:/@?]*):[^@/]*@", r"\1@", address)
    return re.sub(r"([?&])password=[^&]*&?", r"\1", address).rstrip("?&")


def read_database(address: str, query: str | None) -> ExampleTable:
    """Read the result of a query.

    Args:
        address: ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/DATABASE``.

    Raises:
        ValueError: the kind of database is unknown, its driver is not installed, the database cannot be opened, or the
            query fails; the message does not contain the address, which may have a password.
    """
    scheme = address.partition("://")[0]
    if not address.startswith((SQLITE, *POSTGRESQL)):
        raise ValueError(f"data: unknown kind of database '{scheme}', expected sqlite:///FILE or postgresql://...")
    if query is None or not query.strip():
        raise ValueError(f"query: got none for the database ({scheme}), expected SQL such as SELECT * FROM impressions")
    frame = _read_sqlite(address, query) if scheme == "sqlite" else _read_postgresql(address, query)
    return ExampleTable(frame, SourceLocation(f"{scheme} query '{_shorten(query)}'", 1, "row"))


def _shorten(query: str) -> str:
    words = " ".join(query.split())
    return words if len(words) <= 60 else f"{words[:60]}..."


def _read_sqlite(address: str, query: str) -> pl.DataFrame:
    path = Path(address.removeprefix(SQLITE)).expanduser()
    if not path.is_file():
        raise ValueError(f"data: no such file: {path}, expected an SQLite database")
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        connection.set_authorizer(_refuse_attach)
        return _fetch(connection.cursor(), query, sqlite3.Error)


def _refuse_attach(action: int, *_names: str | None) -> int:
    """Refuse ATTACH, which would create a missing file."""
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK


def _read_postgresql(address: str, query: str) -> pl.DataFrame:
    try:
        import psycopg
        from psycopg.types.numeric import NumericLoader
    except ModuleNotFoundError:
        raise ValueError("psycopg is not installed: pip install 'segue[postgresql]'") from None

    class FiniteNumericLoader(NumericLoader):
        def load(self, data: Any) -> Decimal:
            value = super().load(data)
            if not value.is_finite():  # Polars would panic
                raise ValueError(f"got the numeric value {value}, expected a finite one or float8")
            return value

    host = urlsplit(address).hostname or "the server"
    try:
        connection = psycopg.connect(address)
    except psycopg.Error as error:  # its message contains no password
        raise ValueError(f"data: cannot connect to {host}: {str(error).splitlines()[0]}") from None
    with closing(connection):
        _check_statement(connection, query)
        connection.read_only = True
        connection.adapters.register_loader("numeric", FiniteNumericLoader)
        connection.execute("SET cursor_tuple_fraction = 1")  # all rows will be read: plan for the last, not the first
        with closing(connection.cursor("segue")) as cursor:  # a named cursor leaves the rows at the server
            return _fetch(cursor, query, psycopg.Error)


def _check_statement(connection: Any, query: str) -> None:
    """Let the server check that a query is a single statement.

    A named cursor would ignore all statements but the first.

    Raises:
        ValueError: the query is no single statement, or names something unknown.
    """
    encoding = connection.info.encoding
    found = connection.pgconn.prepare(b"", query.encode(encoding))
    if failure := found.error_message.decode(encoding, errors="replace"):
        reason = failure.splitlines()[0].removeprefix("ERROR:").strip()
        raise ValueError(f"query '{_shorten(query)}' failed: {reason}")


def _fetch(cursor: Any, query: str, failure: type[Exception]) -> pl.DataFrame:
    """Read all rows of a query in batches.

    Columns whose type differs between batches get the common type.
    """
    try:
        batches = pl.read_database(query, cursor, iter_batches=True, batch_size=BATCH_ROWS, infer_schema_length=None)
        frames = [_without_objects(frame) for frame in batches]
        frame = pl.concat(frames, how="vertical_relaxed") if frames else pl.DataFrame()
    except failure as error:
        raise ValueError(f"query '{_shorten(query)}' failed: {str(error).splitlines()[0]}") from None
    except pl.exceptions.UnsuitableSQLError as error:
        raise ValueError(f"query '{_shorten(query)}': {str(error).splitlines()[0]}, expected SELECT ...") from None
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise ValueError(
            f"query '{_shorten(query)}': {str(error).splitlines()[0]}; expected columns of one type each, cast others"
        ) from None
    if not len(frame):
        raise ValueError(f"query '{_shorten(query)}': got no rows, expected some")
    return frame


def _without_objects(frame: pl.DataFrame) -> pl.DataFrame:
    """Convert values of types that Polars does not have to text."""
    objects = [column.name for column in frame if column.dtype == pl.Object]  # such as uuid.UUID
    texts = {name: [None if one is None else str(one) for one in frame[name]] for name in objects}
    return frame.with_columns(pl.Series(name, cells, dtype=pl.String) for name, cells in texts.items())
