"""Tasks: rows of a data set become prompts, targets and references.

    recipe's task + rows --read--> examples --with_shots--> examples --benchmark--> predictions --metrics--> scores

Each kind is a module of this package, which opens with a real row and holds

    COLUMNS         the task's keys that name columns of the row
    PROMPT          the default prompt, jinja over the canonical fields (None: the recipe must give one)
    LONG            the field that `shorten` cuts (None: the longest text that the prompt shows)
    MAX_NEW_TOKENS, STOP, METRICS      defaults for what the recipe leaves out
    fields(task, row), references(task, row)                  a row's canonical fields and accepted answers
    baselines(task, examples, long_texts)                     name -> predictions

The text of a target follows its prompt after one space. Text of the data is never rendered as a template.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module

import jinja2

from hflm.core import DataError, compile_template, render_template, template_fields
from hflm.data import BadRow, Row
from hflm.tasks.cells import BadValue, listed

MOST_ROWS_SHOWN = 10
UNANSWERABLE = "unanswerable"  # what a model learns to answer where the only reference is ""


@dataclass(frozen=True)
class Example:
    """One row, ready for a model.

    `id` is the row's own "id" as text, else its number from 0; `prompt` never ends in white space; `target` is what
    training learns after the prompt and one space; `references` are all accepted answers (`("",)`: unanswerable);
    `fields` are what the prompt template sees.
    """

    id: str
    prompt: str
    target: str
    references: tuple[str, ...]
    fields: dict


def read(task, rows: Iterable[dict | BadRow], where: str) -> tuple[list[Example], list[str]]:
    """The examples of a task, and one line for each row that was left out (`on_bad_row: skip`).

    `rows` are dicts; `where` names them in messages ("data/train.jsonl"), where rows count from 1, as in an editor. A
    Row of a file is named by its file and line, and a BadRow is a row that cannot be used.
    Raises DataError: no rows, a column that is not there, a prompt that does not render, rows that cannot be used.
    """
    module, render = _module(task.kind), _renderer(task)
    examples, problems, rows_read, checked = [], [], 0, False
    for rows_read, row in enumerate(rows, 1):
        if isinstance(row, BadRow):
            if row.rest and row.row is None and task.on_bad_row == "error":
                raise DataError(str(row))
            problems.append(str(row))
            continue
        place = str(row.location) if isinstance(row, Row) else f"{where}, row {rows_read}"
        row = _unnested(row)
        if not checked:
            _check_columns(module, task, row, where)
            checked = True
        found, bad = [], []
        for part in (module.fields, module.references):
            try:
                found.append(part(task, row))
            except BadValue as error:
                bad.append(str(error))
        if not bad:
            canonical, references = found
            fields = _visible(task, row, canonical)
            prompt = render(fields, place)
            if not prompt and module.PROMPT != "":
                bad.append("the prompt is empty")
        if bad:
            problems.append(f"{place}: {'; '.join(bad)}")
            continue
        identity = str(rows_read - 1) if row.get("id") is None else str(row["id"])
        target = UNANSWERABLE if task.kind == "qa" and references == ("",) else references[0]
        examples.append(Example(identity, prompt, target, references, fields))
    if not rows_read:
        raise DataError(f"{where}: there are no rows")
    if problems and (task.on_bad_row == "error" or not examples):
        raise DataError(_report(problems, rows_read, where))
    if task.kind == "language_modeling":
        examples = _texts(task, examples, where)
    return examples, problems


def columns(task) -> frozenset[str]:
    """The names of the columns that a task reads: those that its keys name, those of its prompt, `id`, `translation`."""
    named = [getattr(task, key) for key in _module(task.kind).COLUMNS]
    flat = [name for each in named for name in ([each] if isinstance(each, str) else each or ())]
    return frozenset({*flat, "id", "translation"} | (set() if _by_default(task) else variables(task)))


def prompt(task, row: dict) -> str:
    """The prompt of one row that needs no target. Raises DataError.

    >>> prompt(qa, {"context": "The tower is red.", "question": "What is red?"})              # doctest: +SKIP
    'The tower is red.\\nQuestion: What is red?\\nAnswer:'
    """
    row = _unnested(row)
    try:
        canonical = _module(task.kind).fields(task, row)
    except BadValue as error:
        raise DataError(str(error)) from None
    return _renderer(task)(_visible(task, row, canonical), "this text")


def variables(task) -> set[str]:
    """The names that the task's prompt uses: canonical fields, and columns where the recipe gives the prompt."""
    return _template(task)[1]


def shorten(task, example: Example, characters: int) -> Example:
    """The example with its long text cut to the first `characters` and the prompt rendered anew, without shots.

    >>> shorten(qa, example, 9).prompt                                                        # doctest: +SKIP
    'The tower\\nQuestion: How tall is the tower?\\nAnswer:'
    """
    long = long_text(task, example)

    def cut(value):
        # The same text may stand in several fields: under its canonical name, its column, or in a nested row.
        if isinstance(value, dict):
            return {key: cut(inner) for key, inner in value.items()}
        return long[:characters].rstrip() if isinstance(value, str) and value.strip() == long else value

    fields = cut(example.fields)
    return dataclasses.replace(example, prompt=_renderer(task)(fields, f"row {example.id}"), fields=fields)


def with_shots(task, examples: list[Example], shots: list[Example]) -> list[Example]:
    """The examples with all `shots`, solved, before each prompt, separated by a blank line.

    >>> with_shots(task, [example], [shot])[0].prompt                                         # doctest: +SKIP
    'Review: dull\\nSentiment: negative\\n\\nReview: a stirring film\\nSentiment:'
    """
    solved = "".join(f"{shot.prompt} {shot.target}\n\n" for shot in shots)
    return [dataclasses.replace(example, prompt=solved + example.prompt) for example in examples]


def pieces(task) -> tuple[str, ...] | None:
    """The prompt's fixed text around the columns that it shows: n + 1 pieces for n columns, each of them shown once.

    None for a prompt that does anything else with its columns, and for language modelling, which has none.

    >>> pieces(sentiment)                                                                     # doctest: +SKIP
    ('Review: ', '\\nSentiment:')
    """
    if task.kind == "language_modeling":
        return None
    _, names = _template(task)
    constants = {"labels": choices(task)} if choices(task) else {}
    if task.kind == "translation":
        constants["languages"] = task.languages or (task.source, task.target)
    columns = sorted(names - constants.keys())
    # A filter changes a stand-in; a prompt that cuts or counts its column does so between two lengths.
    stands = [f"\x02 aB\n{number}\x03" for number in range(len(columns))]
    found = []
    for length in (1, 400):
        marks = [stand * length for stand in stands]
        try:
            prompt = _renderer(task)({**constants, **dict(zip(columns, marks, strict=True))}, "")
        except DataError:
            return None
        if any(prompt.count(mark) != 1 for mark in marks):
            return None
        found.append(re.split("|".join(f"(?:{stand})+" for stand in stands), prompt))
    return tuple(found[0]) if columns and found[0] == found[1] else None


def choices(task) -> tuple[str, ...] | None:
    """The words that may follow the prompt, in the recipe's order; None for tasks that write freely."""
    return tuple(task.labels) if task.kind in ("sentiment", "choice") else None


def defaults(task) -> tuple[int | None, tuple[str, ...], tuple[str, ...]]:
    """(max_new_tokens, stop, metrics): the recipe's, or the kind's own; (None, (), metrics) if nothing is generated."""
    module = _module(task.kind)
    metrics = module.METRICS if task.metrics is None else tuple(task.metrics)
    if module.MAX_NEW_TOKENS is None:
        return None, (), metrics
    tokens = module.MAX_NEW_TOKENS if task.max_new_tokens is None else task.max_new_tokens
    return tokens, module.STOP if task.stop is None else tuple(task.stop), metrics


def scoring(task) -> dict:
    """What metrics.measure must know of a task beside its metrics: {"labels": ...} or {"bertscore_model": ...}."""
    labels = choices(task)
    return {"bertscore_model": task.bertscore_model} if labels is None else {"labels": labels}


def baselines(task, examples: list[Example]) -> dict[str, list[str]]:
    """What needs no model: {"copy": [...]}, {"lead-3": [...]}, {"majority": [...]} or {"best sentence": [...]}.

    One prediction an example. "majority" is the most frequent label of these very examples; generation and
    language modelling have no baseline ({}).
    """
    module = _module(task.kind)
    return module.baselines(task, examples, [long_text(task, example) for example in examples])


def _module(kind):
    return import_module(f"hflm.tasks.{kind}")


def _unnested(row):
    """A row of translation data sets: {"translation": {"en": ..., "de": ...}} -> its languages as columns too."""
    nested = row.get("translation")
    return {**nested, **row} if isinstance(nested, dict) else row


def _check_columns(module, task, row, where):
    missing = [f"{key}: {getattr(task, key)}" for key in module.COLUMNS if getattr(task, key) not in row]
    if missing:
        raise DataError(
            f"{where}: the rows have no column for {', '.join(missing)}. Their columns are: {listed(row)}. "
            f"Set {' and '.join(key.split(':')[0] for key in missing)} in the task to the right one."
        )


@functools.lru_cache(maxsize=32)
def _compiled(prompt):
    """The template, and the names that it uses."""
    return compile_template(prompt), template_fields(prompt)


def _by_default(task):
    """Whether the kind's own prompt is used (language modelling knows no other)."""
    return task.kind == "language_modeling" or task.prompt is None


def _visible(task, row, canonical):
    """What the template sees: of two meanings of a name the kind's own prompt takes the field, a recipe's the column."""
    return {**row, **canonical} if _by_default(task) else {**canonical, **row}


def _template(task):
    return _compiled(_module(task.kind).PROMPT if _by_default(task) else task.prompt)


def _renderer(task):
    """A function (fields, place) -> prompt; DataError if the template fails on these fields."""
    template, _ = _template(task)

    def render(fields, place):
        try:
            return render_template(template, fields).rstrip()
        except jinja2.UndefinedError as error:
            raise DataError(f"{place}: prompt: {error.message}. The columns are: {listed(fields)}.") from None
        except Exception as error:  # any expression of the recipe's own may fail: a bad filter, a division by zero
            raise DataError(f"{place}: prompt: {error}") from error

    return render


def long_text(task, example):
    """The text that `shorten` cuts, as `read` stripped it."""
    long, fields = _module(task.kind).LONG, example.fields
    if long is not None:
        return fields[long if _by_default(task) else getattr(task, long)].strip()
    _, names = _template(task)
    return max((fields[name].strip() for name in names if isinstance(fields.get(name), str)), key=len, default="")


def contents(task, example) -> dict[str, str]:
    """The texts of the row that the prompt shows, by column, without the words of the prompt itself.

    A list or a nested row is shown as its texts, one a line. Language modelling has no prompt, and none.

    >>> contents(sentiment, example)                                                          # doctest: +SKIP
    {'text': 'a stirring film'}
    """
    _, names = _template(task)
    found = {name: "\n".join(_strings(example.fields.get(name))) for name in sorted(names)}
    return {name: text for name, text in found.items() if text}


def _strings(value):
    if isinstance(value, str):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [text for each in values for text in _strings(each)]


def _texts(task, examples, where):
    """Language modelling: blank documents carry nothing to predict; lines are one running text."""
    if task.rows == "lines":
        text = "".join(example.target for example in examples)
        examples = [Example("0", "", text, (text,), {})]
    examples = [example for example in examples if example.target.strip()]
    if not examples:
        raise DataError(f"{where}: there is no text in column {task.text}")
    return examples


def _report(problems, rows_read, where):
    shown = [f"  {problem.removeprefix(f'{where}, ')}" for problem in problems[:MOST_ROWS_SHOWN]]
    if len(problems) > MOST_ROWS_SHOWN:
        shown.append(f"  ... and {len(problems) - MOST_ROWS_SHOWN} more")
    count = f"{len(problems)} of {rows_read} rows" if rows_read > 1 else "its only row"
    return "\n".join([f"{where}: {count} cannot be used (on_bad_row: skip leaves bad rows out)", *shown])
