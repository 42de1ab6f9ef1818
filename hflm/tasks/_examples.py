"""Rows become examples: reading them, solved examples before a prompt, shorter prompts, baselines."""

import ast
import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from hflm.core import DataError, logger
from hflm.data import BadRow
from hflm.data import Row as FileRow
from hflm.recipe import PromptedTask
from hflm.tasks import _cells as cells
from hflm.tasks._kind import UNANSWERABLE, Row, kind_of, named_columns
from hflm.tasks._prompts import (
    prompt_variables,
    render,
    undefined,
    unnested,
    uses_default_prompt,
    visible_fields,
)

if TYPE_CHECKING:
    from hflm.recipe import Task

MAX_ROWS_SHOWN = 10
T = TypeVar("T")


@dataclass(frozen=True)
class Example:
    """One row, ready for a model.

    `id` is the row's own "id" as text, else its number from 0; `prompt` never ends in white space, and may be empty where
    the recipe writes it (generation, choice); `target` is what is trained on after the prompt and one space;
    `references` are all accepted answers (`("",)`: unanswerable); `fields` are what the prompt template sees. `cluster`
    is equal in rows that are no independent draws: a digest of the task's cluster column, or of the passage of a
    question; None where the task has none.
    """

    id: str
    prompt: str
    target: str
    references: tuple[str, ...]
    fields: dict[str, Any]
    cluster: str | None = None


class ReadExamples(NamedTuple):
    """The examples of a task, and one line for each row that was left out (`on_bad_row: skip`)."""

    examples: list[Example]
    skipped: list[str]


def read_examples(task: "Task", rows: Iterable[Row | BadRow], where: str) -> ReadExamples:
    """The examples of a task.

    A row of a file is named by its file and line; others by `where` ("toy sentiment [test]") and their number from 1.
    Raises DataError: no rows, a column that no row has, a prompt that does not render, rows that cannot be used.
    """
    reader = _Reader(task, where)
    for row in rows:
        reader.add(row)
    if not reader.count:
        raise DataError(f"{where}: there are no rows")
    reader.check_columns()
    if reader.problems and (task.on_bad_row == "error" or not reader.examples):
        raise DataError(describe_bad_rows(reader.problems, reader.count, where))
    reader.warn_of_literal_lists()
    examples = reader.examples
    if task.kind == "language_modeling":
        examples = _texts(task, examples, where)
    return ReadExamples(examples, reader.problems)


class _Reader:
    """Examples and problems of the rows read so far."""

    def __init__(self, task: "Task", where: str) -> None:
        self.task, self.kind, self.where = task, kind_of(task), where
        self.examples: list[Example] = []
        self.problems: list[str] = []
        self.count = self.rendered = 0
        self.columns: dict[str, None] = {}
        self.missing: Counter[str] = Counter()
        self.literal_lists: list[tuple[str, Row]] = []  # references that are lists written as text, and their rows

    def add(self, row: Row | BadRow) -> None:
        self.count += 1
        if isinstance(row, BadRow):
            if row.rest and row.row is None and self.task.on_bad_row == "error":
                raise DataError(str(row))
            self.problems.append(str(row))
            return
        place = str(row.location) if isinstance(row, FileRow) else f"{self.where}, row {self.count}"
        row = unnested(row)
        self.columns |= dict.fromkeys(row)
        bad: list[str] = []
        canonical = _attempt(self.kind.fields, self.task, row, bad) or {}
        references = _attempt(self.kind.references, self.task, row, bad) or ()
        cluster = _attempt(_cluster, self.task, row, bad)
        fields = visible_fields(self.task, row, canonical)
        prompt = "" if bad else self._prompt(fields, bad)
        if bad or not references:
            self.problems.append(f"{place}: {'; '.join(dict.fromkeys(bad))}")
            return
        identity = str(self.count - 1) if cells.is_null(row.get("id")) else str(row["id"])
        target = UNANSWERABLE if references == ("",) and self.kind.PROMPT != "" else references[0]
        self.examples.append(Example(identity, prompt, target, references, fields, cluster))
        if self.kind.PROMPT != "" and _is_literal_list(references[0]):
            self.literal_lists.append((references[0], row))

    def _prompt(self, fields: dict[str, Any], bad: list[str]) -> str:
        self.rendered += 1
        try:
            prompt, missing = render(self.task, fields)
        except cells.BadValue as error:
            bad.append(str(error))
            return ""
        self.missing.update(missing)
        if not prompt and self.kind.PROMPT:
            bad.append("the prompt is empty")
        return prompt

    def check_columns(self) -> None:
        """DataError for columns that the task or its prompt names and no row has."""
        if not self.columns:
            return
        named = named_columns(self.task)
        missing = {key: ", ".join(name for name in names if name not in self.columns) for key, names in named.items()}
        if wrong := {key: names for key, names in missing.items() if names}:
            raise DataError(
                f"{self.where}: the rows have no column for {', '.join(f'{key}: {names}' for key, names in wrong.items())}. "
                f"Their columns are: {cells.listed(self.columns)}. Set {' and '.join(wrong)} in the task to the right one."
            )
        nowhere = {name for name, count in self.missing.items() if count == self.rendered}
        if nowhere:
            raise DataError(f"{self.where}: {undefined(nowhere, self.columns)}")

    def warn_of_literal_lists(self) -> None:
        """A warning where most references are lists written as text, with the column that holds them."""
        if 2 * len(self.literal_lists) <= len(self.examples):
            return
        reference, row = self.literal_lists[0]
        named = dict.fromkeys(column for columns in named_columns(self.task).values() for column in columns)
        columns = [column for column in named if str(row.get(column)).strip() == reference]
        logger.warning(
            "%s: the column %s holds lists written as text, such as %s, in most rows. Each is scored as one text. Write "
            "one reference a column and name them (`target: [first, second]`), or lists in a JSON file",
            self.where,
            " and ".join(map(repr, columns)) or "of the references",
            cells.shown(reference),
        )


def _cluster(task: Any, row: Row) -> str | None:
    column = task.cluster_column if isinstance(task, PromptedTask) else None
    if column is None:
        return None
    value = cells.cell(row, column)
    if cells.is_null(value):
        raise cells.BadValue(f"{column}, the column of the cluster, is empty")
    return hashlib.sha256(json.dumps(value, default=str, sort_keys=True).encode()).hexdigest()[:12]


def _attempt(part: Callable[[Any, Row], T], task: Any, row: Row, bad: list[str]) -> T | None:
    """What a part of the kind makes of the row, or None and one more text in `bad`."""
    try:
        return part(task, row)
    except cells.BadValue as error:
        bad.append(str(error))
        return None


def describe_bad_rows(problems: Sequence[str], count: int, where: str) -> str:
    """The error for rows that cannot be used, the first of them line by line."""
    lines = [f"  {problem.removeprefix(f'{where}, ')}" for problem in problems[:MAX_ROWS_SHOWN]]
    if len(problems) > MAX_ROWS_SHOWN:
        lines.append(f"  ... and {len(problems) - MAX_ROWS_SHOWN} more")
    rows = f"{len(problems)} of {count} rows" if count > 1 else "its only row"
    return "\n".join([f"{where}: {rows} cannot be used (on_bad_row: skip leaves bad rows out)", *lines])


def _is_literal_list(text: str) -> bool:
    """Whether a text is a list of texts, or an object such as SQuAD's answers, as Python or JSON write them."""
    if (text[:1], text[-1:]) not in (("[", "]"), ("{", "}")):
        return False
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    if isinstance(value, dict):
        return any(isinstance(each, list) for each in value.values())
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)


def _texts(task: Any, examples: list[Example], where: str) -> list[Example]:
    """Language modelling: blank documents carry nothing to predict; lines are one running text."""
    if task.rows == "lines":
        text = "".join(example.target for example in examples)
        examples = [Example("0", "", text, (text,), {})]
    examples = [example for example in examples if example.target.strip()]
    if not examples:
        raise DataError(f"{where}: there is no text in column {task.text}")
    return examples


def with_shots(task: "Task", examples: Sequence[Example], shots: Sequence[Example]) -> list[Example]:
    """The examples with all `shots`, solved, before each prompt, separated by a blank line.

    >>> with_shots(task, [example], [shot])[0].prompt                                         # doctest: +SKIP
    'Review: dull\\nSentiment: negative\\n\\nReview: a stirring film\\nSentiment:'
    """
    solved = "".join(f"{shot.prompt} {shot.target}\n\n" for shot in shots)
    return [dataclasses.replace(example, prompt=solved + example.prompt) for example in examples]


def long_texts(task: "Task", example: Example) -> list[str]:
    """The texts of the row that the prompt shows, stripped, each once: what `shorten` cuts."""
    names = sorted(prompt_variables(task))
    # The kinds' constants (labels, languages) are tuples; a list of the row is a list.
    values = [value for name in names if not isinstance(value := example.fields.get(name), tuple)]
    found = dict.fromkeys(text.strip() for value in values for text in _strings(value))
    return [text for text in found if text and text in example.prompt]


def shorten(task: "Task", example: Example, lengths: Sequence[int]) -> Example:
    """The example with its `long_texts` cut to their first `lengths` characters and the prompt rendered anew.

    >>> shorten(qa, example, [9, 23]).prompt                                                  # doctest: +SKIP
    'The tower\\nQuestion: How tall is the tower?\\nAnswer:'
    """
    texts = zip(long_texts(task, example), lengths, strict=True)
    shorter = {text: text[:length].rstrip() for text, length in texts if length < len(text)}

    def cut(value: Any) -> Any:
        # The same text may be in several fields: under its canonical name, its column, or in a nested row.
        if isinstance(value, dict):
            return {key: cut(each) for key, each in value.items()}
        if isinstance(value, list):
            return [cut(each) for each in value]
        return shorter.get(value.strip(), value) if isinstance(value, str) else value

    fields = cut(example.fields)
    try:
        prompt, _ = render(task, fields)
    except cells.BadValue as error:
        raise DataError(f"row {example.id}: {error}") from None
    return dataclasses.replace(example, prompt=prompt, fields=fields)


def row_texts(task: "Task", example: Example) -> dict[str, str]:
    """The texts of the row that the prompt shows, by column, without the words of the prompt itself.

    A list or a nested row is shown as its texts, one a line. Language modelling has no prompt, and none.

    >>> row_texts(sentiment, example)                                                         # doctest: +SKIP
    {'text': 'a stirring film'}
    """
    # The kinds' constants (labels, languages, roles) are tuples; a list of the row is a list.
    values = {name: example.fields.get(name) for name in sorted(prompt_variables(task))}
    found = {name: "\n".join(_strings(value)) for name, value in values.items() if not isinstance(value, tuple)}
    return {name: text for name, text in found.items() if text}


def baseline_predictions(task: "Task", examples: Sequence[Example]) -> dict[str, list[str]]:
    """What needs no model: {"copy": [...]}, {"lead-3": [...]}, {"majority": [...]} or {"best sentence": [...]}.

    One prediction an example. "majority" is the most frequent label of these very examples; generation and language
    modelling have no baseline ({}).
    """
    return kind_of(task).baselines(task, examples, [_subject(task, example) for example in examples])


def _subject(task: "Task", example: Example) -> str:
    subject = kind_of(task).SUBJECT
    if subject is not None:
        return cells.text(example.fields, subject if uses_default_prompt(task) else getattr(task, subject))
    return max(long_texts(task, example), key=len, default="")


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [text for each in values for text in _strings(each)]
