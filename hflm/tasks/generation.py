"""Generation: any prompt over any columns, and a text to be written after it.

A row      {"name": "The Punter", "food": "Italian", "text": "The Punter serves Italian food."}
its recipe  kind: generation, prompt: "name: {{ name }}, food: {{ food }}\\nText:", target: text
its prompt "name: The Punter, food: Italian\\nText:"
its target "The Punter serves Italian food."   (the column may hold a list of several references)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from hflm.recipe import Columns, GeneratingTask, Prompt
from hflm.tasks import _cells as cells
from hflm.tasks._kind import Row

if TYPE_CHECKING:
    from hflm.tasks._examples import Example

COLUMNS = ("target",)
PROMPT = None  # the recipe's own
SUBJECT = None  # the longest text that the prompt shows
MAX_NEW_TOKENS = 128
STOP = ("\n\n",)
METRICS = ("rougeL", "chrf", "exact_match")


class Generation(GeneratingTask):
    kind: Literal["generation"] = "generation"
    prompt: Prompt  # pyright: ignore[reportGeneralTypeIssues]  (required, unlike in the base class)
    """Jinja over the row; the target follows after one space."""
    target: Columns
    """The column of the expected text, or of several, or a list of columns with one each: the first is trained on."""


def fields(task: Generation, row: Row) -> dict[str, Any]:
    return {}


def references(task: Generation, row: Row) -> tuple[str, ...]:
    return cells.references(row, task.target)


def baselines(task: Generation, examples: "Sequence[Example]", subjects: Sequence[str]) -> dict[str, list[str]]:
    return {}
