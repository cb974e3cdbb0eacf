"""Parse the addresses of trackers, such as ``mlflow:http://127.0.0.1:5000``.

======================================  ==============================================================
``auto``                                TensorBoard in the run's folder if it is installed
``tensorboard``, ``tensorboard:FOLDER``  events in the run's folder, or in a folder per run in ``FOLDER``
``mlflow``, ``mlflow:URI#EXPERIMENT``    a tracking URI of MLflow, and the name of the experiment
``wandb``, ``wandb:ENTITY/PROJECT``      a project of Weights & Biases; ``?mode=offline`` keeps it on disk
======================================  ==============================================================

What an address leaves out comes from the tool's environment variables.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from segue.core.config import suggest
from segue.core.messages import hide_passwords

__all__ = ["AUTO", "TrackerAddress", "check_address", "check_addresses", "check_tracking_uri", "parse_address"]

AUTO = "auto"
KINDS = ("tensorboard", "mlflow", "wandb")
DATABASES = ("postgresql", "mysql", "mssql")
EXPECTED_URI = (
    "a tracking URI of MLflow such as sqlite:///mlflow.db, http://127.0.0.1:5000 or postgresql://USER@HOST/DATABASE"
)
MODES = ("online", "offline", "disabled", "shared")
"""Values of ``WANDB_MODE``."""


@dataclass(frozen=True)
class TrackerAddress:
    """A parsed address; what is empty comes from the environment."""

    kind: str
    """``tensorboard``, ``mlflow`` or ``wandb``."""
    place: str = ""
    """A folder, a tracking URI, or ``PROJECT`` or ``ENTITY/PROJECT``."""
    experiment: str = ""
    """Experiment of MLflow."""
    mode: str = ""
    """Mode of Weights & Biases."""

    def __str__(self) -> str:
        """Return the address without passwords, for messages and records."""
        end = (f"#{self.experiment}" if self.experiment else "") + (f"?mode={self.mode}" if self.mode else "")
        return hide_passwords(f"{self.kind}{':' if self.place else ''}{self.place}{end}")


def check_address(text: str) -> str:
    """Return an address unchanged.

    Raises:
        ValueError: it is not one; the message says what was expected.
    """
    if text != AUTO:
        parse_address(text)
    return text


def check_addresses(texts: Sequence[str]) -> Sequence[str]:
    """Return addresses unchanged.

    Raises:
        ValueError: one is given twice.
    """
    if twice := [text for number, text in enumerate(texts) if text in texts[:number]]:
        raise ValueError(f"'{hide_passwords(twice[0])}' is given twice, expected different addresses")
    return texts


def parse_address(text: str) -> TrackerAddress:
    """Parse one address other than ``auto``.

    Raises:
        ValueError: an unknown kind, or a place that this kind does not have.
    """
    found = re.match(r"[a-z]*", text)
    kind = found[0] if found else ""
    rest = text[len(kind) :]
    if kind not in KINDS or (rest and rest[0] not in ":#?"):
        raise ValueError(_explain_kind(text, kind))
    place = rest.removeprefix(":")
    if rest.startswith(":") and not place:
        raise ValueError(f"nothing follows '{kind}:', expected {kind} alone or {_form(kind)}")
    if kind == "tensorboard":
        if rest[:1] in ("#", "?"):
            raise ValueError(f"expected {_form(kind)}")
        return TrackerAddress(kind, place)
    return _parse_mlflow(place) if kind == "mlflow" else _parse_wandb(place)


def _form(kind: str) -> str:
    forms = {
        "tensorboard": "tensorboard:FOLDER",
        "mlflow": f"mlflow:URI or mlflow:URI#EXPERIMENT, with {EXPECTED_URI}",
        "wandb": "wandb:PROJECT or wandb:ENTITY/PROJECT, which ?mode=offline may follow",
    }
    return forms[kind]


def _explain_kind(text: str, kind: str) -> str:
    if "://" in text:
        return f"expected an address that begins with {', '.join(KINDS)}; of an MLflow server: mlflow:{_host(text)}"
    return f"unknown tracker{suggest(kind, [AUTO, 'none', *KINDS])}; expected such as mlflow:http://127.0.0.1:5000"


def _host(text: str) -> str:
    return hide_passwords(text) if text.startswith(("http", "sqlite", *DATABASES)) else "http://127.0.0.1:5000"


def _parse_mlflow(text: str) -> TrackerAddress:
    place, separator, experiment = text.partition("#")
    if separator and not experiment.strip():
        raise ValueError("nothing follows '#', expected the name of an experiment")
    if place:
        check_tracking_uri(place)
    return TrackerAddress("mlflow", place, experiment)


def check_tracking_uri(uri: str) -> None:
    """Check a tracking URI of MLflow.

    Raises:
        ValueError: it has no scheme that MLflow knows, or lacks the host or the file.
    """
    if uri == "databricks":
        return
    scheme, separator, _ = uri.partition("://")
    kind = scheme.partition("+")[0]
    if not separator or kind not in ("http", "https", "sqlite", "file", "databricks", "uc", *DATABASES):
        raise ValueError(f"expected {EXPECTED_URI}")
    if kind == "sqlite":
        if len(uri) <= len("sqlite:///") or not uri.startswith(f"{scheme}:///"):
            raise ValueError("expected a file: sqlite:///mlflow.db, or sqlite:////absolute/path/mlflow.db")
        return
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        raise ValueError("expected a port between 0 and 65535 behind the host, as in http://127.0.0.1:5000") from None
    if kind in ("http", "https", *DATABASES) and (not parts.hostname or port == 0):
        raise ValueError(f"it names no host; expected {EXPECTED_URI}")


def _parse_wandb(text: str) -> TrackerAddress:
    place, _, query = text.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    mode = options.pop("mode", "")
    if options or (query and mode not in MODES):
        raise ValueError(f"got '?{hide_passwords(query)}', expected ?mode= and one of {', '.join(MODES)}")
    if place and not re.fullmatch(r"([\w.-]+/)?[^/\\#?%:]{1,128}", place):
        raise ValueError(
            f"expected {_form('wandb')}; a project has at most 128 characters without / \\ # ? % :; "
            "a server of your own is named by the variable WANDB_BASE_URL"
        )
    return TrackerAddress("wandb", place, mode=mode)
