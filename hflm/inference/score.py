"""`hflm score`: how likely a model finds a text, token by token, and its attention weights.

    log P(w1 ... wn) = log P(w1) + log P(w2 | w1) + ... + log P(wn | w1 ... wn-1)

The first token is predicted from the begin-of-text token. A text longer than the context is cut into the windows of the
benchmark (`text_windows`), so that both give the same sum.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hflm.core import ModelError, UserError
from hflm.inference.windows import text_windows
from hflm.models import context_length
from hflm.preprocessing import plain_backend
from hflm.preprocessing.tokenizer import INSIDE_WORD

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TOP = 5  # of the most likely tokens at each position
MAX_ATTENTION_TOKENS = 64  # a larger grid cannot be read
POSITIONS = 256


@dataclass(frozen=True)
class Token:
    """One term of the sum: log p in nats, `rank` 1 for the model's first choice; `top` are its (text, p), best first.

    `text` is what the token spells; bytes that are only a part of a character are written as \\xf0.
    """

    text: str
    id: int
    log_p: float
    p: float
    rank: int
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Score:
    """A scored text: `log_p` = log P(text) in nats, `bytes` its length in UTF-8, `perplexity` per token."""

    text: str
    tokens: tuple[Token, ...]
    log_p: float
    bytes: int
    perplexity: float
    bits_per_byte: float


def score_text(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast", text: str, positions: int = POSITIONS
) -> Score:
    """Score `text` by a loaded model in eval mode. Raises UserError for an empty text.

    positions: whose (V,) log-probabilities are in memory at a time.

    >>> scored = score_text(model, tokenizer, "The dog saw")                                    # doctest: +SKIP
    >>> [(token.text, round(token.p, 2)) for token in scored.tokens], round(scored.log_p, 2)    # doctest: +SKIP
    ([('The', 0.4), (' dog', 0.1), (' saw', 0.9)], -3.32)
    """
    import torch

    spellings = _spellings(tokenizer, text)
    tokens: list[Token] = []
    size = 0
    with torch.inference_mode():
        for window in text_windows(tokenizer, text, context_length(model)):
            size += window.bytes
            ids = torch.tensor(window.ids, device=model.device)
            # The logits at position i predict the token at i + 1.
            logits = model(input_ids=ids[None], use_cache=False, logits_to_keep=window.scored + 1).logits[0, :-1]
            parts = zip(logits.split(positions), ids[-window.scored :].split(positions), strict=True)
            for part, targets in parts:
                own = spellings[len(tokens) :][: len(targets)]
                tokens += _terms(tokenizer, part.float().log_softmax(-1), targets, own)
    log_p = math.fsum(token.log_p for token in tokens)
    if not math.isfinite(log_p):
        raise ModelError(
            "the model's log-likelihoods are not finite: its weights are damaged, or its precision too low"
        )
    # exp(700) is about the largest number there is, as in evaluation/metrics/likelihood.py.
    perplexity = math.exp(min(-log_p / len(tokens), 700))
    return Score(text, tuple(tokens), log_p, size, perplexity, -log_p / math.log(2) / size)


def attention_weights(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast", text: str
) -> tuple["np.ndarray", list[str]]:
    """(weights, labels): each head's softmax(Q K^T / sqrt(d)), an array (layers, heads, T, T), and the T tokens' texts.

    A row is the position that attends, a column the position attended to; rows sum to 1, and no position attends to a
    later one. A head's output is these weights times V (Vaswani et al. 2017, Attention Is All You Need, equation 1).
    The first of the T positions is the begin-of-text token. Raises UserError for an empty text or too many tokens.
    """
    import torch

    labels = _spellings(tokenizer, text)
    longest = min(MAX_ATTENTION_TOKENS, context_length(model)) - 1
    if len(labels) > longest:
        raise UserError(
            f"attention: the text has {len(labels)} tokens, more than {longest} cannot be drawn. Shorten it"
        )
    [window] = text_windows(tokenizer, text, context_length(model))
    usual = _attention_implementation(model)
    model.set_attn_implementation("eager")  # the others do not keep the weights
    try:
        with torch.inference_mode():
            ids = torch.tensor([window.ids], device=model.device)
            weights = model(input_ids=ids, use_cache=False, output_attentions=True).attentions
    finally:
        model.set_attn_implementation(usual)
    return torch.cat(weights).float().cpu().numpy(), ["(begin)", *labels]


def _attention_implementation(model: "PreTrainedModel") -> str:
    # transformers (5.23) has set_attn_implementation, and no public way to read what is set.
    return str(model.config._attn_implementation)


def _terms(
    tokenizer: "PreTrainedTokenizerFast", logs: "torch.Tensor", targets: "torch.Tensor", spellings: list[str]
) -> Iterator[Token]:
    """A Token for each of N targets; `logs` is (N, V)."""
    of_targets = logs.gather(1, targets[:, None])
    ranks = (logs > of_targets).sum(1) + 1
    values, best = logs.topk(min(TOP, logs.shape[1]))
    rows = (targets, of_targets[:, 0].double(), ranks, values.double().exp(), best)
    for spelling, token, log_p, rank, ps, ids in zip(spellings, *(row.tolist() for row in rows), strict=True):
        top = tuple((_spelling(tokenizer, each), p) for each, p in zip(ids, ps, strict=True))
        yield Token(spelling, token, log_p, math.exp(log_p), rank, top)


def _spellings(tokenizer: "PreTrainedTokenizerFast", text: str) -> list[str]:
    """What each token of the text spells. Raises UserError for an empty text, and for one that is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError("the text is not UTF-8") from None
    encoding = plain_backend(tokenizer).encode(text, add_special_tokens=False)
    if not encoding.ids:
        raise UserError("there is no text to score")
    spellings, done = [], 0
    for token, (_, end) in zip(encoding.ids, encoding.offsets, strict=True):
        part, spelling = text[done:end], _spelling(tokenizer, token)
        # Several tokens may spell one character together: then the text does not tell which of them spells what.
        is_partial = r"\x" in spelling and r"\x" not in part
        spellings.append(spelling if is_partial or not part else part)
        done = max(done, end)
    return spellings


def _spelling(tokenizer: "PreTrainedTokenizerFast", token: int) -> str:
    r"""A token alone, as text: " the", or "\xf0\x9f" for bytes that are only a part of a character."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    text = str(tokenizer.decode([token]))
    if "\ufffd" in text:
        entry = str(tokenizer.convert_ids_to_tokens(token))
        if byte := re.fullmatch("<0x([0-9A-F]{2})>", entry):
            return f"\\x{byte[1].lower()}"
        alphabet = {char: byte for byte, char in bytes_to_unicode().items()}
        entry = entry.removeprefix(INSIDE_WORD)
        if alphabet.keys() >= set(entry):
            return bytes(alphabet[char] for char in entry).decode("utf-8", "backslashreplace")
    return text or f"(token {token})"  # a vocabulary may be padded beyond the tokenizer's
