"""Encoders from the package transformers, built from a configuration.

Weights are never downloaded.

This is the only file that imports transformers. It does so only when an encoder is built, because the import takes
seconds.

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

__all__ = ["HuggingFaceEncoder"]

NAMES = {
    "embedding_dim": ("hidden_size", "d_model"),
    "num_layers": ("num_hidden_layers", "num_layers"),
    "num_heads": ("num_attention_heads", "num_heads"),
}
"""Names of a setting in configurations."""
INNER = ("intermediate_size", "d_inner", "n_inner", "ffn_dim", "hidden_dim", "dff")
"""Widths inside a layer, scaled in proportion to the width."""
HEAD = ("head_dim", "d_head")
"""Names of the width of a head."""
TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
MARGIN = 8
"""Size of the unused token embedding, and extra positions, because some architectures count positions from 2."""
OTHER_DROPOUTS = ("layer", "classifier", "summary", "pooler")
"""Words in the names of dropout settings that do not apply to activations of the encoder."""
OVERRIDES: Mapping[str, Mapping[str, Any]] = {
    "mamba2": {"n_groups": 1},
    "xlstm": {"mode": "train", "autocast_kernel_dtype": "float32"},
}
TOLERANCE = 1e-5
"""Relative change of an output above which it depends on a changed input."""


class HuggingFaceEncoder(nn.Module):
    """Causal or bidirectional encoder of vectors.

    Its direction is tested when it is built.

    Args:
        name: ``model_type`` of the architecture, such as ``gpt2``.
        options: further fields of its configuration, which take precedence over derived ones.
        bidirectional: whether every position must depend on later ones, or must not.

    Raises:
        ValueError: transformers is not installed, the name or an option is unknown, or the architecture does not encode
            a sequence of vectors in the required direction.
    """

    def __init__(
        self,
        name: str,
        width: int,
        num_layers: int,
        num_heads: int,
        max_length: int,
        dropout: float,
        options: Mapping[str, Any],
        bidirectional: bool,
    ) -> None:
        super().__init__()
        self.name = name
        self.bidirectional = bidirectional
        sizes = {"embedding_dim": width, "num_layers": num_layers, "num_heads": num_heads}
        with _quiet():
            fields = _fields(name, sizes, max_length, dropout, options, bidirectional)
            try:
                encoder = _build(name, fields)
                self.encoder = encoder
                self.chunk = int(encoder.config.chunk_size) if name == "xlstm" else 1  # the length must be a multiple
                self.check_direction(width, max_length)
            except _WrongDirection:
                raise
            except Exception as error:  # the package may raise anything for sizes that do not fit
                raise ValueError(
                    f"model.architecture: '{name}' cannot encode a sequence of vectors with "
                    f"{', '.join(f'{key}={value}' for key, value in sizes.items())} and options {dict(options)}: "
                    f"{type(error).__name__}: {error}"
                ) from None

    def forward(self, x_BLD: Tensor, lengths_B: Tensor) -> Tensor:
        """Return the last hidden states, ``(B, L, D)``.

        A bidirectional encoder ignores positions beyond ``lengths_B``.
        """
        length = x_BLD.shape[1]
        x_BLD = F.pad(x_BLD, (0, 0, 0, -length % self.chunk))
        index_L = torch.arange(x_BLD.shape[1], device=x_BLD.device)
        masks = {}
        if self.bidirectional:
            masks["attention_mask"] = (index_L < lengths_B[:, None]).long()
        elif self.name == "xlnet":
            masks["perm_mask"] = (index_L > index_L[:, None]).float().expand(len(x_BLD), -1, -1)
        with _quiet():
            hidden_BLD: Tensor = self.encoder(inputs_embeds=x_BLD, **masks).last_hidden_state
        return hidden_BLD[:, :length]

    @torch.no_grad()
    def check_direction(self, width: int, max_length: int) -> None:
        """Check the direction of the encoder.

        The test is whether a change of the second half of a sequence changes the output of the first half.

        Raises:
            ValueError: the encoder is causal and should be bidirectional, or the reverse, or it reads the padding.
        """
        self.eval()
        length = max(2, max_length)
        half = length // 2
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            x_BLD = torch.randn(1, length, width)
            other_BLD = torch.cat([x_BLD[:, :half], 3.0 * torch.randn(1, length - half, width)], 1)
            change = self._relative_change(x_BLD, other_BLD, half, length)
            padding_change = self._relative_change(x_BLD, other_BLD, half, half) if self.bidirectional else 0.0
        self.train()
        if self.bidirectional and change <= TOLERANCE:
            raise _WrongDirection(
                f"model.architecture: '{self.name}' is causal, and objective=cloze needs a bidirectional encoder, "
                'such as bert, or, for many architectures, options={"is_causal": false}'
            )
        if padding_change > TOLERANCE:
            raise _WrongDirection(
                f"model.architecture: '{self.name}' ignores attention_mask: its output depends on the padding; "
                "expected an architecture that uses it, such as bert"
            )
        if not self.bidirectional and change > TOLERANCE:
            raise _WrongDirection(
                f"model.architecture: '{self.name}' is bidirectional, so it would see the next item it has to predict; "
                "expected objective=cloze, or a causal architecture, such as gpt2"
            )

    def _relative_change(self, x_BLD: Tensor, other_BLD: Tensor, half: int, used: int) -> float:
        """Return the maximum change of the output in the first half of a sequence.

        It is relative to the maximum change in the second half.
        """
        lengths_B = torch.tensor([used])
        one, other = self(x_BLD, lengths_B), self(other_BLD, lengths_B)
        if one.shape != x_BLD.shape:
            raise ValueError(f"hidden states have shape {tuple(one.shape)} for vectors of {tuple(x_BLD.shape)}")
        change_BL = (one - other).abs().amax(-1)
        return float(change_BL[:, :half].max() / change_BL[:, half:].max().clamp_min(1e-12))


class _WrongDirection(ValueError):
    """The encoder is not causal or bidirectional as required."""


def _fields(
    name: str,
    sizes: Mapping[str, int],
    max_length: int,
    dropout: float,
    options: Mapping[str, Any],
    bidirectional: bool,
) -> dict[str, Any]:
    """Return the configuration fields that differ from the architecture's defaults."""
    default = _configuration(name)
    # is_causal is not a field of any class, but most use it
    known = {*default.to_dict(), *getattr(default, "attribute_map", {}), "is_causal"}
    fields: dict[str, Any] = {}
    for setting, value in sizes.items():
        if field := next((field for field in NAMES[setting] if field in known), None):
            fields[field] = value
    proportion = sizes["embedding_dim"] / next(
        (getattr(default, field) for field in NAMES["embedding_dim"] if field in known), 1
    )
    for field in known.intersection(INNER):
        if isinstance(inner := getattr(default, field), int):
            fields[field] = max(1, round(inner * proportion))
    for field in known.intersection(HEAD):
        if getattr(default, field) is not None:
            fields[field] = max(1, int(sizes["embedding_dim"] * getattr(default, "expand", 1)) // sizes["num_heads"])
    common = {
        "num_key_value_heads": sizes["num_heads"],
        "embedding_size": sizes["embedding_dim"],
        "max_position_embeddings": max_length + MARGIN,
        "vocab_size": MARGIN,
        "is_decoder": not bidirectional,
        "use_cache": False,
    }
    fields |= {field: value for field, value in common.items() if field in known}
    fields |= {field: 0 for field in TOKENS if (getattr(default, field, None) or 0) not in range(MARGIN)}
    for field, value in default.to_dict().items():
        is_activation = "drop" in field and not any(word in field for word in OTHER_DROPOUTS)
        if is_activation and isinstance(value, int | float) and not isinstance(value, bool):
            fields[field] = dropout
    _check_options(name, options, known, {field for names in NAMES.values() for field in names}, default)
    return {**fields, **OVERRIDES.get(name, {}), **options}


def _check_options(name: str, options: Mapping[str, Any], known: set[str], taken: set[str], default: Any) -> None:
    """Check that all options are fields of the configuration.

    They must not be fields that another setting of the model determines.
    """
    errors = []
    for field in options:
        owner = next((key for key, names in NAMES.items() if field in taken and field in names), None)
        owner = owner or next(
            (key for key, names in NAMES.items() for own in names if default.attribute_map.get(own) == field), None
        )
        if owner is not None:
            errors.append(f"model.options.{field}: set model.{owner} instead")
        elif field not in known:
            near = difflib.get_close_matches(field, known, 1)
            hint = f", did you mean '{near[0]}'?" if near else ""
            errors.append(f"model.options.{field}: unknown field of the configuration of '{name}'{hint}")
    if errors:
        raise ValueError("\n".join(errors))


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
        hint = (
            f", did you mean '{near[0]}'?"
            if near
            else f", expected one of the {len(names)} architectures of transformers"
        )
        raise ValueError(f"model.architecture: unknown '{name}'{hint}")
    return CONFIG_MAPPING[name](**fields)


def _build(name: str, fields: Mapping[str, Any]) -> Any:
    from transformers import AutoModel

    encoder = AutoModel.from_config(_configuration(name, **fields))
    if isinstance(getattr(encoder, "pooler", None), nn.Module):
        encoder.pooler = None  # its output is not used
    return encoder


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the package's log messages, such as those about missing kernels."""
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
