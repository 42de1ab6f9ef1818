"""Rows of conversations: their forms, and what is wrong with a row, by its place."""

import pytest

from hflm import tasks
from hflm.core import DataError
from hflm.tasks import Chat

DATA = {"path": "toy", "name": "qa"}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


HUMAN = {"from": "human", "value": " a "}
TURNS = [user("a"), assistant("b"), user("c"), assistant("d")]
RIGHT = [
    ("messages", {"messages": TURNS}, ["a", "b", "c", "d"], "User: a\nAssistant: b\nUser: c\nAssistant:"),
    (
        "messages",
        {"messages": [{"role": "system", "content": "S"}, *TURNS[:2]]},
        ["S", "a", "b"],
        "System: S\nUser: a\nAss",
    ),
    ("talk", {"talk": [HUMAN, {"from": "gpt", "value": "b"}]}, ["a", "b"], "User: a\nAssistant:"),
    (
        "talk",
        {"talk": ({**user("a"), "from": None}, {**assistant(7), "tool_calls": None})},
        ["a", "7"],
        "User: a\nAssistant:",
    ),
    (
        ["i", "n", "o"],
        {"i": "Translate.", "n": "It rains.", "o": "x"},
        ["Translate.\n\nIt rains.", "x"],
        "User: Translate.\n\n",
    ),
    (["i", "n", "o"], {"i": "Hello", "n": None, "o": "x"}, ["Hello", "x"], "User: Hello\nAssistant:"),
]


@pytest.mark.parametrize(("column", "row", "contents", "prompt"), RIGHT)
def test_the_forms_of_a_conversation(column, row, contents, prompt):
    [example], _ = tasks.read_examples(Chat(data=DATA, messages=column), [row], "rows.jsonl")
    turns = tasks.conversation(example)
    assert [turn["content"] for turn in turns] == contents
    assert turns[-1]["role"] == "assistant" and example.references == (contents[-1],)
    assert example.prompt.startswith(prompt)


WRONG = [
    ([], "messages is an empty list"),
    (None, "messages is None, not a list of turns such as {role: user, content: ...}"),
    ("User: a", "messages is 'User: a', not a list of turns"),
    ([{"role": "user"}], "messages[0] is {'role': 'user'}, without role and content, or from and value"),
    (["a", "b"], "messages[0] is 'a', without role and content"),
    ([user("a")], "messages has no turn of the assistant, so there is nothing to train on"),
    ([*TURNS, user("e")], "messages ends with a turn of the user; the assistant's is last. Leave that turn out"),
    (
        [assistant("a"), user("b"), assistant("c")],
        "messages[0] is a turn of the assistant first; expected one of the user",
    ),
    (
        [user("a"), user("b"), assistant("c")],
        "messages[1] is a turn of the user after that of the user; expected one of the",
    ),
    (
        [user("a"), assistant("b"), {"role": "system", "content": "S"}],
        "messages[2] is a turn of the system after that of the",
    ),
    ([user(" "), assistant("b")], "messages[0].content is empty: the turn of the user"),
    ([user("a"), assistant(None)], "messages[1].content is null: the turn of the assistant"),
    (
        [user([{"type": "image"}]), assistant("b")],
        "messages[0].content is [{'type': 'image'}], not text: the turn of the user",
    ),
    (
        [{"role": "bot", "content": "a"}],
        "messages[0].role is 'bot'; expected system, user (human) or assistant (gpt, model)",
    ),
    ([user("a"), {"role": "tool", "content": "b"}], "messages[1] uses a tool ('tool'), which hflm does not train"),
    ([user("a"), {**assistant("b"), "tool_calls": [{}]}], "messages[1] uses a tool ('assistant')"),
]


@pytest.mark.parametrize(("messages", "problem"), WRONG)
def test_what_is_wrong_with_a_row_is_said_once_with_its_place(messages, problem):
    rows = [{"messages": TURNS}, {"messages": messages}]
    with pytest.raises(DataError) as caught:
        tasks.read_examples(Chat(data=DATA), rows, "rows.jsonl")
    first, line = str(caught.value).split("\n")
    assert first == "rows.jsonl: 1 of 2 rows cannot be used (on_bad_row: skip leaves bad rows out)"
    assert line.startswith(f"  row 2: {problem}") and line.count(problem) == 1
    examples, skipped = tasks.read_examples(Chat(data=DATA, on_bad_row="skip"), rows, "rows.jsonl")
    assert (len(examples), len(skipped)) == (1, 1)


def test_another_column_is_asked_for():
    with pytest.raises(
        DataError, match="no column for messages: messages. Their columns are: conversations. Set messages"
    ):
        tasks.read_examples(Chat(data=DATA), [{"conversations": TURNS}], "rows.jsonl")
