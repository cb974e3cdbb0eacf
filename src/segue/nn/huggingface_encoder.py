"""Architectures of the package transformers, built from their configuration; weights are never downloaded.

The one file that imports transformers, and only when an encoder is built, as that takes seconds.

Shapes: B sequences, L positions, D width.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Architecture"]

NAMES = {
    "width": ("hidden_size", "d_model"),
    "layers": ("num_hidden_layers", "num_layers"),
    "heads": ("num_attention_heads", "num_heads"),
}
"""What configurations call a setting."""
INNER = ("intermediate_size", "d_inner", "n_inner", "ffn_dim", "hidden_dim", "dff")
"""Widths inside a layer: they keep their proportion to the width."""
HEAD = ("head_dim", "d_head")
"""Widths of a head."""
TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
SPARE = 8
"""Rows of the table of tokens, which is not used; and positions beyond those read, as some are counted from 2."""
NOT_OF_ACTIVATIONS = ("layer", "classifier", "summary", "pooler")
"""Words in the names of dropouts that are not of the encoder's activations."""
SPECIAL: Mapping[str, Mapping[str, Any]] = {
    "mamba2": {"n_groups": 1},
    "xlstm": {"mode": "train", "autocast_kernel_dtype": "float32"},
}
CHANGED = 1e-5
"""Share of the change where something was changed from which another place counts as changed too."""


class Architecture(nn.Module):
    """An encoder of vectors, causal or in both directions, that was seen to be so.

    Args:
        name: ``model_type`` of the architecture, such as ``gpt2``.
        options: further fields of its configuration; they win over what is derived here.
        both_ways: whether every position has to read those after it, or must not.

    Raises:
        ValueError: transformers is not installed, an unknown name or option, an architecture that does not read a
            sequence of vectors, or one that reads in other directions than it has to.
    """

    def __init__(
        self,
        name: str,
        width: int,
        layers: int,
        heads: int,
        max_length: int,
        dropout: float,
        options: Mapping[str, Any],
        both_ways: bool,
    ) -> None:
        super().__init__()
        self.name = name
        self.both_ways = both_ways
        given = {"width": width, "layers": layers, "heads": heads}
        with _quiet():
            fields = _fields(name, given, max_length, dropout, options, both_ways)
            try:
                encoder = _build(name, fields)
                self.encoder = encoder
                self.chunk = int(encoder.config.chunk_size) if name == "xlstm" else 1  # it takes full chunks only
                self.check(width, max_length)
            except _Unfit:
                raise
            except Exception as error:  # whatever the package raises is about what it was asked to build
                raise ValueError(
                    f"model.architecture: '{name}' cannot encode a sequence of vectors with "
                    f"{', '.join(f'{key}={value}' for key, value in given.items())} and options {dict(options)}: "
                    f"{type(error).__name__}: {error}"
                ) from None

    def forward(self, x_BLD: Tensor, lengths_B: Tensor) -> Tensor:
        """``(B, L, D)`` the last hidden states; reading both ways, nothing beyond ``lengths`` is read."""
        length = x_BLD.shape[1]
        x_BLD = F.pad(x_BLD, (0, 0, 0, -length % self.chunk))
        places_L = torch.arange(x_BLD.shape[1], device=x_BLD.device)
        masks = {}
        if self.both_ways:
            masks["attention_mask"] = (places_L < lengths_B[:, None]).long()
        elif self.name == "xlnet":
            masks["perm_mask"] = (places_L > places_L[:, None]).float().expand(len(x_BLD), -1, -1)
        with _quiet():
            hidden_BLD: Tensor = self.encoder(inputs_embeds=x_BLD, **masks).last_hidden_state
        return hidden_BLD[:, :length]

    @torch.no_grad()
    def check(self, width: int, max_length: int) -> None:
        """Change the second half of a sequence, and see whether the first half minds."""
        self.eval()
        length = max(2, max_length)
        half = length // 2
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            x_BLD = torch.randn(1, length, width)
            other_BLD = torch.cat([x_BLD[:, :half], 3.0 * torch.randn(1, length - half, width)], 1)
            whole = self._moved(x_BLD, other_BLD, half, length)
            hidden = self._moved(x_BLD, other_BLD, half, half) if self.both_ways else 0.0
        self.train()
        if self.both_ways and whole <= CHANGED:
            raise _Unfit(
                f"model.architecture: '{self.name}' reads from the first event to the last: a change of later ones "
                "changed nothing before them; objective=cloze needs one that reads in both directions, such as bert, "
                'or as many do with options={"is_causal": false}'
            )
        if hidden > CHANGED:
            raise _Unfit(
                f"model.architecture: '{self.name}' reads beyond the end of a history: a change there changed what "
                "it says of the history, mask or not; expected one that heeds attention_mask, such as bert"
            )
        if not self.both_ways and whole > CHANGED:
            raise _Unfit(
                f"model.architecture: '{self.name}' reads ahead: a change of later events changed what it says of "
                "those before them, so it would see the next item; expected objective=cloze, or a causal one, such "
                "as gpt2"
            )

    def _moved(self, x_BLD: Tensor, other_BLD: Tensor, half: int, used: int) -> float:
        """Greatest change in the first half, as a share of that in the second."""
        lengths_B = torch.tensor([used])
        one, other = self(x_BLD, lengths_B), self(other_BLD, lengths_B)
        if one.shape != x_BLD.shape:
            raise ValueError(f"hidden states have shape {tuple(one.shape)} for vectors of {tuple(x_BLD.shape)}")
        change_BL = (one - other).abs().amax(-1)
        return float(change_BL[:, :half].max() / change_BL[:, half:].max().clamp_min(1e-12))


class _Unfit(ValueError):
    """Built, but reads in other directions than it has to."""


def _fields(
    name: str, given: Mapping[str, int], max_length: int, dropout: float, options: Mapping[str, Any], both_ways: bool
) -> dict[str, Any]:
    """The fields of the configuration that differ from the architecture's own."""
    default = _configuration(name)
    # is_causal is of no class, and heeded by most
    known = {*default.to_dict(), *getattr(default, "attribute_map", {}), "is_causal"}
    fields: dict[str, Any] = {}
    for setting, value in given.items():
        if field := next((field for field in NAMES[setting] if field in known), None):
            fields[field] = value
    proportion = given["width"] / next((getattr(default, field) for field in NAMES["width"] if field in known), 1)
    for field in known.intersection(INNER):
        if isinstance(inner := getattr(default, field), int):
            fields[field] = max(1, round(inner * proportion))
    for field in known.intersection(HEAD):
        if getattr(default, field) is not None:
            fields[field] = max(1, int(given["width"] * getattr(default, "expand", 1)) // given["heads"])
    plain = {
        "num_key_value_heads": given["heads"],
        "embedding_size": given["width"],
        "max_position_embeddings": max_length + SPARE,
        "vocab_size": SPARE,
        "is_decoder": not both_ways,
        "use_cache": False,
    }
    fields |= {field: value for field, value in plain.items() if field in known}
    fields |= {field: 0 for field in TOKENS if (getattr(default, field, None) or 0) not in range(SPARE)}
    for field, value in default.to_dict().items():
        of_activations = "drop" in field and not any(word in field for word in NOT_OF_ACTIVATIONS)
        if of_activations and isinstance(value, int | float) and not isinstance(value, bool):
            fields[field] = dropout
    _refuse(name, options, known, {field for names in NAMES.values() for field in names}, default)
    return {**fields, **SPECIAL.get(name, {}), **options}


def _refuse(name: str, options: Mapping[str, Any], known: set[str], taken: set[str], default: Any) -> None:
    """One error for all options that are not fields of the configuration, or that settings of the model give."""
    faults = []
    for field in options:
        owner = next((key for key, names in NAMES.items() if field in taken and field in names), None)
        owner = owner or next(
            (key for key, names in NAMES.items() for own in names if default.attribute_map.get(own) == field), None
        )
        if owner is not None:
            faults.append(f"model.options.{field}: it is model.{owner}")
        elif field not in known:
            near = difflib.get_close_matches(field, known, 1)
            hint = f", did you mean '{near[0]}'?" if near else ""
            faults.append(f"model.options.{field}: unknown field of the configuration of '{name}'{hint}")
    if faults:
        raise ValueError("\n".join(faults))


def _configuration(name: str, **fields: Any) -> Any:
    try:
        from transformers import CONFIG_MAPPING
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise ValueError("transformers is not installed: pip install 'segue[huggingface]'") from None
    names = list(CONFIG_MAPPING.keys())
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f", did you mean '{near[0]}'?" if near else f": none of the {len(names)} there are"
        raise ValueError(f"model.architecture: unknown '{name}'{hint}")
    return CONFIG_MAPPING[name](**fields)


def _build(name: str, fields: Mapping[str, Any]) -> Any:
    from transformers import AutoModel

    encoder = AutoModel.from_config(_configuration(name, **fields))
    if isinstance(getattr(encoder, "pooler", None), nn.Module):
        encoder.pooler = None  # its output is not asked for
    return encoder


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the package's notes, such as on kernels that are not installed."""
    try:
        from transformers.utils import logging
    except ModuleNotFoundError:
        yield
        return
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
