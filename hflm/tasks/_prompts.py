"""Prompts: jinja templates over the canonical fields and the columns of a row, rendered in a sandbox.

A null or missing value is the empty text, at any depth, so that no prompt contains the word None. A name that no row has is an
error of the template: `render` returns the names that a row lacks, and `read_examples` compares them over all rows.
"""

import functools
import json
import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2.exceptions import SecurityError

from hflm.core import DataError, PromptEnvironment, compile_template, render_template, template_fields
from hflm.tasks._cells import BadValue, is_null, listed, written
from hflm.tasks._kind import Row, kind_of, named_columns

if TYPE_CHECKING:
    from hflm.recipe import Task

_missing_names: ContextVar[set[str]] = ContextVar("missing names")


class _Null(str):
    """A null of the row: empty text that a template may still ask `is none`, and whose attributes are null as well."""

    def __eq__(self, other: object) -> bool:
        return other is None or str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class _Missing(jinja2.ChainableUndefined):
    """A name that the row lacks: empty text, and recorded where its value is used (`is defined` does not use it)."""

    def _use(self) -> None:
        if issubclass(self._undefined_exception, SecurityError):
            self._fail_with_undefined_error()
        _missing_names.get().add(str(self._undefined_name))

    def __str__(self) -> str:
        self._use()
        return ""

    def __bool__(self) -> bool:
        self._use()
        return False

    def __iter__(self) -> Any:
        self._use()
        return iter(())

    def __len__(self) -> int:
        self._use()
        return 0

    def __eq__(self, other: object) -> bool:
        self._use()
        return isinstance(other, _Missing) or other == ""

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        self._use()
        return hash("")


_NULL = _Null()


class _Environment(PromptEnvironment):
    def getattr(self, obj: Any, attribute: str) -> Any:
        return _NULL if isinstance(obj, _Null) and not hasattr(str, attribute) else super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return _NULL if isinstance(obj, _Null) else super().getitem(obj, argument)


def _shown(value: Any) -> Any:
    """What `{{ value }}` shows: no word for null, and truth values as JSON writes them."""
    if value is None:
        return ""
    return written(value) if isinstance(value, bool) else value


def _json(value: Any, **options: Any) -> str:
    """What `{{ value | tojson }}` shows: null and truth values as such, and numbers as the row spells them."""
    spelled: list[str] = []

    def plain(value: Any) -> Any:
        if isinstance(value, _Null):
            return None
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        if isinstance(value, int | float) and type(value) not in (int, float, bool):
            spelled.append(str(value))
            return f"\ud800{len(spelled) - 1}"  # half of a surrogate pair, which no text of a row holds
        return value

    return re.sub(r'"\\ud800(\d+)"', lambda found: spelled[int(found[1])], json.dumps(plain(value), **options))


_ENVIRONMENT = _Environment(undefined=_Missing, finalize=_shown)
_ENVIRONMENT.policies["json.dumps_function"] = _json
_ENVIRONMENT.tests["none"] = lambda value: value is None or isinstance(value, _Null)


def render_prompt(task: "Task", row: Row) -> str:
    """The prompt of one row that needs no target. Raises DataError.

    >>> render_prompt(qa, {"context": "The tower is red.", "question": "What is red?"})       # doctest: +SKIP
    'The tower is red.\\nQuestion: What is red?\\nAnswer:'
    """
    row = unnested(row)
    try:
        fields = visible_fields(task, row, kind_of(task).fields(task, row))
        prompt, missing = render(task, fields)
    except BadValue as error:
        raise DataError(str(error)) from None
    if missing:
        raise DataError(undefined(missing, fields))
    return prompt


def render(task: "Task", fields: Mapping[str, Any]) -> tuple[str, set[str]]:
    """(the prompt without white space at its end, the names that it uses and `fields` lack).

    Raises BadValue if the template fails on these fields.
    """
    template, names = _template(task)
    missing: set[str] = set()
    token = _missing_names.set(missing)
    try:
        shown = {name: without_nulls(fields[name]) for name in names if name in fields}
        prompt = render_template(template, shown).rstrip()
    except Exception as error:  # any expression of the recipe's own may fail: a bad filter, a division by zero
        raise BadValue(f"prompt: {error}") from error
    finally:
        _missing_names.reset(token)
    return prompt, missing


def undefined(names: set[str], fields: Mapping[str, Any]) -> str:
    """The error for names that the prompt uses and no row has."""
    quoted = " and ".join(f"'{name}'" for name in sorted(names))
    return f"prompt: {quoted} {'is' if len(names) == 1 else 'are'} undefined. The columns are: {listed(fields)}."


def without_nulls(value: Any) -> Any:
    """A value of a row as the template sees it."""
    if is_null(value):
        return _NULL
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(without_nulls, value))
    return value


def prompt_variables(task: "Task") -> set[str]:
    """The names that the task's prompt uses: canonical fields, and columns where the recipe gives the prompt."""
    return set(_template(task)[1])


def task_columns(task: "Task") -> frozenset[str]:
    """The columns of a row that a task reads: those that its keys and its prompt name, `id` and `translation`."""
    named = {name for names in named_columns(task).values() for name in names}
    variables = set() if uses_default_prompt(task) else prompt_variables(task)
    return frozenset(named | variables | {"id", "translation"})


def prompt_segments(task: "Task") -> tuple[str, ...] | None:
    """The prompt's fixed text around the columns that it shows: n + 1 segments for n columns, each shown once.

    None for a prompt that does anything else with its columns, and for language modelling, which has none.

    >>> prompt_segments(sentiment)                                                            # doctest: +SKIP
    ('Review: ', '\\nSentiment:')
    """
    if kind_of(task).PROMPT == "":
        return None
    row = {name: "text" for names in named_columns(task).values() for name in names}
    constants = {name: value for name, value in kind_of(task).fields(task, row).items() if isinstance(value, tuple)}
    columns = sorted(prompt_variables(task) - constants.keys())
    # A filter changes a placeholder; a prompt that cuts or counts its column does so between two lengths.
    placeholders = [f"\x02 aB\n{number}\x03" for number in range(len(columns))]
    found = []
    for length in (1, 400):
        values = [placeholder * length for placeholder in placeholders]
        try:
            prompt, missing = render(task, {**constants, **dict(zip(columns, values, strict=True))})
        except BadValue:
            return None
        if missing or any(prompt.count(value) != 1 for value in values):
            return None
        found.append(re.split("|".join(f"(?:{placeholder})+" for placeholder in placeholders), prompt))
    return tuple(found[0]) if columns and found[0] == found[1] else None


def unnested(row: Row) -> Row:
    """A row of translation data sets: {"translation": {"en": ..., "de": ...}} -> its languages as columns too."""
    nested = row.get("translation")
    return {**nested, **row} if isinstance(nested, dict) else row


def visible_fields(task: "Task", row: Row, canonical: dict[str, Any]) -> dict[str, Any]:
    """What the template sees: of two meanings of a name the kind's own prompt takes the field, a recipe's the column."""
    return {**row, **canonical} if uses_default_prompt(task) else {**canonical, **row}


def uses_default_prompt(task: "Task") -> bool:
    return getattr(task, "prompt", None) is None


def _template(task: "Task") -> tuple[jinja2.Template, frozenset[str]]:
    return _compiled(getattr(task, "prompt", None) or kind_of(task).PROMPT or "")


@functools.lru_cache(maxsize=32)
def _compiled(prompt: str) -> tuple[jinja2.Template, frozenset[str]]:
    """The template, and the names of the row that it uses."""
    return compile_template(prompt, _ENVIRONMENT), frozenset(template_fields(prompt))
