"""Encode the text of items in memory, from settings by name.

This is the counterpart of the settings group ``text`` of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segue.core.config import parse
from segue.core.memory_check import check_not_forked
from segue.core.run import Run
from segue.core.types import Dataset
from segue.data import load
from segue.experiment.arguments import check_device, check_seed
from segue.experiment.inference.argument_checks import FilePath, check_arguments
from segue.features.text.cache import cache_folder
from segue.features.text.encode_items import add_text_features
from segue.features.text.settings import TextSettings

__all__ = ["add_text", "encode_text"]

Log = Callable[[str], None]


@check_arguments(skip=("columns", "seed"))
def add_text(
    data: Any,
    columns: str | Sequence[str],
    *,
    encoder: str = "transformer",
    name: str = "text_vector",
    seed: int = 0,
    device: str = "cpu",
    cache: FilePath | None = None,
    progress: bool = False,
    log: Log | None = None,
    **options: Any,
) -> Dataset:
    """Encode the text of items as vectors, for models that read item features.

    Args:
        data: a dataset, or anything that :func:`segue.load` reads.
        columns: item features that hold text, such as ``["title", "plot"]``; the texts of an item are joined.
        encoder: ``transformer`` (any BERT-family model, MiniLM by default), ``tfidf``, ``word2vec`` or
            ``word_vectors``; ``segue encoders`` lists them with their settings.
        name: name of the item feature with the vectors.
        seed: determines the random choices of encoders that learn from the texts.
        device: a torch device, such as ``cuda``.
        cache: folder of cached vectors; ``None``: ``text`` under ``SEGUE_HOME``, or in the platform's cache folder;
            ``"none"``: nothing is cached.
        progress: whether to draw a progress bar.
        log: receives what was encoded, such as ``print``.
        options: settings of the encoder by name, such as ``pooling="cls"``.

    Returns:
        A dataset with the vectors, null for items without text.

    Raises:
        ValueError: a column is missing or holds no text, a setting is unknown, or the encoder is not installed.
    """
    check_not_forked("use a dataset")
    values = {"columns": columns, "encoder": encoder, "name": name, "options": options}
    run = Run(check_seed(seed), device=check_device(device), show_progress=progress)
    folder = cache_folder() if cache is None else None if str(cache) == "none" else Path(cache).expanduser()
    return encode_text(data if isinstance(data, Dataset) else load(data), values, run, folder, log)


def encode_text(
    data: Dataset, settings: Mapping[str, Any], run: Run, cache: Path | None, log: Log | None = None
) -> Dataset:
    """Encode text of ``data`` with settings by name, at least ``columns``.

    Args:
        cache: folder of cached vectors; ``None``: nothing is cached.

    Raises:
        ValueError: the settings are invalid or name no column, or the text cannot be encoded.
    """
    wanted = parse(TextSettings, settings, "text")
    if not wanted.columns:
        raise ValueError("text.columns: got none, expected item features with text, such as columns=['title']")
    return add_text_features(data, wanted, run, cache, log)
