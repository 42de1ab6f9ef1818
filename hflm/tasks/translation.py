"""Translation.

A row      {"translation": {"en": "Two men are outside.", "de": "Zwei Männer sind im Freien."}}
           (or the two languages as columns of their own; the target may be a list of several references)
its recipe  kind: translation, source: en, target: de, languages: [English, German]
its prompt "English: Two men are outside.\\nGerman:"
its target "Zwei Männer sind im Freien."
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Strict

from hflm.recipe import Columns, GeneratingTask
from hflm.recipe.section import count
from hflm.tasks import _cells as cells
from hflm.tasks._kind import Row

if TYPE_CHECKING:
    from hflm.tasks._examples import Example

COLUMNS = ("source", "target")
PROMPT = "{{ languages[0] }}: {{ source }}\n{{ languages[1] }}:"
SUBJECT = "source"
MAX_NEW_TOKENS = 128
STOP = ("\n",)
METRICS = ("bleu", "chrf", "ter")


class Translation(GeneratingTask):
    kind: Literal["translation"] = "translation"
    source: str
    """The column to translate."""
    target: Columns
    """The column of the translation, or of several, or a list of columns with one each: the first is trained on."""
    languages: Annotated[tuple[str, ...], Strict(False), count(2, 2)] | None = None
    """The languages of source and target, as the prompt names them."""

    @property
    def language_names(self) -> tuple[str, ...]:
        """The languages that the recipe names, else the names of the columns."""
        return self.languages or (self.source, self.target if isinstance(self.target, str) else self.target[0])


def fields(task: Translation, row: Row) -> dict[str, Any]:
    return {"source": cells.text(row, task.source), "languages": task.language_names}


def references(task: Translation, row: Row) -> tuple[str, ...]:
    return cells.references(row, task.target)


def baselines(task: Translation, examples: "Sequence[Example]", sources: Sequence[str]) -> dict[str, list[str]]:
    return {"copy": list(sources)}
