"""Define the interface of text encoders, and find them by name.

An encoder is one file in :mod:`segue.features.text.encoders`; its key is the name of the file, and its class is the
first name in ``__all__``. It is built from its settings, learns from the texts of the catalog if it has anything to
learn, and then maps any text to a vector. What it has learned is kept as named arrays, so that a served model encodes
new items as the items of its training were encoded.

Shapes: N texts, D numbers per vector.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from segue.core.config import Settings, parse
from segue.core.model import StateArrays
from segue.core.registry import keys, load_module
from segue.core.run import Run
from segue.core.state import fingerprint

__all__ = [
    "FileOrPackage",
    "TextEncoder",
    "Vectors",
    "create_encoder",
    "encoder_class",
    "encoder_keys",
    "encoder_module",
]


def _make_absolute(source: str) -> str:
    """Return the absolute path of an existing file or folder.

    Other texts, such as names of packages, are unchanged.
    """
    path = Path(source).expanduser()
    return str(path.resolve()) if source and path.exists() else source


FileOrPackage = Annotated[str, AfterValidator(_make_absolute)]
"""A path, or the name of an installed package.

An existing path is stored as an absolute one, so that a saved model finds it from any working directory.
"""

Vectors = NDArray[np.float32]
"""``(N, D)``; a row of NaN is a text without a vector."""

ENCODERS = "segue.features.text.encoders"
"""Package with one file per encoder."""

PLUGINS = "segue.encoders"
"""Entry-point group for the modules of encoders in other packages."""


class TextEncoder(ABC):
    """Base class of text encoders, which map texts to vectors."""

    Config: ClassVar[type[Settings]]
    speed_settings: ClassVar[frozenset[str]] = frozenset()
    """Settings that do not change the vectors."""

    config: Any
    device: str = "cpu"
    """Device of torch, for encoders that use it."""

    def __init__(self, config: Any) -> None:
        """Create an encoder with settings ``config``, an instance of ``Config``."""
        self.config = config

    def fit(self, texts: Sequence[str], run: Run) -> None:
        """Learn from the texts of a catalog; pretrained encoders learn nothing.

        Args:
            run: provides random streams and progress.

        Raises:
            ValueError: the texts are not enough to learn from.
        """
        return

    @property
    @abstractmethod
    def size(self) -> int:
        """Length of a vector, D; known after :meth:`fit` or :meth:`restore`."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one vector per text, ``(N, D)``.

        The vector of a text does not depend on the other texts. A text without a known word gets a row of NaN.
        """

    def arrays(self) -> StateArrays:
        """Return what was learned as named arrays; pretrained weights are not included."""
        return {}

    def restore(self, arrays: StateArrays) -> None:
        """Load what :meth:`arrays` returned.

        Raises:
            ValueError: an array is missing or has another shape.
        """
        return

    def source_digest(self) -> str:
        """Return a hash of the files that vectors depend on, such as pretrained weights."""
        return ""

    @property
    def digest(self) -> str:
        """Hash of everything that determines the vectors, in hexadecimal.

        This is the key of the cache: class, settings, learned arrays, and files.
        """
        parts = [
            type(self).__module__.rpartition(".")[2],
            self.config.model_dump(mode="json", exclude=set(self.speed_settings)),
            fingerprint(self.arrays()),
            self.source_digest(),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def encoder_keys() -> list[str]:
    """List the keys of all encoders; nothing is imported."""
    return keys(ENCODERS, PLUGINS)


def encoder_class(key: str) -> type[TextEncoder]:
    """Import the encoder class of ``key``.

    Raises:
        ValueError: the key is unknown; the message suggests the closest known one.
    """
    module = encoder_module(key)
    return cast("type[TextEncoder]", getattr(module, module.__all__[0]))


def encoder_module(key: str) -> ModuleType:
    """Import the module of ``key``; see :func:`encoder_class`."""
    return load_module(ENCODERS, key, "text.encoder", PLUGINS)


def create_encoder(key: str, settings: Mapping[str, Any] | None = None) -> TextEncoder:
    """Create the encoder ``key`` with settings by name and defaults for the others.

    Raises:
        ValueError: the key or a setting is unknown, or a value is invalid; lists every error.
    """
    kind = encoder_class(key)
    return kind(parse(kind.Config, settings or {}, "text.options"))
