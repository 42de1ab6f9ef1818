"""Choice: any prompt over any columns, and one of a few labels after it, as in sentiment.

A row      {"premise": "A man sleeps.", "hypothesis": "A man is awake.", "label": 2}
its recipe  kind: choice, prompt: "{{ premise }} Question: {{ hypothesis }} Yes, maybe or no?\\nAnswer:",
            labels: ["yes", "maybe", "no"]                     (quoted: a bare yes is a truth value in YAML)
its prompt "A man sleeps. Question: A man is awake. Yes, maybe or no?\\nAnswer:"
its target "no"
"""

from typing import Any, Literal

from hflm.recipe import LabellingTask, Prompt
from hflm.tasks import _cells as cells
from hflm.tasks import sentiment
from hflm.tasks._kind import Row

COLUMNS = ("label",)
PROMPT = None  # the recipe's own
SUBJECT = None  # the longest text that the prompt shows
MAX_NEW_TOKENS = None
STOP = ()
METRICS = ("accuracy", "macro_f1", "mcc")
baselines = sentiment.baselines


class Choice(LabellingTask):
    kind: Literal["choice"] = "choice"
    prompt: Prompt  # pyright: ignore[reportGeneralTypeIssues]  (required, unlike in the base class)
    """Jinja over the row; the label's word follows after one space."""


def fields(task: Choice, row: Row) -> dict[str, Any]:
    return {"labels": tuple(task.labels)}


def references(task: Choice, row: Row) -> tuple[str, ...]:
    return (cells.label(row, task.label, tuple(task.labels)),)
