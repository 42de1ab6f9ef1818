"""Cut a text into windows of a model's context, to sum the likelihood of all its tokens."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hflm.preprocessing import begin_token, plain_backend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from hflm.preprocessing import Conversation


@dataclass(frozen=True)
class TextWindow:
    """The ids of a window; its last `scored` ids count, and spell `text`."""

    ids: list[int]
    scored: int
    text: str

    @property
    def bytes(self) -> int:
        """The length of the text in UTF-8."""
        return len(self.text.encode())


def turn_windows(conversation: "Conversation", context_length: int) -> list[TextWindow]:
    """A window for each turn of the assistant: all that comes before it, as far as the context has room, and the turn."""
    windows = []
    for (start, end), text in zip(conversation.turns, conversation.texts, strict=True):
        ids = conversation.ids[max(0, end - context_length) : end]
        windows.append(TextWindow(ids, min(end - start, len(ids) - 1), text))
    return windows


def text_windows(tokenizer: "PreTrainedTokenizerFast", text: str, context_length: int) -> list[TextWindow]:
    """The windows in which every token of the text is predicted exactly once, the first from the begin-of-text token.

    Windows of `context_length` overlap by half, so that all scored tokens but those of the first half window have at
    least half a context before them.
    """
    encoding = plain_backend(tokenizer).encode(text, add_special_tokens=False)
    ids = [begin_token(tokenizer), *encoding.ids]
    windows, done, characters = [], 1, 0
    while done < len(ids):
        end = min(len(ids), done + (context_length - 1 if done == 1 else context_length // 2))
        last = len(text) if end == len(ids) else encoding.offsets[end - 2][1]
        windows.append(TextWindow(ids[max(0, end - context_length) : end], end - done, text[characters:last]))
        done, characters = end, last
    return windows
