"""Chat: a conversation, of which the assistant's turns are trained on.

A row      {"messages": [{"role": "user", "content": "How tall is it?"}, {"role": "assistant", "content": "324 m."}]}
           {"conversations": [{"from": "human", "value": "How tall is it?"}, {"from": "gpt", "value": "324 m."}]}
           {"instruction": "Translate.", "input": "It rains.", "output": "Es regnet."}
its recipe  kind: chat
           kind: chat, messages: conversations
           kind: chat, messages: [instruction, input, output]
its prompt all turns but the last, by the chat template of the tokenizer
its target "324 m."

A system turn may come first; user and assistant take turns after it, and the assistant is last. Example.prompt is a
readable form of the earlier turns: what the model reads is made by its tokenizer (hflm.preprocessing.conversations).
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Strict

from hflm.recipe import Columns, GeneratingTask, Prompt
from hflm.recipe.section import KeyProblem, count, unique
from hflm.recipe.tasks import GeneratedMetric
from hflm.tasks import _cells as cells
from hflm.tasks._kind import Row

if TYPE_CHECKING:
    from hflm.tasks._examples import Example

COLUMNS = ("messages",)
PROMPT = "{% for turn in turns %}{{ roles[loop.index0] | capitalize }}: {{ turn }}\n{% endfor %}Assistant:"
SUBJECT = None
MAX_NEW_TOKENS = 256
STOP = ()
LIKELIHOOD = ("perplexity", "bits_per_byte")  # of the assistant's turns
METRICS = ("rougeL", "f1", *LIKELIHOOD)
ROLES = {"human": "user", "gpt": "assistant", "model": "assistant"}
TOOLS = ("tool", "function", "ipython", "observation", "function_call")

Message = dict[str, str]  # {"role": "system", "user" or "assistant", "content": text}
Metric = Literal[GeneratedMetric, "perplexity", "bits_per_byte"]


class Chat(GeneratingTask):
    kind: Literal["chat"] = "chat"
    messages: Columns = "messages"
    """The column of the turns, or a list: the columns of the user's text, then that of the answer."""
    prompt: Prompt | None = None
    """Not for conversations: the tokenizer's chat template makes the prompt."""
    shots: int = 0
    """Not for conversations, which have earlier turns of their own."""
    metrics: Annotated[tuple[Metric, ...], Strict(False), count(1), AfterValidator(unique)] | None = None  # type: ignore[assignment]
    """Scores of the last turn's text, and of the likelihood of all turns of the assistant (perplexity, bits_per_byte)."""

    @classmethod
    def rules(cls, raw: dict[str, Any]) -> Iterator[KeyProblem]:
        yield from super().rules(raw)
        if raw.get("prompt") is not None:
            yield ("prompt",), "the chat template of the tokenizer makes the prompt. Remove it"
        if raw.get("shots"):
            yield ("shots",), "a conversation has earlier turns of its own. Remove it"
        if isinstance(raw.get("messages"), list) and len(raw["messages"]) == 1:
            yield ("messages",), "a list has at least two columns: the user's text, and the answer"


def fields(task: Chat, row: Row) -> dict[str, Any]:
    *earlier, _ = _messages(task, row)
    return {"turns": [each["content"] for each in earlier], "roles": tuple(each["role"] for each in earlier)}


def references(task: Chat, row: Row) -> tuple[str, ...]:
    return (_messages(task, row)[-1]["content"],)


def baselines(task: Chat, examples: "Sequence[Example]", subjects: Sequence[str]) -> dict[str, list[str]]:
    return {}


def conversation(example: "Example") -> list[Message]:
    """The turns of an example, the assistant's last one included."""
    roles = [*example.fields["roles"], "assistant"]
    turns = [*example.fields["turns"], example.target]
    return [{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)]


def replace_turns(task: Chat, example: "Example", messages: Sequence[Message]) -> "Example":
    """The example with other turns, the last of them the assistant's."""
    from hflm.tasks._prompts import render

    *earlier, last = messages
    turns = {"turns": [each["content"] for each in earlier], "roles": tuple(each["role"] for each in earlier)}
    values = {**example.fields, **turns}
    prompt, _ = render(task, values)
    text = last["content"]
    return dataclasses.replace(example, prompt=prompt, target=text, references=(text,), fields=values)


def _messages(task: Chat, row: Row) -> list[Message]:
    """The turns of a row, their text without outer white space. Raises BadValue for turns that cannot be trained on."""
    if not isinstance(task.messages, str):
        *asked, answer = task.messages
        parts = [cells.text(row, asked[0]), *(_optional(row, column) for column in asked[1:])]
        question = "\n\n".join(part for part in parts if part)
        return [
            {"role": "user", "content": question},
            {"role": "assistant", "content": cells.text(row, answer)},
        ]
    column = task.messages
    turns = cells.cell(row, column)
    if not isinstance(turns, list | tuple):
        raise cells.BadValue(
            f"{column} is {cells.shown(turns)}, not a list of turns such as {{role: user, content: ...}}"
        )
    if not turns:
        raise cells.BadValue(f"{column} is an empty list")
    messages = [_turn(turn, f"{column}[{number}]") for number, turn in enumerate(turns)]
    _check_order([each["role"] for each in messages], column)
    return messages


def _optional(row: Row, column: str) -> str:
    value = cells.cell(row, column)
    return "" if cells.is_null(value) or (isinstance(value, str) and not value.strip()) else cells.text(row, column)


def _turn(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict) or not ({"role", "content"} <= turn.keys() or {"from", "value"} <= turn.keys()):
        raise cells.BadValue(f"{place} is {cells.shown(turn)}, without role and content, or from and value")
    role, content = ("role", "content") if turn.get("role") is not None else ("from", "value")
    said = turn.get(role)
    if said in TOOLS or turn.get("tool_calls"):
        raise cells.BadValue(f"{place} uses a tool ({cells.shown(said)}), which hflm does not train. Leave the row out")
    known = ROLES.get(said, said) if isinstance(said, str) else said
    if known not in ("system", "user", "assistant"):
        raise cells.BadValue(
            f"{place}.{role} is {cells.shown(said)}; expected system, user (human) or assistant (gpt, model)"
        )
    try:
        text = cells.text({f"{place}.{content}": turn.get(content)}, f"{place}.{content}")
    except cells.BadValue as error:
        raise cells.BadValue(f"{error}: the turn of the {known}") from None
    return {"role": known, "content": text}


def _check_order(roles: Sequence[str], column: str) -> None:
    if "assistant" not in roles:
        raise cells.BadValue(f"{column} has no turn of the assistant, so there is nothing to train on")
    expected = "user"
    for number, role in enumerate(roles):
        if role == "system" and number == 0:
            continue
        if role != expected:
            before = f"after that of the {roles[number - 1]}" if number else "first"
            raise cells.BadValue(
                f"{column}[{number}] is a turn of the {role} {before}; expected one of the {expected}. After a system turn "
                "user and assistant take turns"
            )
        expected = "user" if role == "assistant" else "assistant"
    if roles[-1] != "assistant":
        raise cells.BadValue(f"{column} ends with a turn of the user; the assistant's is last. Leave that turn out")
