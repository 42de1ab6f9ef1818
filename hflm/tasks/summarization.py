"""Summarization.

A row      {"document": "#Person1#: Have you had enough time?\\n#Person2#: Yes, we are ready to order.",
            "summary": "#Person2# is ready to order."}   (or a list of several reference summaries)
its prompt "#Person1#: Have you had enough time?\\n#Person2#: Yes, we are ready to order.\\nSummary:"
its target "#Person2# is ready to order."
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from hflm.recipe import Columns, GeneratingTask
from hflm.tasks import _cells as cells
from hflm.tasks._kind import Row
from hflm.tasks._sentences import lead

if TYPE_CHECKING:
    from hflm.tasks._examples import Example

COLUMNS = ("document", "summary")
PROMPT = "{{ document }}\nSummary:"
SUBJECT = "document"
MAX_NEW_TOKENS = 128
STOP = ("\n\n",)  # a summary may have lines (CNN/DailyMail's highlights); shots are separated by a blank line
METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class Summarization(GeneratingTask):
    kind: Literal["summarization"] = "summarization"
    document: str = "document"
    """The column to summarize."""
    summary: Columns = "summary"
    """The column of the summary, or of several, or a list of columns with one each: the first is trained on."""


def fields(task: Summarization, row: Row) -> dict[str, Any]:
    return {"document": cells.text(row, task.document)}


def references(task: Summarization, row: Row) -> tuple[str, ...]:
    return cells.references(row, task.summary)


def baselines(task: Summarization, examples: "Sequence[Example]", documents: Sequence[str]) -> dict[str, list[str]]:
    return {"lead-3": [lead(document, 3) for document in documents]}
