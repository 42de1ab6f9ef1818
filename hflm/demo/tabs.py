"""The tabs of the demo that ask a task: what is typed, how the model is asked, and what a visitor may click.

A run's recipe says how its tasks ask: the tabs use the same prompts, so that an answer here is one of its benchmark's.
A model has tabs for the tasks that it was fine-tuned on; where it has no recipe, a tab for each kind with the kind's own
prompt, which says so.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hflm import tasks
from hflm.core import DataError, UserError, expand_path, read_json_lines
from hflm.recipe import Data, Recipe
from hflm.tasks import Qa, Sentiment, Summarization, Translation

Task = Any  # a section of a recipe's `tasks`: its keys depend on its kind
Predictions = dict[str, list[dict[str, Any]]]
Examples = dict[str, list[list[str]]]
LONGEST_TEXT = 20_000  # characters of one text that somebody types
EXAMPLES = 4
TABS = {"translation": "Translate", "summarization": "Summarize", "sentiment": "Sentiment", "qa": "Ask"}
INPUTS = {
    "translation": ["source"],
    "summarization": ["document"],
    "sentiment": ["text"],
    "qa": ["context", "question"],
}
TEMPLATE_NAMES = {"languages", "labels", "translation", "id"}  # names that a prompt may use and no visitor types
TYPED = Data(path="typed")
# For a model without a recipe: how it is asked, and what.
DEFAULT_TASKS = {
    "translation": Translation(data=TYPED, source="source", target="target", languages=("English", "German")),
    "summarization": Summarization(data=TYPED),
    "sentiment": Sentiment(data=TYPED, labels=("negative", "positive")),
    "qa": Qa(data=TYPED),
}
DEFAULT_EXAMPLES = {
    "generate": [["Once upon a time"], ["The most important thing about"]],
    "inside": [["The capital of France is Paris."], ["Paris is the capital of Germany."]],
    "translation": [["Two men are outside."]],
    "summarization": [["Ann: Have you had enough time?\nBen: Yes, we are ready to order.\nAnn: What will it be?"]],
    "sentiment": [["a stirring , funny film"], ["a long and dull film"]],
    "qa": [["The tower is 324 metres tall. It stands in Paris.", "How tall is the tower?"]],
}


@dataclass(frozen=True)
class TaskTab:
    """A tab that asks a task. `columns` are what is typed, `labels` and `answer` what the page calls them.

    `note` says what the page cannot do as the benchmark does; `shots` are the solved examples that stand before each prompt;
    `examples` hold one text a column.
    """

    title: str
    task: Task
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    answer: str
    note: str
    shots: str
    examples: list[list[str]]

    def prompt(self, texts: Sequence[str]) -> str:
        """The prompt, as the benchmark makes it. Raises UserError for a text that is empty or too long."""
        for label, text in zip(self.labels, texts, strict=True):
            check_text(text, label)
        return self.shots + tasks.render_prompt(self.task, _row(self.task, dict(zip(self.columns, texts, strict=True))))


def make_tabs(recipe: Recipe | None, predictions: Predictions, examples: Examples) -> list[TaskTab]:
    """A TaskTab for each task that the recipe fine-tunes on; without a recipe one for each kind."""
    tabs = []
    for kind, title in TABS.items():
        named = _trained_tasks(recipe, kind)
        for name, task in named.items():
            columns, shots = _columns(task), _shots(task, predictions.get(name, []))
            own_examples = examples.get(name) or ([] if recipe else DEFAULT_EXAMPLES[kind])
            tabs.append(
                TaskTab(
                    title=f"{title}: {name}" if len(named) > 1 else title,
                    task=task,
                    columns=columns,
                    labels=_labels(task, columns),
                    answer=_answer_label(task),
                    note=_note(recipe, name, shots),
                    shots=shots,
                    examples=[row for row in own_examples if len(row) == len(columns)],
                )
            )
    return tabs


def _trained_tasks(recipe: Recipe | None, kind: str) -> dict[str, Task]:
    if recipe is None:
        return {kind: DEFAULT_TASKS[kind]}
    names = recipe.finetune.tasks if recipe.finetune else ()
    return {name: recipe.tasks[name] for name in names if recipe.tasks[name].kind == kind}


def find_examples(recipe: Recipe | None, predictions: Predictions) -> Examples:
    """What a visitor may click, by tab: {"generate": [[text]], "inside": [[text]], task: [[text of each column]]}.

    From the first rows that the benchmark asked: what was typed, the prompts, and the prompts with their answers.
    """
    found: Examples = {"generate": [], "inside": []}
    for name, rows in predictions.items():
        assert recipe is not None  # without one no predictions are read
        task, shots = recipe.tasks[name], _shots(recipe.tasks[name], rows)
        prompts = [row["prompt"].removeprefix(shots) for row in rows[: 5 * EXAMPLES]]
        found["generate"].append([prompts[0]])
        found["inside"].append([f"{prompts[0]} {rows[0]['prediction']}"])
        if task.kind in TABS:
            found[name] = [texts for texts in (_typed(task, prompt) for prompt in prompts) if texts][:EXAMPLES]
    return {key: rows or DEFAULT_EXAMPLES.get(key, []) for key, rows in found.items()}


def read_predictions(recipe: Recipe | None, path: str | Path) -> Predictions:
    """{task: rows} of the run's benchmark, of the tasks that ask with a prompt."""
    folder = expand_path(path) / "benchmark" / "predictions"
    found = {name: read_json_lines(folder / f"{name}.jsonl") for name in (recipe.tasks if recipe else {})}
    rows = {name: [row for row in each if row.get("prompt")] for name, each in found.items()}
    return {name: each for name, each in rows.items() if each}


def _columns(task: Task) -> tuple[str, ...]:
    """What somebody types for a task: its kind's inputs, and further columns that the recipe's prompt shows."""
    inputs = [getattr(task, key) for key in INPUTS[task.kind]]
    more = tasks.prompt_variables(task) - {*inputs, *INPUTS[task.kind], *TEMPLATE_NAMES}
    return (*inputs, *sorted(more))


def _row(task: Task, typed: dict[str, str]) -> dict[str, Any]:
    if task.kind == "translation":  # its prompt may look into the nested row
        targets = [task.target] if isinstance(task.target, str) else task.target
        return {"id": "0", **typed, "translation": {**dict.fromkeys(targets, ""), **typed}}
    return {"id": "0", **typed}


def _labels(task: Task, columns: tuple[str, ...]) -> tuple[str, ...]:
    if task.kind == "translation":
        return (task.language_names[0], *columns[1:])
    return tuple(key.capitalize() for key in (*INPUTS[task.kind], *columns[len(INPUTS[task.kind]) :]))


def _answer_label(task: Task) -> str:
    if task.kind == "translation":
        return task.language_names[1]
    return {"summarization": "Summary", "sentiment": "Sentiment", "qa": "Answer"}[task.kind]


def _note(recipe: Recipe | None, name: str, shots: str) -> str:
    if recipe is None:
        return "Nothing is known of what this model was trained for: it is asked with hflm's own prompt."
    task: Task = recipe.tasks[name]
    count = task.shots
    if count and not shots:
        return f"Its benchmark puts {count} solved examples before each prompt; they are not known here."
    return ""


def _shots(task: Task, rows: list[dict[str, Any]]) -> str:
    """The solved examples that all prompts of a benchmark begin with, "" without; they end in a blank line."""
    if not task.shots or len(rows) < 2:
        return ""
    same = os.path.commonprefix([row["prompt"] for row in rows])
    return same[: same.rfind("\n\n") + 2] if "\n\n" in same else ""


def _typed(task: Task, prompt: str) -> list[str] | None:
    """What was typed to get this prompt: its columns' texts; None where the template does not tell."""
    columns = _columns(task)
    marks = {column: f"\ue000{number}\ue001" for number, column in enumerate(columns)}
    try:
        template = tasks.render_prompt(task, _row(task, marks))
    except DataError:
        return None
    pattern = re.escape(template)
    for column, mark in marks.items():
        if mark not in pattern:
            return None
        name = f"c{columns.index(column)}"
        pattern = pattern.replace(mark, f"(?P<{name}>.+?)", 1).replace(mark, f"(?P={name})")
    found = re.fullmatch(pattern, prompt, re.DOTALL)
    texts = [found[f"c{number}"] for number in range(len(columns))] if found else None
    return texts if texts and max(map(len, texts)) <= LONGEST_TEXT else None


def check_text(text: str, label: str, empty: bool = False) -> None:
    """Raises UserError for a text that cannot be asked about."""
    if not empty and not text.strip():
        raise UserError(f"{label}: write something first")
    if len(text) > LONGEST_TEXT:
        raise UserError(f"{label}: {len(text):,} characters are too many. Shorten it to {LONGEST_TEXT:,}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{label}: the text is not UTF-8") from None
