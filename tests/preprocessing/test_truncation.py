"""Prompts are cut to a number of tokens: every long text shares the loss, the rest of the prompt stays."""

import pytest

from hflm import tasks
from hflm.core import DataError
from hflm.preprocessing import encode, truncate_prompts
from hflm.preprocessing.truncation import equally_capped
from hflm.tasks import Choice, Qa

DATA = {"path": "some/data"}
PAIR = {"data": DATA, "prompt": "First: {{ a }}\nSecond: {{ b }}\nSame?", "labels": ["yes", "no"]}


def read(task, *rows):
    return tasks.read_examples(task, rows, "rows.jsonl").examples


def row(a, b, label="yes"):
    return {"a": "cup " * a, "b": "hat " * b, "label": label}


@pytest.mark.parametrize(
    "lengths, total, capped",
    [([9, 2, 6], 10, [4, 2, 4]), ([5], 3, [3]), ([3, 3], 7, [3, 3]), ([8, 8, 8], 8, [2, 3, 3]), ([], 0, [])],
)
def test_one_cap_for_all_lengths(lengths, total, capped):
    assert equally_capped(lengths, total) == capped


@pytest.mark.parametrize("a, b", [(60, 60), (90, 20), (60, 4), (4, 60), (300, 300)])
def test_all_long_columns_share_the_room(tokenizer, a, b):
    task = Choice(**PAIR)
    fitted = truncate_prompts(task, read(task, row(a, b)), tokenizer, [60], "rows.jsonl")
    assert (fitted.cut, fitted.numbers, fitted.skipped) == (1, [0], [])
    (example,) = fitted.examples
    assert 50 < len(encode(tokenizer, [example.prompt])[0]) <= 60
    first, second = example.prompt.count("cup"), example.prompt.count("hat")
    assert example.prompt.endswith("Same?") and first and second
    assert min(a, b) > 10 and abs(first - second) <= 2 or min(first, second) == min(a, b)


def test_a_short_question_stays(tokenizer):
    task = Qa(data=DATA)
    examples = read(task, {"context": "the hat " * 90, "question": "Where is the cup?", "answers": "a"})
    (example,) = truncate_prompts(task, examples, tokenizer, [60], "x").examples
    assert example.prompt.endswith("\nQuestion: Where is the cup?\nAnswer:")


NO_FIT = "the prompt is longer than the 5 tokens that the model has room for, even without its text"


@pytest.mark.parametrize(
    "budget, message", [(5, NO_FIT), (0, "the target is too long"), (-9, "the target is too long")]
)
def test_a_row_without_room_is_a_bad_row_that_says_what_is_too_long(tokenizer, budget, message):
    rows, budgets = [row(1, 1), row(2, 2)], [60, budget]
    task = Choice(**PAIR)
    with pytest.raises(DataError, match=rf"1 of 2 rows cannot be used.*\n  row 1: {message}"):
        truncate_prompts(task, read(task, *rows), tokenizer, budgets, "rows.jsonl")
    task = Choice(**PAIR, on_bad_row="skip")
    fitted = truncate_prompts(task, read(task, *rows), tokenizer, budgets, "rows.jsonl")
    assert fitted.numbers == [0] and fitted.cut == 0
    assert fitted.skipped[0].startswith(f"rows.jsonl, row 1: {message}")
    with pytest.raises(DataError, match="its only row cannot be used"):
        truncate_prompts(task, read(task, row(1, 1)), tokenizer, [budget], "rows.jsonl")


def test_refuse_cuts_nothing(tokenizer):
    task = Choice(**PAIR, too_long="refuse")
    with pytest.raises(DataError, match=r"1 of 1 prompts are longer than the 20 tokens.*row 1"):
        truncate_prompts(task, read(task, row(60, 60)), tokenizer, [20], "rows.jsonl")
