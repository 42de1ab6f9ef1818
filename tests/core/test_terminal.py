"""What recipes, data and results name reaches a terminal as it is: no markup of rich, no control characters."""

import io

import pytest
from rich.console import Console

from hflm.core import plain_table, plain_text
from hflm.data.cleaning import cleaning_table
from hflm.data.cleaning.report import CleaningReport, CleaningStep
from hflm.evaluation import Results, Score, TaskResult, results_table

HOSTILE = "[red]x[/red]\x1b[31m[/nonsense]\a"
SHOWN = "[red]x[/red]\\u001b[31m[/nonsense]\\u0007"


def printed(renderable):
    console = Console(width=200, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(renderable)
    return console.file.getvalue()


def results():
    task = TaskResult(
        "sentiment", 1, {HOSTILE: Score(0.5, (0.4, 0.6), "")}, {HOSTILE: {HOSTILE: 0.5}}, "", "", "", 0, 0
    )
    return results_table(Results("m", {HOSTILE: task}))


def cleaning():
    return cleaning_table(
        CleaningReport(2, 1, 0, (CleaningStep("words", {"min": 3}, 1, ({"text": "a", "why": HOSTILE},)),))
    )


@pytest.mark.parametrize("make", [lambda: plain_text(HOSTILE), results, cleaning])
def test_names_and_texts_are_neither_markup_nor_commands_to_the_terminal(make):
    text = printed(make())
    assert SHOWN in text
    assert "\a" not in text and "\x1b[31m" not in text


def test_no_number_of_a_table_is_cut_in_a_terminal_of_80_columns():
    headings = ("source", "texts", "bytes", "bytes per token", "tokens per word", "unknown", "part of a character")
    row = ("translation (English)", "2,000", "1,408,312", "4.32", "1.17", "10.00 %", "10.00 %")
    console = Console(width=80)
    with console.capture() as shown:
        console.print(plain_table("Tokenizer", headings, [row]))
    [line] = [line for line in shown.get().splitlines() if "translation" in line]
    assert all(cell in line for cell in row)
