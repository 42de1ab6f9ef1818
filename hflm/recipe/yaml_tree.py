"""The tree of a recipe: its file merged over what it `extends`, with the `--set` options applied.

Functions raise RecipeError for what makes a file unreadable, and leave what the keys mean to hflm.recipe.schema.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from hflm.core import Problem, RecipeError
from hflm.recipe.shipped import display_path, find_recipe
from hflm.recipe.yaml_reader import Node, parse_yaml, parse_yaml_file


def read_tree(recipe: str, sets: Iterable[str] = ()) -> tuple[Node, list[Problem]]:
    """The merged tree of a recipe, its `extends` chain and the `--set` options, and the Problems in their YAML.

    Raises RecipeError where no tree can be made.
    """
    problems: list[Problem] = []
    try:
        path = find_recipe(recipe)
    except LookupError as error:
        raise RecipeError([Problem(recipe, None, "", str(error))]) from None
    tree = _extended(path, display_path(path), (), problems)
    apply_sets(tree, sets, problems)
    return tree, problems


def apply_sets(tree: Node, sets: Iterable[str], problems: list[Problem]) -> None:
    """Applies `key.path=value` texts to a tree."""
    for text in sets:
        try:
            set_key(tree, text)
        except ValueError as error:
            problems.append(Problem(f"--set {text}", None, "", str(error)))


def _extended(path: Path, file: str, chain: tuple[Path, ...], problems: list[Problem]) -> Node:
    """The tree of a file, merged over what it extends. `chain`: the files that led here."""

    def stop(text: str, line: int | None) -> RecipeError:
        return RecipeError([*problems, Problem(file, line, "extends", text)])

    tree = parse_yaml_file(path, file, problems)
    base = tree.value.pop("extends", None)
    if base is None:
        return tree
    if not isinstance(base.value, str):
        raise stop("expected one path, or the name of a shipped recipe", base.line)
    try:
        parent = find_recipe(base.value, path.parent)
    except LookupError as error:
        raise stop(f"{base.value}: {error}", base.line) from None
    chain = (*chain, path.resolve())
    if parent.resolve() in chain:
        raise stop(f"{base.value} leads back to itself. Break the circle", base.line)
    return _merged(_extended(parent, display_path(parent), chain, problems), tree)


def _merged(base: Node, child: Node) -> Node:
    """The child over the base: mappings key by key, anything else replaced."""
    if not (isinstance(base.value, dict) and isinstance(child.value, dict)):
        return child
    both = {key: _merged(base.value[key], node) for key, node in child.value.items() if key in base.value}
    return Node({**base.value, **child.value, **both}, child.file, child.line)


def set_key(tree: Node, text: str) -> None:
    """Applies one `key.path=value`. Raises ValueError with a message for users."""
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ValueError("expected key.path=value, such as pretrain.args.max_steps=100")
    if not value.strip():
        raise ValueError("no value after the =. Write null to remove the key, or '\"\"' for empty text")
    if keys[0] == "extends":
        raise ValueError("a recipe says itself what it extends: write it in the file")
    _assign(tree, keys, _set_value(value, f"--set {text}"))


def _set_value(text: str, file: str) -> Node:
    """The Node of the YAML after `=`."""
    problems: list[Problem] = []
    try:
        node = parse_yaml(text, file, problems)
    except RecipeError as error:
        raise ValueError(f"the value is not YAML: {error.problems[0].text}") from None
    if problems:
        raise ValueError(problems[0].text)
    _locate_in(node, file)
    return node


def _assign(tree: Node, keys: list[str], new: Node) -> None:
    """Puts `new` at the path `keys`; null removes a key that exists. Raises ValueError with a message for users."""
    node = tree
    for i, name in enumerate(keys):
        parent, last = ".".join(keys[:i]), i == len(keys) - 1
        value: Any = node.value
        key: Any = name
        if isinstance(value, list):
            if not name.isdecimal() or int(name) >= len(value):
                raise ValueError(f"{parent} is a list of {len(value)}: {name} is no index of it")
            key = int(name)
        elif not isinstance(value, dict):
            if value is not None:
                raise ValueError(f"{parent} is {value!r}, which holds no keys")
            value = node.value = {}
        child = node.child(key)
        if not last and child is not None:
            node = child
            continue
        holder = cast(Any, value)
        if last and new.value is None and child is not None:
            del holder[key]
        elif last:
            holder[key] = new
        else:
            holder[key] = node = Node({}, new.file, None)


def _locate_in(node: Node, file: str) -> None:
    """Sets the file of a Node and of all below it; they have no line."""
    node.file, node.line = file, None
    children: Iterable[Node] = ()
    if isinstance(node.value, dict | list):
        children = node.value.values() if isinstance(node.value, dict) else node.value
    for child in children:
        _locate_in(child, file)
