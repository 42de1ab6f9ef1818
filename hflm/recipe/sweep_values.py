"""The recipes of a sweep: a recipe with values of its space in place, and the values that it refuses."""

import copy
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from hflm.core import Problem
from hflm.recipe.library_options import suggest
from hflm.recipe.schema import Recipe
from hflm.recipe.sweep_space import Choices, flat_space
from hflm.recipe.yaml_reader import Node
from hflm.recipe.yaml_tree import set_key

MAX_COMBINATIONS = 200  # that are tried before a value counts as refused


def value_settings(values: Mapping[str, Any]) -> list[str]:
    """Values by key path, as `--set` options.

    >>> value_settings({"finetune.args.optim": "muon", "seed": 7})
    ['finetune.args.optim="muon"', 'seed=7']
    """
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def space_problems(tree: Node, recipe: Recipe) -> Iterator[Problem]:
    """Yields the keys of the space that the recipe does not have, and the values that it refuses in every combination.

    Of a range both ends are tried.
    """
    assert recipe.sweep is not None
    nodes = {key: _find(tree, ("sweep", "space", *path)) for path, key, _ in flat_space(recipe.sweep.space)}
    ends = {
        key: dimension.values if isinstance(dimension, Choices) else (dimension.low, dimension.high)
        for key, dimension in recipe.sweep.dimensions.items()
    }
    for key, values in ends.items():
        node = nodes[key]
        if (text := _no_section(tree, key)) is not None:
            yield Problem(node.file, node.line, f"sweep.space.{key}", text)
            continue
        for value in values:
            text = _refusal(tree, {key: value}, {name: each for name, each in ends.items() if name != key})
            if text is None:
                continue
            is_unknown = text.startswith("unknown key")  # whatever its value is
            shown = text if is_unknown else f"{json.dumps(value)} is refused: {text}"
            yield Problem(node.file, node.line, f"sweep.space.{key}", shown)
            if is_unknown:
                break


def _no_section(tree: Node, key: str) -> str | None:
    """The message for a key of a section that the recipe lacks, or None."""
    head, _, rest = key.partition(".")
    fields = {field.alias or name: field for name, field in Recipe.model_fields.items()}
    if rest and head in fields and tree.child(head) is None:
        return f"the recipe has no section `{head}`. Add it, or remove the key"
    tasks = tree.child("tasks")
    if head == "tasks" and tasks is not None and isinstance(tasks.value, dict):
        name = rest.partition(".")[0]
        if name not in tasks.value:
            return f"there is no task {name} under `tasks:`.{suggest(name, map(str, tasks.value))}"
    return None


def _refusal(tree: Node, values: Mapping[str, Any], others: Mapping[str, Iterable[Any]]) -> str | None:
    """Why the recipe refuses `values`, alone and with any of the values of the other keys; None where it takes them."""
    first = _problem(tree, values)
    if first is None or first.startswith("unknown key") or not others:
        return first
    combinations = itertools.islice(itertools.product(*others.values()), MAX_COMBINATIONS)
    for combination in combinations:
        if _problem(tree, {**values, **dict(zip(others, combination, strict=True))}) is None:
            return None
    return first


def _problem(tree: Node, values: Mapping[str, Any]) -> str | None:
    """The first problem of the recipe with these values in place, or None."""
    varied = Node(copy.copy(tree.value), tree.file, tree.line)
    varied.value = {key: copy.deepcopy(node) for key, node in tree.value.items() if key != "sweep"}
    try:
        for setting in value_settings(values):
            set_key(varied, setting)
        Recipe.model_validate(varied.plain())
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(map(str, detail["loc"]))
        return (
            detail["msg"] if detail["msg"].startswith("unknown key") or where in values else f"{where}: {detail['msg']}"
        )
    except ValueError as error:
        return str(error)
    return None


def _find(tree: Node, path: Iterable[str]) -> Node:
    """The Node at a path, or the last one on the way to it."""
    node = tree
    for key in path:
        child = node.child(key)
        if child is None:
            break
        node = child
    return node


def without_sweep(recipe: Recipe) -> Recipe:
    """The recipe as `hflm run` takes it: what a sweep would search is no part of a run's record."""
    return recipe if recipe.sweep is None else recipe.model_copy(update={"sweep": None})
