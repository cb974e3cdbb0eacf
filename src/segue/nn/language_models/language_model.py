"""Compute the likelihood of texts that continue a prompt.

Nothing is downloaded, no code in the folder of the model is executed, and weights are read from safetensors only. No
text is generated: the results are log-probabilities, so there is nothing to parse.

The logarithm of the probability of a continuation is the sum over its tokens. The prompt is computed once, and its keys
and values are shared by all continuations; if the architecture does not support this, each is computed as a whole.

Shapes: C continuations, B of them in one pass, P tokens of the prompt, L of a continuation, V words of the vocabulary.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segue.nn.language_models.folder import SETTING, LanguageModelFolder

__all__ = ["LanguageModel", "Tokens", "describe_failure", "offline_transformers"]

Tokens: TypeAlias = list[int]

EXTRA = "pip install 'segue[huggingface]'"
CONTINUATIONS_PER_PASS = 8
"""Continuations that are computed together; between passes, the time is checked."""
MAX_POSITIONS = 1_000_000
"""Tokenizers without a maximum length state a larger number."""
TOLERANCE = 1e-3
"""Difference of log-probabilities above which shared keys and values are not used; 30 times that in half precision."""


class LanguageModel:
    """A language model and its tokenizer.

    Args:
        dtype: ``float32``, ``bfloat16`` or ``float16``, the type of the weights in memory.
        device: device of torch.

    Raises:
        ValueError: transformers is not installed, or it cannot read the folder.
    """

    def __init__(self, folder: LanguageModelFolder, dtype: str = "float32", device: str = "cpu") -> None:
        self.folder, self.is_seq2seq, self.device = folder, folder.is_seq2seq, device
        options = {"local_files_only": True, "trust_remote_code": False}
        with offline_transformers() as transformers, _explain(folder):
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder.path, use_fast=True, **options)
            kind = transformers.AutoModelForSeq2SeqLM if self.is_seq2seq else transformers.AutoModelForCausalLM
            network = kind.from_pretrained(
                folder.path, use_safetensors=True, dtype=getattr(torch, dtype), output_loading_info=True, **options
            )
            network, loaded = network
            self.network: Any = network.eval().to(device)
        if missing := sorted(loaded["missing_keys"]):
            raise ValueError(
                f"{SETTING}: {folder.path}: the weights lack {missing[0]} and {len(missing) - 1} others, expected the "
                "weights of a whole language model"
            )
        if not self.tokenizer.is_fast:
            raise ValueError(f"{SETTING}: {folder.path}: has no fast tokenizer, expected a tokenizer.json")
        n_words = self.network.get_input_embeddings().weight.shape[0]
        if len(self.tokenizer) > n_words:
            raise ValueError(
                f"{SETTING}: {folder.path}: the tokenizer has {len(self.tokenizer)} tokens and the model {n_words}, "
                "expected the tokenizer of the model"
            )
        self.special_tokens = frozenset(
            {str(token) for token in self.tokenizer.all_special_tokens}
            | {str(one) for one in self.tokenizer.added_tokens_decoder.values() if one.special}
        )
        self._tolerance = TOLERANCE * (1 if dtype == "float32" else 30)
        self._shares_prompt = not self.is_seq2seq and self._can_share_prompt(n_words)

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens of prompt and continuation together."""
        config = self.network.config
        found = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
        found.append(min(self.tokenizer.model_max_length, MAX_POSITIONS))
        return min(size for size in found if isinstance(size, int) and size > 0)

    def as_chat(self, prompt: str) -> str:
        """Return the prompt as a message of a user.

        Without a chat template of the tokenizer, it is unchanged.
        """
        if not self.tokenizer.chat_template:
            return prompt
        messages = [{"role": "user", "content": prompt}]
        return str(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def encode_prompt(self, prompt: str) -> Tokens:
        """Return the tokens of a prompt, which are followed by those of a continuation."""
        if self.is_seq2seq:
            return list(self.tokenizer(prompt).input_ids)
        tokens = list(self.tokenizer(prompt, add_special_tokens=False).input_ids)
        begin = self.tokenizer.bos_token_id
        adds_begin = begin is not None and list(self.tokenizer(prompt).input_ids[:1]) == [begin]
        return [begin, *tokens] if adds_begin and tokens[:1] != [begin] else tokens

    def encode_continuations(self, prompt: str, texts: Sequence[str]) -> list[Tokens]:
        """Return the tokens of texts that continue a prompt after a space."""
        if self.is_seq2seq:
            return [list(one) for one in self.tokenizer(list(texts), add_special_tokens=False).input_ids]
        space = "" if prompt[-1:].isspace() else " "
        own = list(self.tokenizer(prompt, add_special_tokens=False).input_ids)
        whole = self.tokenizer([f"{prompt}{space}{text}" for text in texts], add_special_tokens=False).input_ids
        if all(one[: len(own)] == own and len(one) > len(own) for one in map(list, whole)):
            return [list(one[len(own) :]) for one in whole]
        # the tokenizer joins the end of the prompt with the text: encode the text alone
        return [list(one) for one in self.tokenizer(list(texts), add_special_tokens=False).input_ids]

    @torch.inference_mode()
    def log_likelihoods(
        self, prompt: Tokens, continuations: Sequence[Tokens], before_pass: Callable[[], None] = lambda: None
    ) -> NDArray[np.float64]:
        """Return the log-probability of each continuation after the prompt, ``(C,)``.

        Args:
            prompt: at least one token.
            continuations: at least one token each.
            before_pass: called before each pass through the network; may raise an exception to stop.
        """
        before_pass()
        prompt_P = torch.tensor([prompt], device=self.device)
        state, first_V = self._encode_prompt(prompt_P)
        found = np.zeros(len(continuations))
        order = sorted(range(len(continuations)), key=lambda index: len(continuations[index]))
        for start in range(0, len(order), CONTINUATIONS_PER_PASS):
            rows = order[start : start + CONTINUATIONS_PER_PASS]
            tokens = [continuations[row] for row in rows]
            if first_V is not None and len(tokens[-1]) == 1:  # the prompt alone predicts it
                found[rows] = first_V[[one[0] for one in tokens]].double().cpu().numpy()
                continue
            if start:
                before_pass()
            found[rows] = self._continue(prompt_P, state, first_V, tokens).cpu().numpy()
        return found

    def _encode_prompt(self, prompt_P: Tensor) -> tuple[Any, Tensor | None]:
        """Compute what continuations share.

        The second part are the log-probabilities ``(V,)`` of their first token, if known.
        """
        if self.is_seq2seq:
            return self.network.get_encoder()(input_ids=prompt_P).last_hidden_state, None
        if not self._shares_prompt:
            return None, None
        output = self.network(input_ids=prompt_P, attention_mask=torch.ones_like(prompt_P), use_cache=True)
        return output.past_key_values, torch.log_softmax(output.logits[0, -1].float(), -1)

    def _continue(self, prompt_P: Tensor, state: Any, first_V: Tensor | None, tokens: Sequence[Tokens]) -> Tensor:
        """Return the log-probabilities ``(B,)`` of continuations."""
        count, length = len(tokens), max(map(len, tokens))
        # positions see earlier ones only, so padding at the end does not change those before
        tokens_BL = torch.tensor([[*one, *[0] * (length - len(one))] for one in tokens], device=self.device)
        lengths_B1 = torch.tensor([[len(one)] for one in tokens], device=self.device)
        is_counted_BL = torch.arange(length, device=self.device) < lengths_B1
        if self.is_seq2seq:
            begin_B1 = torch.full((count, 1), self.network.config.decoder_start_token_id, device=self.device)
            encoded = _encoder_output(state.expand(count, -1, -1))
            inputs_BL = torch.cat([begin_B1, tokens_BL[:, :-1]], 1)
            logits_BLV = self.network(encoder_outputs=encoded, decoder_input_ids=inputs_BL, use_cache=False).logits
        elif first_V is None:
            inputs = torch.cat([prompt_P.expand(count, -1), tokens_BL[:, :-1]], 1)
            output = self.network(input_ids=inputs, attention_mask=torch.ones_like(inputs), use_cache=False)
            logits_BLV = output.logits[:, prompt_P.shape[1] - 1 :]
        else:
            cache = copy.deepcopy(state)
            cache.batch_repeat_interleave(count)
            mask = torch.ones((count, prompt_P.shape[1] + length - 1), dtype=torch.long, device=self.device)
            output = self.network(input_ids=tokens_BL[:, :-1], attention_mask=mask, past_key_values=cache)
            logits_BLV = output.logits
        log_probs_BLV = torch.log_softmax(logits_BLV.float(), -1)
        if first_V is not None:
            log_probs_BLV = torch.cat([first_V.expand(count, 1, -1), log_probs_BLV], 1)
        chosen_BL = log_probs_BLV.gather(2, tokens_BL[:, :, None])[:, :, 0]
        return (chosen_BL.double() * is_counted_BL).sum(1)

    @torch.inference_mode()
    def _can_share_prompt(self, n_words: int) -> bool:
        """Return whether sharing the prompt gives the results of whole texts."""
        prompt = [number % n_words for number in (1, 2, 3, 4)]
        tokens = [[number % n_words for number in one] for one in ((5, 6, 7), (8, 9))]
        prompt_P = torch.tensor([prompt], device=self.device)
        try:
            self._shares_prompt = True
            state, first_V = self._encode_prompt(prompt_P)
            shared_B = self._continue(prompt_P, state, first_V, tokens)
        except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):
            return False
        whole_B = self._continue(prompt_P, None, None, tokens)
        return bool((shared_B - whole_B).abs().max() <= self._tolerance * max(map(len, tokens)))


def _encoder_output(hidden_BPD: Tensor) -> Any:
    from transformers.modeling_outputs import BaseModelOutput

    return BaseModelOutput(last_hidden_state=hidden_BPD)


@contextmanager
def offline_transformers(install: str = EXTRA) -> Iterator[Any]:
    """Yield transformers, which must not access the network nor write to the terminal.

    Args:
        install: the command that installs it, for the error.

    Raises:
        ValueError: it is not installed.
    """
    before = {name: os.environ.get(name) for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        try:
            import transformers
        except ModuleNotFoundError as error:
            if error.name != "transformers":
                raise
            raise ValueError(f"transformers is not installed: {install}") from None
        verbosity, has_bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        try:
            yield transformers
        finally:
            transformers.logging.set_verbosity(verbosity)
            if has_bars:
                transformers.logging.enable_progress_bar()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _explain(folder: LanguageModelFolder) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # transformers raises all kinds of exceptions for files that it cannot read
        reason = describe_failure(error)
        raise ValueError(f"{SETTING}: {folder.path}: transformers cannot read it: {reason}") from None


def describe_failure(error: Exception) -> str:
    """Describe in one line why transformers cannot read a file."""
    lines = str(error).strip().splitlines() or [""]
    if "instantiate the backend tokenizer" in lines[0]:  # a list of possible reasons follows
        return (
            "its files are incomplete, expected a tokenizer.json; save it again with tokenizer.save_pretrained(folder)"
        )
    return f"{type(error).__name__}: {lines[0]}"
