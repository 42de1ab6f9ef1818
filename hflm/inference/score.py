"""`hflm score`: how likely a model finds a text, token by token, and where its attention goes.

    log P(w1 ... wn) = log P(w1) + log P(w2 | w1) + ... + log P(wn | w1 ... wn-1)

The first token is predicted from the begin-of-text token. A text longer than the context is cut into the windows of the
benchmark (`answer.text_windows`), so that both give the same sum.
"""

import math
import re
from dataclasses import dataclass

from hflm.core import ModelError, UserError
from hflm.inference.local import text_windows
from hflm.models import load as models
from hflm.preprocessing import plain_backend
from hflm.preprocessing.tokenizer import INSIDE_WORD

TOP = 5  # of the most likely tokens at each place
LONGEST_ATTENDED = 64  # tokens: more squares than that are no picture
POSITIONS = 256  # whose (V,) log-probabilities are in memory at a time


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


def score(model, tokenizer, text) -> Score:
    """Score `text` by a loaded model in eval mode. Raises UserError for an empty text.

    >>> found = score(model, tokenizer, "The dog saw")                                        # doctest: +SKIP
    >>> [(token.text, round(token.p, 2)) for token in found.tokens], round(found.log_p, 2)    # doctest: +SKIP
    ([('The', 0.4), (' dog', 0.1), (' saw', 0.9)], -3.32)
    """
    import torch

    pieces = _pieces(tokenizer, text)
    tokens, size = [], 0
    with torch.inference_mode():
        for ids, count, spelt in text_windows(tokenizer, text, models.context_length(model)):
            size += spelt
            ids = torch.tensor(ids, device=model.device)
            # The logits of place i are about the token at i + 1.
            logits = model(input_ids=ids[None], use_cache=False, logits_to_keep=count + 1).logits[0, :-1]
            for part, targets in zip(logits.split(POSITIONS), ids[-count:].split(POSITIONS), strict=True):
                spellings = pieces[len(tokens) :][: len(targets)]
                tokens += _terms(tokenizer, part.float().log_softmax(-1), targets, spellings)
    log_p = math.fsum(token.log_p for token in tokens)
    if not math.isfinite(log_p):
        raise ModelError(
            "the model's log-likelihoods are not finite: its weights are damaged, or its precision too low"
        )
    # exp(700) is about the largest number there is, as in evaluation/metrics/likelihood.py.
    perplexity = math.exp(min(-log_p / len(tokens), 700))
    return Score(text, tuple(tokens), log_p, size, perplexity, -log_p / math.log(2) / size)


def attention(model, tokenizer, text):
    """(weights, labels): each head's softmax(Q K^T / sqrt(d)), an array (layers, heads, T, T), and the T tokens' texts.

    A row is the place that looks, a column the place that is looked at; rows sum to 1, and nothing looks ahead. What a
    head hands on is these weights times V (Vaswani et al. 2017, Attention Is All You Need, equation 1). The first of
    the T places is the begin-of-text token. Raises UserError for an empty text or too many tokens.
    """
    import torch

    labels = _pieces(tokenizer, text)
    longest = min(LONGEST_ATTENDED, models.context_length(model)) - 1
    if len(labels) > longest:
        raise UserError(
            f"attention: the text has {len(labels)} tokens, more than {longest} cannot be drawn. Shorten it"
        )
    [(ids, _, _)] = text_windows(tokenizer, text, models.context_length(model))
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the fast ones do not keep the weights
    try:
        with torch.inference_mode():
            found = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False, output_attentions=True)
    finally:
        model.set_attn_implementation(usual)
    return torch.cat(found.attentions).float().cpu().numpy(), ["(begin)", *labels]


def measure(path, text, revision=None, attended=False):
    """(Score, `attention`'s result or None) of `text` by the model at `path`, as `hflm score` shows them."""

    model, tokenizer = models.load(path, revision)
    seen = attention(model, tokenizer, text) if attended else None
    return score(model, tokenizer, text), seen


def _terms(tokenizer, logs, targets, pieces):
    """A Token for each of N targets; `logs` is (N, V)."""
    found = logs.gather(1, targets[:, None])
    ranks = (logs > found).sum(1) + 1
    values, best = logs.topk(min(TOP, logs.shape[1]))
    rows = (targets, found[:, 0].double(), ranks, values.double().exp(), best)
    for piece, token, log_p, rank, ps, ids in zip(pieces, *(row.tolist() for row in rows), strict=True):
        top = tuple((_spelling(tokenizer, each), p) for each, p in zip(ids, ps, strict=True))
        yield Token(piece, token, log_p, math.exp(log_p), rank, top)


def _pieces(tokenizer, text):
    """What each token of the text spells. Raises UserError for an empty text, and for one that is no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError("the text is not UTF-8") from None
    encoding = plain_backend(tokenizer).encode(text, add_special_tokens=False)
    if not encoding.ids:
        raise UserError("there is no text to score")
    pieces, spelt = [], 0
    for token, (_, end) in zip(encoding.ids, encoding.offsets, strict=True):
        piece, spelling = text[spelt:end], _spelling(tokenizer, token)
        # Several tokens may share a character: then the text says nothing about which of them spells what.
        part = r"\x" in spelling and r"\x" not in piece
        pieces.append(spelling if part or not piece else piece)
        spelt = max(spelt, end)
    return pieces


def _spelling(tokenizer, token):
    r"""A token alone, as text: " the", or "\xf0\x9f" for bytes that are only a part of a character."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    text = tokenizer.decode([token])
    if "\ufffd" in text:
        piece = tokenizer.convert_ids_to_tokens(token)
        if byte := re.fullmatch("<0x([0-9A-F]{2})>", piece):
            return f"\\x{byte[1].lower()}"
        alphabet = {char: byte for byte, char in bytes_to_unicode().items()}
        piece = piece.removeprefix(INSIDE_WORD)
        if alphabet.keys() >= set(piece):
            return bytes(alphabet[char] for char in piece).decode("utf-8", "backslashreplace")
    return text or f"(token {token})"  # a vocabulary may be padded beyond the tokenizer's
