"""What a task kind defines, and a task's settings for decoding and metrics."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from hflm.recipe import PromptedTask

if TYPE_CHECKING:
    from hflm.recipe import Task
    from hflm.tasks._examples import Example

Row = Mapping[str, Any]
UNANSWERABLE = "unanswerable"  # the target of a question whose only reference is ""


class Kind(Protocol):
    """The module of a task kind. `task` is the kind's own section of a recipe.

    COLUMNS         the task's keys that name columns, or lists of columns, of the row
    PROMPT          the default prompt, jinja over the fields and the row (None: the recipe must give one)
    SUBJECT         the field that the baselines read (None: the longest text that the prompt shows)
    MAX_NEW_TOKENS  the longest answer (None: nothing is generated)
    """

    COLUMNS: tuple[str, ...]
    PROMPT: str | None
    SUBJECT: str | None
    MAX_NEW_TOKENS: int | None
    STOP: tuple[str, ...]
    METRICS: tuple[str, ...]

    def fields(self, task: Any, row: Row) -> dict[str, Any]:
        """The canonical fields of a row. Raises BadValue."""
        ...

    def references(self, task: Any, row: Row) -> tuple[str, ...]:
        """The accepted answers of a row, the first of which is trained on. Raises BadValue."""
        ...

    def baselines(self, task: Any, examples: "Sequence[Example]", subjects: Sequence[str]) -> dict[str, list[str]]:
        """Predictions that need no model, one an example, by the baseline's name."""
        ...


class TaskSettings(NamedTuple):
    """How a task is answered and scored; `max_new_tokens` is None where nothing is generated."""

    max_new_tokens: int | None
    stop: tuple[str, ...]
    metrics: tuple[str, ...]


def kind_of(task: "Task") -> Kind:
    return cast(Kind, import_module(f"hflm.tasks.{task.kind}"))


def named_columns(task: "Task") -> dict[str, tuple[str, ...]]:
    """{key of the task: the columns that it names}"""
    values = {key: getattr(task, key) for key in kind_of(task).COLUMNS}
    if isinstance(task, PromptedTask) and task.cluster is not None:
        values["cluster"] = task.cluster
    return {key: (value,) if isinstance(value, str) else tuple(value) for key, value in values.items()}


def choices(task: "Task") -> tuple[str, ...] | None:
    """The words that may follow the prompt, in the recipe's order; None for tasks that generate text."""
    labels = getattr(task, "labels", None)
    return None if labels is None else tuple(labels)


def task_settings(task: "Task") -> TaskSettings:
    """The recipe's settings, or the kind's defaults where it leaves them out."""
    kind = kind_of(task)
    metrics = getattr(task, "metrics", None) or kind.METRICS
    if kind.MAX_NEW_TOKENS is None:
        return TaskSettings(None, (), tuple(metrics))
    tokens, stop = getattr(task, "max_new_tokens", None), getattr(task, "stop", None)
    return TaskSettings(tokens or kind.MAX_NEW_TOKENS, kind.STOP if stop is None else tuple(stop), tuple(metrics))


def metric_options(task: "Task") -> dict[str, Any]:
    """Keyword arguments of `hflm.evaluation.metrics.measure` for this task."""
    labels = choices(task)
    if labels is not None:
        return {"labels": labels}
    return {key: getattr(task, key) for key in ("bertscore_model", "language") if getattr(task, key, None) is not None}
