"""Logs: one JSON object a line on standard error, or plain text; without queries, keys and what was sent.

What was sent is not logged by anybody here; the filter below is for libraries, and for slips.
"""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

from segue.serving.errors import track

__all__ = ["Discreet", "start_logs"]

QUERY = re.compile(r"(/[^\s?\"']*)\?[^\s\"']+")
SECRET = re.compile(r"(segue_[0-9a-f]{8}_)[A-Za-z0-9_-]{8,}")
USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"}


class Discreet(logging.Filter):
    """Cuts queries and secrets out of what is logged, and the texts of exceptions, which may hold what was sent."""

    def filter(self, record: logging.LogRecord) -> bool:
        """All pass, cut."""
        record.msg, record.args = _cut(record.getMessage()), None
        if record.exc_info and record.exc_info[1] is not None:
            record.__dict__["traceback"] = track(record.exc_info[1])
        record.exc_info, record.exc_text = None, None
        for name in vars(record).keys() - USUAL:
            value = getattr(record, name)
            if isinstance(value, str):
                setattr(record, name, _cut(value))
        return True


class _Text(logging.Formatter):
    """``2026-01-02T03:04:05Z INFO segue.access GET /v1/items 200 ms=1.2 key=1f2e3d4c``."""

    def format(self, record: logging.LogRecord) -> str:
        more = {name: value for name, value in vars(record).items() if name not in USUAL and value is not None}
        track_ = more.pop("traceback", None)
        words = [_moment(record), record.levelname, record.name, record.getMessage()]
        line = " ".join([*words, *(f"{name}={value}" for name, value in more.items())])
        if not line.isprintable():
            line = "".join(char if char.isprintable() else "\ufffd" for char in line)
        return line if track_ is None else f"{line}\n{track_}"


def start_logs(form: Literal["json", "text"] = "json", level: str = "INFO", to: TextIO | None = None) -> None:
    """Let every logger of this process write to standard error, in one form.

    To be called once, before uvicorn starts with ``log_config=None`` and ``access_log=False``.

    Raises:
        ValueError: another form or level, or python-json-logger is not installed.
    """
    levels = ("DEBUG", "INFO", "WARNING", "ERROR")
    if level.upper() not in levels:
        raise ValueError(f"log level: got '{level}', expected one of {', '.join(levels)}")
    handler = logging.StreamHandler(sys.stderr if to is None else to)
    handler.setFormatter(_Text() if form == "text" else _json())
    handler.addFilter(Discreet())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel("WARNING")
    for name in ("segue", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.error").setLevel("NOTSET")  # as its parent
    logging.getLogger("uvicorn.access").setLevel("CRITICAL")  # it tells addresses and queries


def _json() -> logging.Formatter:
    try:
        from pythonjsonlogger.json import JsonFormatter
    except ModuleNotFoundError:
        raise ValueError("python-json-logger is not installed: pip install 'segue[serve]'") from None

    class Json(JsonFormatter):
        def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
            return _moment(record)

    return Json(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        reserved_attrs=[*USUAL, "args"],
    )


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cut(text: str) -> str:
    if "?" in text:
        text = QUERY.sub(r"\1", text)
    return SECRET.sub(r"\1***", text) if "segue_" in text else text
