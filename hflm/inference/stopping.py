"""Where an answer ends: at the model's end tokens, and before a stop string."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def end_of_text(tokenizer: "PreTrainedTokenizerFast") -> int:
    token = tokenizer.eos_token_id
    assert isinstance(token, int), "hflm loads no tokenizer without an end of text"
    return token


def padding_token(tokenizer: "PreTrainedTokenizerFast") -> int:
    token = tokenizer.pad_token_id
    assert isinstance(token, int), "hflm loads each tokenizer with a padding token"
    return token


def end_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast") -> set[int]:
    """The ids that end an answer: the tokenizer's end of text and those that the model's generation config names."""
    config = model.generation_config
    ends = config.eos_token_id if config else None
    ends = ends if isinstance(ends, list) else [ends]
    return {token for token in (tokenizer.eos_token_id, *ends) if isinstance(token, int)}


def cut_at_stop(text: str, stop: Iterable[str]) -> str:
    """The text before the first of the stop strings.

    >>> cut_at_stop(" Paris\\nQuestion: ...", ["\\n"])
    ' Paris'
    """
    # Many models open with a line break: a stop string of white space alone counts after the first word.
    start = len(text) - len(text.lstrip())
    ends = [end for end in (text.find(string, start if string.isspace() else 0) for string in stop) if end >= 0]
    return text[: min(ends)] if ends else text
