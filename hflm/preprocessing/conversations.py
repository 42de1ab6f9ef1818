"""Conversations -> token ids by the tokenizer's chat template, and which of them are the assistant's.

The template is rendered by transformers in its sandbox. An assistant's turn is what the whole conversation has beyond
the turns before it with the generation prompt, up to its last character that is not white space: the text and the token
that ends the turn, which a model has to learn.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hflm.core import DataError
from hflm.preprocessing.tokenizer import first_line, plain_backend
from hflm.preprocessing.truncation import TruncatedPrompts
from hflm.tasks import DEFAULT_CHAT_TEMPLATE, Example, conversation, describe_bad_rows, replace_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from hflm.tasks import Chat, Message


class Conversation(NamedTuple):
    """The ids of a conversation, where each turn of the assistant begins and ends among them, and its text."""

    ids: list[int]
    turns: list[tuple[int, int]]
    texts: list[str]

    def labelled(self) -> np.ndarray:
        """(T,) bool: the tokens of the assistant."""
        mask = np.zeros(len(self.ids), bool)
        for start, end in self.turns:
            mask[start:end] = True
        return mask


def ensure_chat_template(tokenizer: "PreTrainedTokenizerFast") -> None:
    """Give a tokenizer that has no chat template hflm's own, which is saved with it."""
    if tokenizer.chat_template is None:
        tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE


def render_chat(tokenizer: "PreTrainedTokenizerFast", messages: "Sequence[Message]") -> str:
    """What a model reads before it writes the next turn of the assistant. Raises DataError.

    >>> render_chat(tokenizer, [{"role": "user", "content": "How tall is it?"}])              # doctest: +SKIP
    'User: How tall is it?\\nAssistant:'
    """
    return _render(tokenizer, messages, add_generation_prompt=True)


def encode_rendered(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts that a chat template made: where they spell a special token, they mean it."""
    return [encoding.ids for encoding in _encode(tokenizer, texts)]


def encode_conversations(
    tokenizer: "PreTrainedTokenizerFast", conversations: "Sequence[Sequence[Message]]"
) -> list[Conversation]:
    """Each conversation as its tokenizer's chat template writes it. Raises DataError for a template that cannot be used."""
    texts = [_render(tokenizer, messages) for messages in conversations]
    found = []
    for messages, text, encoding in zip(conversations, texts, _encode(tokenizer, texts), strict=True):
        starts = np.array([start for start, _ in encoding.offsets])
        spans = _assistant_spans(tokenizer, messages, text)
        # A token belongs to the turn in which it begins.
        turns = [(int(np.searchsorted(starts, first)), int(np.searchsorted(starts, last))) for first, last in spans]
        answers = [each["content"] for each in messages if each["role"] == "assistant"]
        found.append(Conversation(encoding.ids, turns, answers))
    return found


def end_of_turn(tokenizer: "PreTrainedTokenizerFast") -> int | None:
    """The token with which the chat template ends a turn of the assistant; None where it writes none."""
    [probe] = encode_conversations(
        tokenizer, [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]
    )
    last = probe.ids[probe.turns[-1][1] - 1]
    return last if last in tokenizer.added_tokens_decoder else None


def fit_for_training(
    task: "Chat", examples: Sequence[Example], tokenizer: "PreTrainedTokenizerFast", budget: int, where: str
) -> TruncatedPrompts:
    """The examples of at most `budget` tokens: a longer one loses its last turns, so that each keeps all before it."""

    def shorter(messages: "list[Message]") -> "list[Message]":
        return messages[:-2]

    def text(messages: "list[Message]") -> str:
        return _render(tokenizer, messages)

    return _fit(task, examples, tokenizer, budget, where, shorter, text)


def fit_for_answer(
    task: "Chat", examples: Sequence[Example], tokenizer: "PreTrainedTokenizerFast", budget: int, where: str
) -> TruncatedPrompts:
    """The examples whose prompt has at most `budget` tokens: a longer one loses its first turns, but a system turn."""

    def shorter(messages: "list[Message]") -> "list[Message]":
        system = 1 if messages[0]["role"] == "system" else 0
        return [*messages[:system], *messages[system + 2 :]]

    def text(messages: "list[Message]") -> str:
        return render_chat(tokenizer, messages[:-1])

    return _fit(task, examples, tokenizer, budget, where, shorter, text)


def _fit(
    task: "Chat",
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerFast",
    budget: int,
    where: str,
    shorter: "Callable[[list[Message]], list[Message]]",
    text: "Callable[[list[Message]], str]",
) -> TruncatedPrompts:
    """The examples whose `text` is within the budget, cut at borders of turns; what cannot be cut so is a bad row."""
    usable, problems = _usable(examples, tokenizer, where, text)
    fitted: dict[int, Example] = {}
    too_long = []
    sizes = map(len, encode_rendered(tokenizer, list(usable.values())))
    for number, size in zip(usable, sizes, strict=True):
        example = examples[number]
        whole = messages = conversation(example)
        while size > budget and len(shorter(messages)) > 1:
            messages = shorter(messages)
            size = len(encode_rendered(tokenizer, [text(messages)])[0])
        if size > budget:
            problems[number] = (
                f"{where}, row {example.id}: a user's turn and its answer alone have {size:,} tokens, the model has room for "
                f"{budget:,}. Use a larger block_size, or a model with more n_positions"
            )
            continue
        if messages is not whole:
            too_long.append(f"row {number + 1}")
        fitted[number] = example if messages is whole else replace_turns(task, example, messages)
    if too_long and task.too_long == "refuse":
        more = f" and {len(too_long) - 10} more" if len(too_long) > 10 else ""
        raise DataError(
            f"{where}: {len(too_long)} of {len(examples)} conversations are longer than the {budget:,} tokens that there is "
            f"room for: {', '.join(too_long[:10])}{more}. too_long: truncate cuts them at the borders of turns"
        )
    lines = [problems[number] for number in sorted(problems)]
    if lines and (task.on_bad_row == "error" or not fitted):
        raise DataError(describe_bad_rows(lines, len(examples), where))
    return TruncatedPrompts(list(fitted.values()), list(fitted), len(too_long), lines)


def _usable(
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerFast",
    where: str,
    text: "Callable[[list[Message]], str]",
) -> tuple[dict[int, str], dict[int, str]]:
    """By number of the example, (its text, what is wrong with a conversation that the chat template cannot write)."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    usable: dict[int, str] = {}
    problems: dict[int, str] = {}
    for number, example in enumerate(examples):
        messages, row = conversation(example), f"{where}, row {example.id}"
        if spelled := [token for token in special if any(token in each["content"] for each in messages)]:
            problems[number] = (
                f"{row}: a turn spells the special token {spelled[0]}, which the chat template would mean"
            )
            continue
        try:
            usable[number] = text(messages)
        except DataError as error:
            problems[number] = f"{row}: {error}"
    return usable, problems


def _assistant_spans(
    tokenizer: "PreTrainedTokenizerFast", messages: "Sequence[Message]", text: str
) -> list[tuple[int, int]]:
    """(first, last + 1) character in `text` of each turn of the assistant, its end token included."""
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(tokenizer, messages[:number], add_generation_prompt=True)
        until = _render(tokenizer, messages[: number + 1]).rstrip()
        if not text.startswith(before) or not text.startswith(until) or len(until) <= len(before):
            raise DataError(
                "the chat template of the tokenizer writes earlier turns differently when later ones follow, so that the "
                "assistant's tokens cannot be told from the others. Train on one exchange a row, or another template"
            )
        spans.append((len(before), len(until)))
    return spans


def _render(
    tokenizer: "PreTrainedTokenizerFast", messages: "Sequence[Message]", add_generation_prompt: bool = False
) -> str:
    assert tokenizer.chat_template is not None, "ensure_chat_template gave it one"
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": add_generation_prompt}
    try:
        return str(tokenizer.apply_chat_template(list(messages), **options))
    except Exception as error:  # a template raises what it likes: no system turn, roles out of order
        raise DataError(f"the chat template of the tokenizer refuses a conversation: {first_line(error)}") from error


def _encode(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> list[Any]:
    backend = plain_backend(tokenizer)
    backend.encode_special_tokens = False
    try:
        return backend.encode_batch(texts, add_special_tokens=False)
    finally:
        backend.encode_special_tokens = True
