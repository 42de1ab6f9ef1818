"""Language modelling: no prompt, the whole text is the target; nothing is generated.

A row      {"text": " = Robert Boulter = \\n"}
its prompt ""
its target " = Robert Boulter = \\n"            (unstripped: bits per byte count every byte)

Blank documents are left out. With `rows: lines` the rows are one running text, each closed by one line break: a
single example.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Strict

from hflm.recipe import Rows, Task
from hflm.recipe.section import count, unique
from hflm.tasks import _cells as cells
from hflm.tasks._kind import Row

if TYPE_CHECKING:
    from hflm.tasks._examples import Example

COLUMNS = ("text",)
PROMPT = ""
SUBJECT = None
MAX_NEW_TOKENS = None
STOP = ()
METRICS = ("perplexity", "bits_per_byte")

Metrics = Annotated[tuple[Literal["perplexity", "bits_per_byte"], ...], Strict(False), count(1), AfterValidator(unique)]


class LanguageModeling(Task):
    kind: Literal["language_modeling"] = "language_modeling"
    text: str = "text"
    """The column that holds the text."""
    rows: Rows = "documents"
    """Rows are documents, or the lines of one running text."""
    metrics: Metrics | None = None
    """Scores; both by default."""


def fields(task: LanguageModeling, row: Row) -> dict[str, Any]:
    return {}


def references(task: LanguageModeling, row: Row) -> tuple[str, ...]:
    value = cells.cell(row, task.text)
    text = cells.written(value)
    if not isinstance(text, str):
        raise cells.BadValue(f"{task.text} is {cells.shown(value)}, not text")
    return (text.removesuffix("\n") + "\n" if task.rows == "lines" else text,)


def baselines(task: LanguageModeling, examples: "Sequence[Example]", subjects: Sequence[str]) -> dict[str, list[str]]:
    return {}
