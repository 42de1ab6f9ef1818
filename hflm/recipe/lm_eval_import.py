"""A task file of EleutherAI's lm-evaluation-harness -> one task of a recipe, or all its problems by file and line.

    task: sst2_plain                                  the task's name
    dataset_path: json                                data: {path: json,
    dataset_kwargs: {data_files: {test: rows.jsonl}}          data_files: {test: FOLDER OF THE FILE/rows.jsonl}}
    test_split: test                                  splits: {train: null, test: test}
    output_type: multiple_choice                      kind: choice
    doc_to_text: "Review: {{sentence}}\\nSentiment:"    prompt: "Review: {{sentence}}\\nSentiment:"
    doc_to_choice: [negative, positive]               labels: [negative, positive]
    doc_to_target: label                              label: label
    metric_list: [{metric: acc}]                      metrics: [accuracy]

Only plain YAML is read: no code runs, `!function` is refused, templates run in the sandbox of any recipe's prompt. What
hflm cannot do as the file says is a problem; what changes no score is ignored; anything else that is ignored gets a
warning.

A choice's likelihood leaves out its end, as lm-eval's does (`label_end: false`): a choice whose tokens begin another
choice's is then never less likely than it.

Where hflm differs: exact_match and f1 are SQuAD's (0 to 100, without case, articles and punctuation); shots are drawn
once, not for each row; a prompt never ends in white space; a stop string of white space alone counts after some text.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hflm.core import FILE_KINDS, Problem, expand_path
from hflm.recipe.library_options import show, suggest
from hflm.recipe.lm_eval_keys import CANNOT, KNOWN, SILENT, TaskFileKeys, to_node
from hflm.recipe.tasks import GENERATED
from hflm.recipe.yaml_reader import Node

KINDS = {"multiple_choice": "choice", "generate_until": "generation", "loglikelihood_rolling": "language_modeling"}
METRICS = {
    "choice": {"acc": ("accuracy",), "mcc": ("mcc",)},
    "generation": {**{name: (name,) for name in GENERATED}, "rouge": ("rouge1", "rouge2", "rougeL")},
    "language_modeling": {"bits_per_byte": ("bits_per_byte",)},
}
DEFAULT_METRIC = {"choice": "acc", "generation": "exact_match", "language_modeling": "bits_per_byte"}
MAX_GEN_TOKS = 256  # lm-eval's default
COLUMN = re.compile(r"(\w+)|\{\{-?\s*(?:translation\s*(?:\.|\[\s*['\"]))?(\w+)(?:['\"]\s*\])?\s*-?\}\}")


def read_task_files(files: Sequence[str | Path], model: str) -> tuple[Node, list[Problem]]:
    """The tree of a recipe that benchmarks `model` on the tasks of the files, and what is wrong in them."""
    problems: list[Problem] = []
    tasks: dict[str, Node] = {}
    for path in files:
        name, task = _task(path, problems)
        if name in tasks:
            problems.append(Problem(task.file, task.line, "task", f"{name} is also the task of {tasks[name].file}"))
        tasks[name] = task
    first = next(iter(tasks.values()))
    recipe = {"name": "-".join(tasks), "model": {"from": model}, "tasks": tasks, "benchmark": {"tasks": [*tasks]}}
    return to_node(recipe, first.file, first.line), problems


def _task(path: str | Path, problems: list[Problem]) -> tuple[str, Node]:
    """(name, Node) of the task of a file."""
    keys = TaskFileKeys(path, problems)
    for key in [key for key in CANNOT if key in keys.nodes]:
        node = keys.nodes.pop(key)
        if node.plain() not in (None, [], {}):
            keys.wrong(key, node, CANNOT[key])
    name = keys.need("task")
    if name.value is not None and not re.fullmatch(r"\w[\w-]*", name.value):
        name = keys.wrong("task", name, f"expected letters, digits, `_` and `-`, got {show(name.value)}")
    output = keys.take("output_type", default="generate_until")
    if output.value not in (*KINDS, None):
        hint = suggest(output.value, KINDS)
        output = keys.wrong("output_type", output, f"hflm cannot measure {show(output.value)}.{hint}")
    kind = KINDS.get(output.value or "")
    shots = keys.take("num_fewshot", "int", default=0)
    task = {"kind": Node(kind, keys.file, output.line), "data": _data(keys, path), "splits": _splits(keys, shots)}
    if kind is not None:
        task |= {"language_modeling": _text, "choice": _choice, "generation": _generation}[kind](keys, shots)
        task["metrics"] = _metrics(keys, kind)
        _rest(keys)
    return name.value or Path(path).stem, to_node(task, keys.file, name.line)


def _data(keys: TaskFileKeys, path: str | Path) -> dict[str, Any]:
    place, subset = keys.need("dataset_path"), keys.take("dataset_name")
    options = dict(keys.take("dataset_kwargs", "dict", default={}).value or {})
    folder = Path(path).parent
    if place.value and place.value not in FILE_KINDS and (folder / place.value).exists():
        place = replace(place, value=str(folder / place.value))
    if "data_files" in options and place.value in FILE_KINDS:  # elsewhere they are files of the data set
        options["data_files"] = _in_folder(options["data_files"], folder)
    return {"path": place, **({"name": subset} if subset.value is not None else {}), **options}


def _in_folder(node: Node, folder: Path) -> Node:
    """The node with its file names, which are relative to the folder of the task file."""
    match node.value:
        case dict():
            return replace(node, value={key: _in_folder(each, folder) for key, each in node.value.items()})
        case list():
            return replace(node, value=[_in_folder(each, folder) for each in node.value])
        case str() if "://" not in node.value:
            return replace(node, value=os.path.normpath(folder / expand_path(node.value)))
    return node


def _splits(keys: TaskFileKeys, shots: Node) -> dict[str, Any]:
    """lm-eval asks the test split, else the validation split; the shots come from fewshot_split, else training_split."""
    test, validation = keys.take("test_split"), keys.take("validation_split")
    training, fewshot = keys.take("training_split"), keys.take("fewshot_split")
    asked = test if test.value is not None else validation
    train = fewshot if fewshot.value is not None else training
    if asked.value is None:
        keys.wrong("test_split", asked, "there is neither test_split nor validation_split. Name a split")
        return {"train": train}
    if shots.value and train.value is None:
        keys.wrong("num_fewshot", shots, "the shots need a training_split or a fewshot_split. Name one")
    elif shots.value and train.value == asked.value:
        keys.wrong("num_fewshot", shots, f"the shots would come from {asked.value}, the rows that are asked")
    return {"train": train, "test": asked}


def _text(keys: TaskFileKeys, shots: Node) -> dict[str, Any]:
    prompt = keys.take("doc_to_text", default="")
    if prompt.value:
        keys.warn("doc_to_text", prompt, "is ignored: the text of doc_to_target is scored alone")
    return {"text": _column(keys, "doc_to_target")}


def _choice(keys: TaskFileKeys, shots: Node) -> dict[str, Any]:
    choices = keys.take("doc_to_choice", "list|str|dict")
    prompt, ending = _prompt(keys, shots)
    words, begin = choices, ""
    if not isinstance(choices.value, list):
        words = keys.wrong("doc_to_choice", choices, "expected a list of words, the same for every row")
    elif all(isinstance(word.value, str) for word in choices.value):
        begins = {word.value[: len(word.value) - len(word.value.lstrip())] for word in choices.value}
        if len(begins) > 1:
            keys.wrong("doc_to_choice", choices, "some choices begin with a space, others do not. Write them alike")
        begin = min(begins, default="")
        words = replace(choices, value=[replace(word, value=word.value.lstrip()) for word in choices.value])
    _one_space(keys, ending, begin)
    end = Node(False, keys.file, choices.line)
    column = _column(keys, "doc_to_target")
    return {"prompt": prompt, "labels": words, "label": column, "label_end": end, "shots": shots}


def _generation(keys: TaskFileKeys, shots: Node) -> dict[str, Any]:
    prompt, ending = _prompt(keys, shots)
    target = keys.nodes.get("doc_to_target")
    begin = ""
    if target is not None and isinstance(target.value, str):
        begin = target.value[: len(target.value) - len(target.value.lstrip())]
    _one_space(keys, ending, begin)
    if "doc_to_choice" in keys.nodes:
        keys.wrong("doc_to_choice", keys.nodes.pop("doc_to_choice"), "only `output_type: multiple_choice` has choices")
    delimiter = keys.nodes.get("fewshot_delimiter")
    options = dict(keys.take("generation_kwargs", "dict", default={}).value or {})
    stop = options.pop("until", None) or to_node([(delimiter and delimiter.value) or "\n\n"], keys.file, None)
    if isinstance(stop.value, str):
        stop = replace(stop, value=[stop])
    tokens = options.pop("max_gen_toks", None) or Node(MAX_GEN_TOKS, keys.file, None)
    for key, node in options.items():
        if key == "do_sample" and node.value:
            keys.wrong("generation_kwargs.do_sample", node, "hflm answers greedily. Set it to false")
        elif key != "do_sample" and not (key == "temperature" and node.value == 0):
            keys.warn(f"generation_kwargs.{key}", node, "is ignored: hflm answers greedily")
    column = _column(keys, "doc_to_target")
    return {"prompt": prompt, "target": column, "shots": shots, "max_new_tokens": tokens, "stop": stop}


def _prompt(keys: TaskFileKeys, shots: Node) -> tuple[Node, str]:
    """The Node of the prompt, and the white space at its end."""
    node, description = keys.need("doc_to_text"), keys.take("description", default="")
    if node.value is None:
        return node, ""
    text = node.value
    if re.fullmatch(r"[A-Za-z_]\w*", text):
        text = f"{{{{ {text} }}}}"
    if description.value and shots.value:
        keys.wrong("description", description, "hflm cannot say it once before all shots. Remove it, or num_fewshot")
    ending = text[len(text.rstrip()) :]
    return replace(node, value=(description.value or "") + text), ending


def _one_space(keys: TaskFileKeys, ending: str, begin: str) -> None:
    """hflm puts one space between prompt and answer; lm-eval what the file says."""
    delimiter = keys.take("target_delimiter", default=" ")
    if delimiter.value is None:
        return
    between = ending + delimiter.value + begin
    if between != " ":
        text = (
            f"{between!r} separates prompt and answer; hflm puts one space there. Set it to ' ', with a "
            "prompt that ends and answers that begin without white space (or to '', with choices that begin with one)"
        )
        keys.wrong("target_delimiter", delimiter, text)


def _column(keys: TaskFileKeys, key: str) -> Node:
    """The column that `column`, `{{column}}` or `{{translation.column}}` names."""
    node = keys.need(key, "str|int|list")
    found = COLUMN.fullmatch(node.value.strip()) if isinstance(node.value, str) else None
    if node.value is None:
        return node
    if found is None:
        text = f"expected a column's name or {{{{column}}}}, got {show(node.value)}. Write the answer as a column"
        return keys.wrong(key, node, text)
    return replace(node, value=found[1] or found[2])


def _metrics(keys: TaskFileKeys, kind: str) -> Node:
    """The metrics' Node: those that hflm measures too, with a warning for each other."""
    written = keys.take("metric_list", "list")
    known, chosen = METRICS[kind], []
    for entry in written.value or ():
        entry = entry if isinstance(entry.value, dict) else Node({"metric": entry}, entry.file, entry.line)
        options = dict(entry.value)
        metric = options.pop("metric", Node(None, entry.file, entry.line))
        if metric.value not in known:
            keys.warn("metric_list", metric, f"{show(metric.value)} is left out: hflm does not measure it")
            continue
        chosen += known[metric.value]
        for option, node in options.items():
            if option not in ("aggregation", "higher_is_better"):
                keys.warn(f"metric_list.{metric.value}.{option}", node, "is ignored: hflm's metric has no options")
    if written.value is None:
        chosen = known[DEFAULT_METRIC[kind]]
    elif not chosen:
        return keys.wrong("metric_list", written, f"none that hflm measures. Allowed: {', '.join(known)}")
    return Node([Node(metric, keys.file, written.line) for metric in dict.fromkeys(chosen)], keys.file, written.line)


def _rest(keys: TaskFileKeys) -> None:
    """The remaining keys: those with their default value, and those that are ignored."""
    delimiter = keys.take("fewshot_delimiter", default="\n\n")
    if delimiter.value not in ("\n\n", None):
        keys.wrong("fewshot_delimiter", delimiter, 'hflm puts a blank line between shots. Set it to "\\n\\n"')
    repeats = keys.take("repeats", "int", default=1)
    if repeats.value not in (1, None):
        keys.wrong("repeats", repeats, "hflm answers greedily, the same each time. Set it to 1")
    for key in [key for key in keys.nodes if key not in SILENT]:
        hint = suggest(key, KNOWN)
        hint = hint if "Did" in hint else ""  # all keys of lm-eval would be a long line
        known = key in KNOWN
        keys.warn(key, keys.nodes[key], "is ignored with this output_type" if known else f"unknown key, ignored.{hint}")
