"""Logging to standard error: one JSON object per line, or plain text.

Log records contain no URL queries, secrets or request content. The service itself logs no request content; the filter
below covers libraries and mistakes.
"""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

from segue.serving.errors import format_traceback

__all__ = ["RedactingFilter", "configure_logging"]

QUERY = re.compile(r"(/[^\s?\"']*)\?[^\s\"']+")
SECRET = re.compile(r"(segue_[0-9a-f]{8}_)[A-Za-z0-9_-]{8,}")
STANDARD_ATTRIBUTES = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"}


class RedactingFilter(logging.Filter):
    """Removes URL queries, secrets and exception messages from log records.

    Exception messages may contain request content.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the record and accept it."""
        record.msg, record.args = _redact(record.getMessage()), None
        if record.exc_info and record.exc_info[1] is not None:
            record.__dict__["traceback"] = format_traceback(record.exc_info[1])
        record.exc_info, record.exc_text = None, None
        for name in vars(record).keys() - STANDARD_ATTRIBUTES:
            value = getattr(record, name)
            if isinstance(value, str):
                setattr(record, name, _redact(value))
        return True


class _TextFormatter(logging.Formatter):
    """Formatter for plain text.

    Example: ``2026-01-02T03:04:05Z INFO segue.access GET /v1/items 200 ms=1.2 key=1f2e3d4c``.
    """

    def format(self, record: logging.LogRecord) -> str:
        extra = {
            name: value for name, value in vars(record).items() if name not in STANDARD_ATTRIBUTES and value is not None
        }
        traceback = extra.pop("traceback", None)
        words = [_timestamp(record), record.levelname, record.name, record.getMessage()]
        line = " ".join([*words, *(f"{name}={value}" for name, value in extra.items())])
        if not line.isprintable():
            line = "".join(char if char.isprintable() else "\ufffd" for char in line)
        return line if traceback is None else f"{line}\n{traceback}"


def configure_logging(
    log_format: Literal["json", "text"] = "json", level: str = "INFO", stream: TextIO | None = None
) -> None:
    """Make all loggers of this process write to standard error in one format.

    Call it once, before uvicorn starts with ``log_config=None`` and ``access_log=False``.

    Raises:
        ValueError: an unknown level, or python-json-logger is not installed.
    """
    levels = ("DEBUG", "INFO", "WARNING", "ERROR")
    if level.upper() not in levels:
        raise ValueError(f"log level: got '{level}', expected one of {', '.join(levels)}")
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(_TextFormatter() if log_format == "text" else _json_formatter())
    handler.addFilter(RedactingFilter())
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # not shown, and slow to determine
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel("WARNING")
    for name in ("segue", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.error").setLevel("NOTSET")  # inherit from its parent
    logging.getLogger("uvicorn.access").setLevel("CRITICAL")  # it would log paths and queries


def _json_formatter() -> logging.Formatter:
    try:
        from pythonjsonlogger.json import JsonFormatter
    except ModuleNotFoundError:
        raise ValueError("python-json-logger is not installed: pip install 'segue[serve]'") from None

    class UtcJsonFormatter(JsonFormatter):
        def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
            return _timestamp(record)

    return UtcJsonFormatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        reserved_attrs=[*STANDARD_ATTRIBUTES, "args"],
    )


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _redact(text: str) -> str:
    if "?" in text:
        text = QUERY.sub(r"\1", text)
    return SECRET.sub(r"\1***", text) if "segue_" in text else text
