"""Check the folder of a pretrained language model.

Nothing is downloaded, no code in the folder is executed, and no weights are read here; see
:mod:`segue.nn.language_models.language_model`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from segue.core.files import read_json, sha256

__all__ = ["LanguageModelFolder", "find_language_model"]

SETTING = "model.language_model"
WEIGHTS = "*.safetensors"
UNSAFE_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt")
"""Weights in the format pickle, which can execute code."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "*.model", "chat_template.*")
"""Files that determine the tokens and the chat template, of which a folder has some."""
CAUSAL = ("ForCausalLM", "LMHeadModel")
SEQ2SEQ = ("ForConditionalGeneration",)
"""Ends of the names of architectures."""
EXPECTED = "expected the folder of a language model of transformers: config.json, *.safetensors and tokenizer.json"


@dataclass(frozen=True)
class LanguageModelFolder:
    """The folder of a language model, of which only the configuration is read."""

    path: Path
    is_seq2seq: bool
    """Whether it is an encoder-decoder; otherwise it is causal."""

    def digest(self) -> bytes:
        """Return the SHA-256 of all files that change scores, 32 bytes."""
        names = {path for pattern in ("config.json", WEIGHTS, *TOKENIZER_FILES) for path in self.path.glob(pattern)}
        stats = [(path, path.stat()) for path in sorted(names)]
        return _hash_files(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))


@cache
def _hash_files(files: tuple[tuple[Path, int, int], ...]) -> bytes:
    """Hash files given by path, size and time of modification."""
    lines = "\n".join(f"{path.name} {sha256(path)}" for path, _, _ in files)
    return hashlib.sha256(lines.encode()).digest()


def find_language_model(folder: str) -> LanguageModelFolder:
    """Check that ``folder`` contains a causal or encoder-decoder language model.

    Raises:
        ValueError: it does not; the message is one line that says what was expected.
    """
    path = Path(folder).expanduser()
    where = f"{SETTING}: {path}"
    if not path.is_dir():
        raise ValueError(f"{where}: is not a folder, {EXPECTED}")
    if not (path / "config.json").is_file():
        raise ValueError(f"{where}: has no config.json, {EXPECTED}")
    try:
        config = read_json(path / "config.json")
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).splitlines()[0]}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{where}/config.json: got {type(config).__name__}, expected a JSON object")
    is_seq2seq = _is_seq2seq(config, where)
    if not any(path.glob(WEIGHTS)):
        unsafe = sorted(one.name for pattern in UNSAFE_WEIGHTS for one in path.glob(pattern))
        found = f"only {unsafe[0]}, which can execute code and is not read" if unsafe else "no weights"
        raise ValueError(
            f"{where}: has {found}; expected {WEIGHTS}, as save_pretrained(..., safe_serialization=True) writes them"
        )
    if not any(any(path.glob(name)) for name in ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")):
        raise ValueError(f"{where}: has no tokenizer, expected tokenizer.json")
    return LanguageModelFolder(path, is_seq2seq)


def _is_seq2seq(config: Mapping[str, Any], where: str) -> bool:
    """Return whether a configuration is that of an encoder-decoder.

    Raises:
        ValueError: it is that of no language model.
    """
    names = config.get("architectures")
    for name in names if isinstance(names, list) else ():
        if str(name).endswith(SEQ2SEQ):
            return True
        if str(name).endswith(CAUSAL):
            return False
    raise ValueError(
        f"{where}/config.json: architectures: got {names!r}, expected a causal language model (...ForCausalLM, "
        "...LMHeadModel) or an encoder-decoder (...ForConditionalGeneration)"
    )
