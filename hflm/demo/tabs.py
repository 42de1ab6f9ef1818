"""The tabs of the demo that ask a task: what is typed, how the model is asked, and what a visitor may click.

A run's recipe says how its tasks ask: the tabs use the same prompts, so that an answer here is one of its benchmark's.
Where a model comes without a recipe, or its recipe without a task of a kind, the kind's own prompt is used, and the tab
says so.
"""

import os
import re
from dataclasses import dataclass

from hflm import tasks
from hflm.core import DataError, UserError, expand_path, read_json_lines
from hflm.recipe import Data
from hflm.tasks import Qa, Sentiment, Summarization, Translation

LONGEST = 20_000  # characters of one text that somebody types
EXAMPLES = 4
TABS = {"translation": "Translate", "summarization": "Summarize", "sentiment": "Sentiment", "qa": "Ask"}
INPUTS = {
    "translation": ["source"],
    "summarization": ["document"],
    "sentiment": ["text"],
    "qa": ["context", "question"],
}
GIVEN = {"languages", "labels", "translation", "id"}  # names that a prompt may use and nobody types
TYPED = Data(path="typed")
# For a model that says nothing of its tasks: how it is asked, and what.
PLAIN = {
    "translation": Translation(data=TYPED, source="source", target="target", languages=("English", "German")),
    "summarization": Summarization(data=TYPED),
    "sentiment": Sentiment(data=TYPED, labels=("negative", "positive")),
    "qa": Qa(data=TYPED),
}
PLAIN_EXAMPLES = {
    "generate": [["Once upon a time"], ["The most important thing about"]],
    "inside": [["The capital of France is Paris."], ["Paris is the capital of Germany."]],
    "translation": [["Two men are outside."]],
    "summarization": [["Ann: Have you had enough time?\nBen: Yes, we are ready to order.\nAnn: What will it be?"]],
    "sentiment": [["a stirring , funny film"], ["a long and dull film"]],
    "qa": [["The tower is 324 metres tall. It stands in Paris.", "How tall is the tower?"]],
}


@dataclass(frozen=True)
class Asked:
    """A tab that asks a task. `columns` are what is typed, `labels` and `answer` what the page calls them.

    `note` says whether the model was trained for it; `shots` are the solved examples that stand before each prompt;
    `examples` hold one text a column.
    """

    tab: str
    task: object
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    answer: str
    note: str
    shots: str
    examples: list

    def prompt(self, texts):
        """The prompt, as the benchmark makes it. Raises UserError for a text that is empty or too long."""
        for label, text in zip(self.labels, texts, strict=True):
            check(text, label)
        return self.shots + tasks.render_prompt(self.task, _row(self.task, dict(zip(self.columns, texts, strict=True))))


def tabs(recipe, predictions, examples):
    """An Asked for each task of the recipe that has a tab, and for each kind that the recipe (or None) lacks."""
    asked = []
    for kind, tab in TABS.items():
        named = {name: task for name, task in (recipe.tasks if recipe else {}).items() if task.kind == kind}
        for name, task in (named or {None: PLAIN[kind]}).items():
            columns, shots = _columns(task), _shots(task, predictions.get(name, []))
            examples_of = examples.get(name) or ([] if named else PLAIN_EXAMPLES[kind])
            asked.append(
                Asked(
                    tab=f"{tab}: {name}" if len(named) > 1 else tab,
                    task=task,
                    columns=columns,
                    labels=_labels(task, columns),
                    answer=_answer_label(task),
                    note=_note(recipe, name, shots),
                    shots=shots,
                    examples=[row for row in examples_of if len(row) == len(columns)],
                )
            )
    return asked


def found_examples(recipe, predictions):
    """What a visitor may click, by tab: {"generate": [[text]], "inside": [[text]], task: [[text of each column]]}.

    From the first rows that the benchmark asked: what was typed, the prompts, and the prompts with their answers.
    """
    found = {"generate": [], "inside": []}
    for name, rows in predictions.items():
        task, shots = recipe.tasks[name], _shots(recipe.tasks[name], rows)
        prompts = [row["prompt"].removeprefix(shots) for row in rows[: 5 * EXAMPLES]]
        found["generate"].append([prompts[0]])
        found["inside"].append([f"{prompts[0]} {rows[0]['prediction']}"])
        if task.kind in TABS:
            found[name] = [texts for texts in (_typed(task, prompt) for prompt in prompts) if texts][:EXAMPLES]
    return {key: rows or PLAIN_EXAMPLES.get(key, []) for key, rows in found.items()}


def predictions(recipe, path):
    """{task: rows} that the run's benchmark wrote down, of the tasks that ask with a prompt."""
    folder = expand_path(path) / "benchmark" / "predictions"
    found = {name: read_json_lines(folder / f"{name}.jsonl") for name in (recipe.tasks if recipe else {})}
    rows = {name: [row for row in each if row.get("prompt")] for name, each in found.items()}
    return {name: each for name, each in rows.items() if each}


def _columns(task):
    """What somebody types for a task: its kind's inputs, and further columns that the recipe's prompt shows."""
    inputs = [getattr(task, key) for key in INPUTS[task.kind]]
    more = tasks.prompt_variables(task) - {*inputs, *INPUTS[task.kind], *GIVEN}
    return (*inputs, *sorted(more))


def _row(task, typed):
    if task.kind == "translation":  # its prompt may look into the nested row
        targets = [task.target] if isinstance(task.target, str) else task.target
        return {"id": "0", **typed, "translation": {**dict.fromkeys(targets, ""), **typed}}
    return {"id": "0", **typed}


def _labels(task, columns):
    if task.kind == "translation":
        return (task.language_names[0], *columns[1:])
    return tuple(key.capitalize() for key in (*INPUTS[task.kind], *columns[len(INPUTS[task.kind]) :]))


def _answer_label(task):
    if task.kind == "translation":
        return task.language_names[1]
    return {"summarization": "Summary", "sentiment": "Sentiment", "qa": "Answer"}[task.kind]


def _note(recipe, name, shots):
    if recipe is None:
        return "Nothing is known of what this model was trained for: it is asked with hflm's own prompt."
    if name is None:
        return "This model was not trained for this task: its recipe has no such task. Its answers may mean nothing."
    note = []
    if recipe.finetune is None or name not in recipe.finetune.tasks:
        note.append("This model was not trained for this task: its recipe only measures it.")
    count = recipe.tasks[name].shots
    if count and not shots:
        note.append(f"Its benchmark puts {count} solved examples before each prompt; they are not known here.")
    return " ".join(note)


def _shots(task, rows):
    """The solved examples that all prompts of a benchmark begin with, "" without; they end in a blank line."""
    if not task.shots or len(rows) < 2:
        return ""
    same = os.path.commonprefix([row["prompt"] for row in rows])
    return same[: same.rfind("\n\n") + 2] if "\n\n" in same else ""


def _typed(task, prompt):
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
    return texts if texts and max(map(len, texts)) <= LONGEST else None


def check(text, label, empty=False):
    """Raises UserError for a text that cannot be asked about."""
    if not empty and not text.strip():
        raise UserError(f"{label}: write something first")
    if len(text) > LONGEST:
        raise UserError(f"{label}: {len(text):,} characters are too many. Shorten it to {LONGEST:,}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{label}: the text is not UTF-8") from None
