"""Reads a recipe: YAML -> a frozen Recipe, or every problem in it at once, each with its file and line."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hflm.core import Problem, RecipeError, has_secret
from hflm.recipe import lm_eval_import
from hflm.recipe.presets import preset_training_args
from hflm.recipe.schema import Recipe
from hflm.recipe.section import KeyProblem, Section
from hflm.recipe.sweep_values import space_problems, value_settings
from hflm.recipe.tasks import Data
from hflm.recipe.yaml_reader import Node, dump_yaml
from hflm.recipe.yaml_tree import apply_sets, read_tree

SECRET = (
    "this looks like an access token or a key, and secrets don't belong in a recipe. Remove it; log in with "
    "`hf auth login`, or set HF_TOKEN or OPENAI_API_KEY"
)


def load_recipe(recipe: str, sets: Iterable[str] = ()) -> Recipe:
    """Reads a recipe: a path, or a shipped name such as `quickstart`.

    sets: `key.path=value` texts that change it. Raises RecipeError with all problems, by file and line.
    """
    return _checked(*read_tree(recipe, sets))


def load_varied_recipe(recipe: str, sets: Iterable[str], values: Mapping[str, Any]) -> Recipe:
    """A recipe with `values` by key path in place, without its `sweep`. Raises RecipeError where it refuses them."""
    return load_recipe(recipe, [*sets, "sweep=null", *value_settings(values)])


def load_task_files(files: Sequence[str | Path], model: str, sets: Iterable[str] = ()) -> Recipe:
    """A Recipe that benchmarks `model` on lm-eval's task files, changed by `sets` as in `load_recipe`."""
    tree, problems = lm_eval_import.read_task_files(files, model)
    apply_sets(tree, sets, problems)
    return _checked(tree, problems)


def locate_problems(recipe: str, sets: Iterable[str], problems: Iterable[KeyProblem]) -> list[Problem]:
    """The problems of a loaded recipe's key paths, with the file and line of each."""
    tree, _ = read_tree(recipe, sets)
    located = [(*locate(tree, path, missing=True), text) for path, text in problems]
    return _sorted([Problem(node.file, node.line, key, text) for key, node, text in located])


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, defaults included: it loads back to an equal Recipe."""
    return dump_yaml(_plain(recipe))


def recipe_json_schema() -> dict[str, Any]:
    """The recipe's JSON Schema, for editors."""
    schema = Recipe.model_json_schema(by_alias=True)
    properties = schema["properties"]
    schema["properties"] = {"extends": {"type": "string", "description": "a recipe to start from"}, **properties}
    kinds = properties["tasks"]["additionalProperties"]
    properties["tasks"]["additionalProperties"] = {**kinds, "required": ["kind"]}
    # A task named like a kind is of that kind, unless it has another.
    properties["tasks"]["properties"] = {
        kind: {"if": {"required": ["kind"]}, "then": kinds, "else": {"$ref": reference}}
        for kind, reference in kinds["discriminator"]["mapping"].items()
    }
    return schema


def data_sources(recipe: Recipe) -> Iterator[tuple[str, Data]]:
    """Yields (key path, Data) of all data that a recipe names."""
    if recipe.tokenizer is not None and recipe.tokenizer.train is not None:
        for number, source in enumerate(recipe.tokenizer.train.data or ()):
            yield f"tokenizer.train.data.{number}", source
    if recipe.pretrain is not None:
        for number, source in enumerate(recipe.pretrain.data):
            yield f"pretrain.data.{number}", source
        yield from recipe.pretrain.validation_sets.items()
    for name, task in recipe.tasks.items():
        yield f"tasks.{name}.data", task.data


def _secret_problems(node: Node, path: tuple[str, ...] = ()) -> Iterator[Problem]:
    """Yields the keys and values that hold an access token, which a run would copy into its files."""
    match node.value:
        case str() if has_secret(node.value):
            yield Problem(node.file, node.line, ".".join(path), SECRET)
        case list():
            for number, child in enumerate(node.value):
                yield from _secret_problems(child, (*path, str(number)))
        case dict():
            for key, child in node.value.items():
                if has_secret(str(key)):
                    yield Problem(child.file, child.line, ".".join([*path, str(key)]), SECRET)
                else:
                    yield from _secret_problems(child, (*path, str(key)))


def _checked(tree: Node, problems: list[Problem]) -> Recipe:
    problems += _secret_problems(tree)
    places = {(problem.file, problem.line) for problem in problems}
    try:
        loaded = Recipe.model_validate(tree.plain())
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            path, node = locate(tree, detail["loc"], detail["type"] == "missing")
            if (node.file, node.line) not in places:  # else it follows from a problem of the YAML
                problems.append(Problem(node.file, node.line, path, detail["msg"]))
        loaded = None
    if loaded is not None and loaded.sweep is not None and not problems:
        problems += space_problems(tree, loaded)
    if problems or loaded is None:
        raise RecipeError(_sorted(problems))
    if loaded.pretrain is None:
        return loaded
    args = preset_training_args(loaded.model.preset, loaded.pretrain.args)
    return loaded.model_copy(update={"pretrain": loaded.pretrain.model_copy(update={"args": args})})


def _sorted(problems: Iterable[Problem]) -> list[Problem]:
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.file, problem.line or 0))


def locate(tree: Node, path: Sequence[str | int], missing: bool = False) -> tuple[str, Node]:
    """The written key path and Node of pydantic's path, which also has a union's tag and the list around one item."""
    written, node = [], tree
    for i, key in enumerate(path):
        child = node.child(key)
        if child is not None:
            written.append(str(key))
            node = child
        elif missing and i == len(path) - 1:
            written.append(str(key))
    return ".".join(written), node


def _plain(value: Any) -> Any:
    match value:
        case Section():
            written = {
                field.alias or name: getattr(value, name)
                for name, field in type(value).model_fields.items()
                if getattr(value, name) is not None or field.default is not None
            }
            return _plain({**written, **(value.model_extra or {})})
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case tuple() | list():
            return [_plain(each) for each in value]
    return value
