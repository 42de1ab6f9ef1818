"""Reads a recipe's YAML into a tree that knows where each key stands, and merges `extends` and `--set` into it.

What differs from PyYAML's own reading: `5e-4` is a number; only true and false are booleans (`no` stays a word, so
that a language or a label may be called so); dates stay text; a duplicate key, a tag and a second document are errors.

Functions raise RecipeError for what makes a file unreadable, and leave what the keys mean to hflm.recipe.schema.
"""

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hflm.core import Problem, RecipeError

MAX_NODES = 100_000  # a few nested aliases ("billion laughs") make more values than memory holds
SUFFIXES = (".yaml", ".yml")
SCALARS = {
    "null": (["", *"~nN"], r"~|null|Null|NULL|"),
    "bool": ("tTfF", r"true|True|TRUE|false|False|FALSE"),
    "int": ("-+0123456789", r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+"),
    "float": (
        "-+.0123456789",
        r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf)|\.nan",
    ),
    "merge": ("<", r"<<"),
}
TAG = "tag:yaml.org,2002:"


@dataclass
class Node:
    """A value of a recipe and the place of its key. `value` is a scalar, a dict of Nodes or a list of Nodes."""

    value: Any
    file: str
    line: int | None

    def plain(self):
        """The value without places."""
        match self.value:
            case dict():
                return {key: node.plain() for key, node in self.value.items()}
            case list():
                return [node.plain() for node in self.value]
        return self.value

    def child(self, key):
        """The Node under a key or list index, or None."""
        match self.value:
            case dict():
                return self.value.get(key)
            case list() if isinstance(key, int) and key < len(self.value):
                return self.value[key]
        return None


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):  # quotes what any reader, this one or YAML 1.1's, would not read as text
    def ignore_aliases(self, data):
        return True


_Loader.yaml_implicit_resolvers = {}  # YAML 1.1's are replaced
for _kind, (_first, _pattern) in SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), list(_first))
_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar(TAG + "str", text, style='"' if "\n" in text else None)
)


def shipped_recipes():
    """The recipes that come with hflm: {name: path}, such as `quickstart` or `sentiment/sst2`."""
    home = Path(__file__).parents[1]
    folder = home / "_recipes" if (home / "_recipes").is_dir() else home.parent / "recipes"
    paths = [
        path for path in sorted(folder.rglob("*.yaml")) if path.parent.name != "launch"
    ]  # accelerate's, no recipes
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def find_recipe(recipe, beside=None):
    """The file of a recipe: a path (relative to the folder `beside`), or a shipped name, whole or its last part.

    Raises LookupError with a message for users.
    """
    path = Path(os.path.normpath((beside or Path()) / recipe))
    if path.is_file():
        return path
    known = shipped_recipes()
    found = [name for name in known if recipe == name] or [name for name in known if recipe == name.split("/")[-1]]
    if len(found) == 1:
        return known[found[0]]
    if found:
        raise LookupError(f"{recipe} is the name of several shipped recipes. Write one of: {', '.join(found)}")
    if path.is_dir():
        raise LookupError(f"{path} is a folder, not a recipe. Name a .yaml file in it")
    near = difflib.get_close_matches(recipe, [*known, *(name.split("/")[-1] for name in known)], n=1)
    hint = f"Did you mean {near[0]}?" if near else "`hflm recipes` lists the shipped ones"
    raise LookupError(f"no such file, and no shipped recipe of that name. {hint}")


def read_tree(recipe, sets=()):
    """The merged tree of a recipe, its `extends` chain and the `--set` options, and the Problems found on the way.

    Raises RecipeError where there is no tree to go on with.
    """
    problems = []
    try:
        path = find_recipe(recipe)
    except LookupError as error:
        raise RecipeError([Problem(recipe, None, "", str(error))]) from None
    tree = _extended(path, display_path(path), (), problems)
    apply_sets(tree, sets, problems)
    return tree, problems


def apply_sets(tree, sets, problems):
    """Applies `key.path=value` texts to a tree."""
    for text in sets:
        try:
            _set(tree, text)
        except ValueError as error:
            problems.append(Problem(f"--set {text}", None, "", str(error)))


def parse(text, file, problems):
    """The Node of a YAML text; what does not stop the reading (a duplicate key) is added to `problems`.

    Raises RecipeError, with the line and with the problems before it.

    >>> parse("a: 5e-4\\nb: [no, 1]", "x.yaml", []).plain()
    {'a': 0.0005, 'b': ['no', 1]}
    """

    def stop(line, problem):
        return RecipeError([*problems, Problem(file, line, "", problem)])

    try:
        loader = _Loader(text)
        return _Reader(file, loader, problems).node(loader.get_single_node(), None)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise stop(mark.line + 1, _syntax(error)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise stop(line, f"the character {chr(error.character)!r} is not allowed in YAML. Remove it") from None
    except RecursionError:
        raise stop(None, "nested too deeply to be a recipe") from None
    except _TooMany as error:
        raise stop(error.line, f"more than {MAX_NODES} values: aliases that multiply? Write less") from None


def parse_file(path, file, problems, kind="recipe", example="name: quickstart"):
    """The Node of a YAML file of keys and values; `file` is its name in messages. Raises RecipeError."""

    def stop(text, line=None):
        return RecipeError([*problems, Problem(file, line, "", text)])

    try:
        tree = parse(path.read_text(encoding="utf-8-sig"), file, problems)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise stop("not UTF-8 text. Save the file as UTF-8", line=line) from None
    except OSError as error:
        raise stop(f"cannot be read: {error.strerror}") from None
    if tree.value is None:
        raise stop(f"the file is empty. A {kind} is keys and values, such as `{example}`")
    if not isinstance(tree.value, dict):
        raise stop(f"a {kind} is keys and values, such as `{example}`", line=tree.line)
    return tree


def dump(data):
    """YAML that `parse` reads back to the same values."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=10_000)


def display_path(path):
    """The path as messages show it: from the working folder where it lies below it."""
    return os.path.relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(path)


def _extended(path, file, chain, problems):
    """The tree of a file, merged over what it extends. `chain`: the files that led here."""

    def stop(text, line):
        return RecipeError([*problems, Problem(file, line, "extends", text)])

    tree = parse_file(path, file, problems)
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


def _merged(base, child):
    """The child over the base: mappings key by key, anything else replaced."""
    if not (isinstance(base.value, dict) and isinstance(child.value, dict)):
        return child
    both = {key: _merged(base.value[key], node) for key, node in child.value.items() if key in base.value}
    return Node({**base.value, **child.value, **both}, child.file, child.line)


def _set(tree, text):
    """Applies one `key.path=value`. Raises ValueError with a message for users."""
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ValueError("expected key.path=value, such as pretrain.args.max_steps=100")
    if not value.strip():
        raise ValueError("no value after the =. Write null to remove the key, or '\"\"' for empty text")
    if keys[0] == "extends":
        raise ValueError("a recipe says itself what it extends: write it in the file")
    found = []
    try:
        new = parse(value, f"--set {text}", found)
    except RecipeError as error:
        raise ValueError(f"the value is not YAML: {error.problems[0].text}") from None
    if found:
        raise ValueError(found[0].text)
    _place(new, f"--set {text}")
    node = tree
    for i, key in enumerate(keys):
        last = i == len(keys) - 1
        if isinstance(node.value, list):
            if not key.isdecimal() or int(key) >= len(node.value):
                raise ValueError(f"{'.'.join(keys[:i])} is a list of {len(node.value)}: {key} is no index of it")
            key = int(key)
        elif not isinstance(node.value, dict):
            if node.value is not None:
                raise ValueError(f"{'.'.join(keys[:i])} is {node.value!r}, which holds no keys")
            node.value = {}
        there = node.child(key)
        if last and new.value is None and there is not None:
            del node.value[key]
        elif last:
            node.value[key] = new
        elif there is None:
            node.value[key] = node = Node({}, new.file, None)
        else:
            node = there


def _place(node, file):
    node.file, node.line = file, None
    match node.value:
        case dict():
            children = node.value.values()
        case list():
            children = node.value
        case _:
            children = ()
    for child in children:
        _place(child, file)


def _syntax(error):
    """PyYAML's words, with the remedy for what people meet most."""
    text = error.problem or error.context
    if "\\t" in text:
        return "a tab character. YAML is indented with spaces"
    if "mapping values are not allowed" in text:
        return "a colon where none may stand. Put text that holds `: ` in quotes"
    if "expected a single document" in f"{error.context} {text}":
        return "a second document begins here. A recipe file holds one"
    return f"not YAML: {f'{error.context}, ' if error.context and error.context != text else ''}{text}"


class _TooMany(Exception):
    def __init__(self, line):
        self.line = line


class _Reader:
    """PyYAML's node graph -> Nodes. It keeps the count of values, which aliases multiply."""

    def __init__(self, file, loader, problems):
        self.file, self.loader, self.problems = file, loader, problems
        self.count, self.open = 0, []

    def problem(self, node, text, key=""):
        self.problems.append(Problem(self.file, node.start_mark.line + 1, key, text))

    def node(self, node, line):
        if node is None:
            return Node(None, self.file, None)
        line = line or node.start_mark.line + 1
        self.count += 1
        if self.count > MAX_NODES:
            raise _TooMany(line)
        kind = node.tag.removeprefix(TAG)
        if kind not in ("str", "int", "float", "bool", "null", "seq", "map"):
            self.problem(node, f"the tag {node.tag.replace(TAG, '!!')} is not allowed in a recipe. Remove it")
            return Node(None, self.file, line)
        if node in self.open:
            self.problem(node, "an alias inside the value that it names. Remove it")
            return Node(None, self.file, line)
        if isinstance(node, yaml.ScalarNode):
            return Node(self.scalar(node), self.file, line)
        self.open.append(node)
        if isinstance(node, yaml.SequenceNode):
            value = [self.node(item, None) for item in node.value]
        else:
            value = self.mapping(node)
        self.open.pop()
        return Node(value, self.file, line)

    def scalar(self, node):
        try:
            return self.loader.construct_object(node)
        except (ValueError, KeyError, yaml.YAMLError):
            self.problem(node, f"{node.value[:40]!r} cannot be read as {node.tag.replace(TAG, '!!')}")
            return None

    def mapping(self, node):
        found, merged, lines = {}, {}, {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == TAG + "merge":
                bases = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for base in [self.node(base, None) for base in bases]:
                    if isinstance(base.value, dict):
                        merged = {**base.value, **merged}
                    else:
                        self.problem(key_node, "<< merges keys and values (an alias such as *defaults), nothing else")
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self.problem(key_node, "a key that is a mapping or a list. Put text that holds {{ }} in quotes")
                continue
            key = self.scalar(key_node)
            if not isinstance(key, str | int) or isinstance(key, bool):
                self.problem(key_node, f"the key {key_node.value!r} is not text. Put it in quotes")
            elif key in lines:
                self.problem(key_node, f"duplicate key, first on line {lines[key]}. Remove one", str(key))
            else:
                lines[key] = line
                found[key] = self.node(value_node, line)
        return {**merged, **found}
