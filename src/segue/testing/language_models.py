"""Build tiny language models for tests.

Needs the extra ``huggingface``.

Shapes: B sentences, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

__all__ = ["save_tiny_language_model"]

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")


def save_tiny_language_model(
    folder: Path,
    texts: Sequence[str],
    *,
    architecture: Literal["gpt2", "llama", "t5"] = "gpt2",
    steps: int = 0,
    width: int = 16,
    max_length: int = 256,
    chat_template: str | None = None,
) -> Path:
    """Write a language model of one or two layers and its tokenizer to ``folder``.

    A token is a word, with the space before it, or a punctuation mark.

    Args:
        texts: their words are the vocabulary; with ``steps``, a causal model is trained to continue them.
        steps: steps of Adam over all texts.
    """
    import torch

    from segue.nn.language_models.language_model import offline_transformers

    with offline_transformers() as transformers, torch.random.fork_rng(devices=[]):
        tokenizer = _tokenizer(transformers, texts, max_length, chat_template)
        torch.default_generator.manual_seed(0)
        model = _build(transformers, architecture, len(tokenizer), width, max_length)
        if steps:
            _train(model, [tokenizer(text).input_ids for text in texts], steps)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(transformers: Any, texts: Sequence[str], max_length: int, chat_template: str | None) -> Any:
    import tokenizers

    words = sorted({word for text in texts for word, _ in _splitter(tokenizers).pre_tokenize_str(text)})
    vocabulary = {word: code for code, word in enumerate([*SPECIAL_TOKENS, *words])}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = _splitter(tokenizers)
    names = ("unk_token", "bos_token", "eos_token", "pad_token")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        model_max_length=max_length,
        chat_template=chat_template,
        **dict(zip(names, SPECIAL_TOKENS, strict=True)),
    )


def _splitter(tokenizers: Any) -> Any:
    """Split text into words and punctuation; a space is part of the word after it."""
    parts = tokenizers.pre_tokenizers
    return parts.Sequence([parts.Split(tokenizers.Regex(r" ?\w+|\n| ?[^\w\s]"), "isolated")])


def _build(transformers: Any, architecture: str, size: int, width: int, max_length: int) -> Any:
    common = {"vocab_size": size, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    if architecture == "gpt2":
        drop = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        sizes = {"n_embd": width, "n_layer": 1, "n_head": 2, "n_positions": max_length, "initializer_range": 0.2}
        config = transformers.GPT2Config(**sizes, **drop, **common)
        return transformers.GPT2LMHeadModel(config)
    if architecture == "llama":
        sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = transformers.LlamaConfig(max_position_embeddings=max_length, num_key_value_heads=1, **sizes, **common)
        return transformers.LlamaForCausalLM(config)
    sizes = {"d_model": width, "d_kv": width // 2, "d_ff": 2 * width, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(decoder_start_token_id=3, **sizes, **common)
    return transformers.T5ForConditionalGeneration(config)


def _train(model: Any, sentences: Sequence[Sequence[int]], steps: int) -> None:
    """Minimize the cross-entropy of the next token; padding is ignored."""
    import torch

    length = max(map(len, sentences))
    tokens_BL = torch.tensor([[*one, *[3] * (length - len(one))] for one in sentences])
    labels_BL = torch.tensor([[*one, *[-100] * (length - len(one))] for one in sentences])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=tokens_BL, labels=labels_BL).loss.backward()
        optimizer.step()
    model.eval()
