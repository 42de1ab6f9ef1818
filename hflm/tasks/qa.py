"""Question answering over a context.

A row      {"context": "The tower is 324 metres tall.", "question": "How tall is the tower?",
            "answers": {"text": ["324 metres", "324"], "answer_start": [13, 13]}}   (or a list of texts, or one text)
its prompt "The tower is 324 metres tall.\\nQuestion: How tall is the tower?\\nAnswer:"
its target "324 metres"

A question without an answer has an empty list: its target is the word `unanswerable`, its reference "".
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from hflm.core import split_words
from hflm.recipe import Columns, GeneratingTask
from hflm.tasks import _cells as cells
from hflm.tasks._kind import Row
from hflm.tasks._sentences import sentences

if TYPE_CHECKING:
    from hflm.tasks._examples import Example

COLUMNS = ("context", "question", "answers")
PROMPT = "{{ context }}\nQuestion: {{ question }}\nAnswer:"
SUBJECT = "context"
MAX_NEW_TOKENS = 32
STOP = ("\n",)
METRICS = ("exact_match", "f1")


def _is_none(value: object) -> bool:
    return value is None  # a recipe without the key keeps the key of its stages


class Qa(GeneratingTask):
    kind: Literal["qa"] = "qa"
    context: str = "context"
    """The column of the passage."""
    question: str = "question"
    """The column of the question."""
    answers: Columns = "answers"
    """The column of the right answers, or a list of columns with one each; none at all: unanswerable."""
    language: Annotated[Literal["ar", "de", "en", "es", "hi", "vi", "zh"] | None, Field(exclude_if=_is_none)] = None
    """The language of the answers, whose articles do not count in scores; by default English is recognised."""

    @property
    def cluster_column(self) -> str:
        return self.cluster or self.context


def fields(task: Qa, row: Row) -> dict[str, Any]:
    return {"context": cells.text(row, task.context), "question": cells.text(row, task.question)}


def references(task: Qa, row: Row) -> tuple[str, ...]:
    if not isinstance(task.answers, str):
        return cells.references(row, task.answers)
    column, answers = task.answers, cells.cell(row, task.answers)
    if isinstance(answers, dict):
        column = f"{task.answers}.text"
        answers = cells.cell({f"{task.answers}.{key}": value for key, value in answers.items()}, column)
    if isinstance(answers, list | tuple) and not answers:
        return ("",)
    return cells.texts({column: answers}, column)


def baselines(task: Qa, examples: "Sequence[Example]", contexts: Sequence[str]) -> dict[str, list[str]]:
    """The sentence that has most words in common with the question; where some questions have no answer, also the
    empty answer to all of them, which is what a model reaches that only refuses.
    """
    found = {
        "best sentence": [
            max(sentences(context), key=lambda sentence: _overlap(sentence, example.fields[task.question]), default="")
            for example, context in zip(examples, contexts, strict=True)
        ]
    }
    if any(example.references == ("",) for example in examples):
        found["never answers"] = [""] * len(examples)
    return found


def _overlap(sentence: str, question: str) -> int:
    return len(set(split_words(sentence)) & set(split_words(question)))
