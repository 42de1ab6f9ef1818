"""The keys of an lm-eval task file, taken one after the other, with all that is wrong in them."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from hflm.core import Problem
from hflm.recipe.library_options import mismatch
from hflm.recipe.shipped import display_path
from hflm.recipe.yaml_reader import Node, parse_yaml_file

# They name or describe the task, or look for rows of the training data: no score depends on them.
SILENT = (
    *("task_alias", "group", "group_alias", "tag", "metadata", "version"),
    *("should_decontaminate", "doc_to_decontamination_query"),
)
KNOWN = (
    *("task", "dataset_path", "dataset_name", "dataset_kwargs", "training_split", "validation_split", "test_split"),
    *("fewshot_split", "output_type", "doc_to_text", "doc_to_target", "doc_to_choice", "target_delimiter"),
    *("fewshot_delimiter", "metric_list", "num_fewshot", "generation_kwargs", "description"),
)
CANNOT = {
    "include": "hflm reads one file. Copy the keys of the included one into this one",
    "filter_list": "hflm scores the text as it was written. Remove it, and cut the text with generation_kwargs.until",
    "fewshot_config": "hflm draws the shots by the recipe's seed. Remove it",
    "gen_prefix": "hflm's answer begins after the prompt. Write it at the end of doc_to_text",
    "use_prompt": "hflm has no prompt library. Write the prompt in doc_to_text",
    **dict.fromkeys(
        ("process_docs", "process_results", "custom_dataset", "class"),
        "it runs Python code, which hflm does not take from a file. Write the data as the prompt needs it",
    ),
    **dict.fromkeys(("doc_to_image", "doc_to_audio"), "hflm reads text only"),
}
FUNCTION = "!function runs Python code, which hflm does not take from a file. Write a jinja template or a column's name"


class TaskFileKeys:
    """The keys of a file, taken one after the other; what is wrong is added to `problems`, by line."""

    def __init__(self, path: str | Path, problems: list[Problem]) -> None:
        self.file, self.problems = display_path(Path(path)), problems
        read: list[Problem] = []
        node = parse_yaml_file(Path(path), self.file, read, "task file", "task: sst2_plain")
        problems += [replace(one, text=FUNCTION) if one.text.startswith("the tag !function ") else one for one in read]
        self.nodes = dict(node.value)

    def wrong(self, key: str, node: Node, text: str) -> Node:
        """Adds a problem of a key, one a line; returns a Node without value in its place."""
        if node.line is None or all((self.file, node.line) != (one.file, one.line) for one in self.problems):
            self.problems.append(Problem(self.file, node.line, key, text))
        return Node(None, self.file, node.line)

    def warn(self, key: str, node: Node, text: str) -> None:
        warnings.warn(str(Problem(self.file, node.line, key, text)), stacklevel=2)

    def take(self, key: str, kind: str = "str", default: Any = None) -> Node:
        """The Node of a key that may be absent or null: its value is then the default."""
        node = self.nodes.pop(key, None) or Node(None, self.file, None)
        if node.value is None:
            return Node(default, self.file, node.line)
        wrong = mismatch(kind, node.plain())
        return self.wrong(key, node, wrong) if wrong else node

    def need(self, key: str, kind: str = "str") -> Node:
        """The Node of a key that must be set."""
        node = self.take(key, kind)
        return self.wrong(key, node, "required key is missing") if node.value is None else node


def to_node(value: Any, file: str, line: int | None) -> Node:
    """Plain values as a tree with one line; Nodes inside keep their own."""
    match value:
        case Node():
            return value
        case dict():
            return Node({key: to_node(each, file, line) for key, each in value.items()}, file, line)
        case list():
            return Node([to_node(each, file, line) for each in value], file, line)
    return Node(value, file, line)
