"""Sentiment: a text and one of a few words. The words are scored by the model, nothing is generated.

A row      {"text": "a stirring , funny film", "label": 1}       (or the label's word itself)
its recipe  kind: sentiment, labels: [negative, positive]
its prompt "Review: a stirring , funny film\\nSentiment:"
its target "positive"
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from hflm.recipe import LabellingTask
from hflm.tasks import _cells as cells
from hflm.tasks._kind import Row

if TYPE_CHECKING:
    from hflm.tasks._examples import Example

COLUMNS = ("text", "label")
PROMPT = "Review: {{ text }}\nSentiment:"
SUBJECT = "text"
MAX_NEW_TOKENS = None
STOP = ()
METRICS = ("accuracy", "macro_f1", "mcc")


class Sentiment(LabellingTask):
    kind: Literal["sentiment"] = "sentiment"
    text: str = "text"
    """The column to judge."""


def fields(task: Sentiment, row: Row) -> dict[str, Any]:
    return {"text": cells.text(row, task.text), "labels": tuple(task.labels)}


def references(task: Sentiment, row: Row) -> tuple[str, ...]:
    return (cells.label(row, task.label, tuple(task.labels)),)


def baselines(task: LabellingTask, examples: "Sequence[Example]", subjects: Sequence[str]) -> dict[str, list[str]]:
    counts = Counter(example.target for example in examples)
    return {"majority": [max(task.labels, key=counts.__getitem__)] * len(examples)}
