"""Tokens that a recipe adds to a tokenizer, and what their texts were before."""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hflm.core import UserError
from hflm.preprocessing.tokenizer import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def add_tokens(tokenizer: "PreTrainedTokenizerFast", tokens: Sequence[str]) -> tuple[str, ...]:
    """Add tokens, each one entry wherever its text occurs; returns those that the vocabulary had already.

    Raises UserError for a text that is not decoded as it was written.
    """
    known = tokenizer.get_vocab()
    # Of a byte-level vocabulary the entry of " a" is "Ġa".
    had = tuple(token for token in tokens if token in known or len(encode(tokenizer, [token])[0]) == 1)
    tokenizer.add_tokens([token for token in tokens if token not in had])
    _decode_as_written(tokenizer, _wrong(tokenizer, tokens))
    wrong = _wrong(tokenizer, tokens)
    if wrong:
        raise UserError(
            f"tokenizer.add_tokens: {', '.join(map(repr, wrong))} would not be decoded as written by this tokenizer. "
            "Leave them out"
        )
    return had


def _wrong(tokenizer: "PreTrainedTokenizerFast", tokens: Sequence[str]) -> list[str]:
    """The tokens that are not decoded as they were written."""
    return [token for token in tokens if tokenizer.decode(encode(tokenizer, [token])[0]) != token]


def _decode_as_written(tokenizer: "PreTrainedTokenizerFast", tokens: Sequence[str]) -> None:
    """Let the decoder see the bytes of added tokens such as "café", whose letters it would take for bytes."""
    from tokenizers import Regex, decoders, pre_tokenizers

    if not tokens:
        return
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelled = {token: "".join(text for text, _ in byte_level.pre_tokenize_str(token)) for token in tokens}
    steps = [decoders.Replace(Regex(rf"\A{re.escape(token)}\z"), text) for token, text in spelled.items()]
    backend = tokenizer.backend_tokenizer
    backend.decoder = decoders.Sequence([*steps, backend.decoder])


def added_ids(tokenizer: "PreTrainedTokenizerFast", before: "PreTrainedTokenizerFast | None") -> list[int]:
    """The ids that `tokenizer` has beyond those of `before`, or without it beyond those that were trained."""
    known = set(before.get_vocab().values()) if before is not None else set()
    special = set(tokenizer.all_special_ids)
    added = set(tokenizer.get_added_vocab().values())
    return sorted(added - known - special if before is None else added - known)


def pieces_of(tokenizer: "PreTrainedTokenizerFast", ids: Sequence[int]) -> dict[int, list[int]]:
    """{added id: the ids that its text consists of without the added tokens}."""
    from tokenizers import Tokenizer

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    texts = {token["id"]: token["content"] for token in content["added_tokens"] if token["id"] in set(ids)}
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] not in texts]
    content["truncation"] = content["padding"] = None
    before = Tokenizer.from_str(json.dumps(content))
    before.encode_special_tokens = True
    return {number: before.encode(text, add_special_tokens=False).ids for number, text in texts.items()}
