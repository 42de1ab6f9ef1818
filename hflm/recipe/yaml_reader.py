"""Reads YAML into a tree of Nodes that keep the file and line of each key.

What differs from PyYAML's own reading: `5e-4` is a number; only true and false are booleans (`no` stays a word, so
that a language or a label may be called so); dates stay text; a duplicate key, a tag and a second document are errors.
"""

import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hflm.core import Problem, RecipeError

MAX_NODES = 100_000  # a few nested aliases ("billion laughs") make more values than memory holds
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
    """A value of a recipe, with the file and line of its key. `value` is a scalar, a dict of Nodes or a list of Nodes."""

    value: Any
    file: str
    line: int | None

    def plain(self) -> Any:
        """The value without files and lines."""
        match self.value:
            case dict():
                return {key: node.plain() for key, node in self.value.items()}
            case list():
                return [node.plain() for node in self.value]
        return self.value

    def child(self, key: Hashable) -> "Node | None":
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
    def ignore_aliases(self, data: object) -> bool:
        return True


_Loader.yaml_implicit_resolvers = {}  # YAML 1.1's are replaced
for _kind, (_first, _pattern) in SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), list(_first))
_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar(TAG + "str", text, style='"' if "\n" in text else None)
)


def parse_yaml(text: str, file: str, problems: list[Problem]) -> Node:
    """The Node of a YAML text; what does not stop the reading (a duplicate key) is added to `problems`.

    Raises RecipeError, with the line and with the problems before it.

    >>> parse_yaml("a: 5e-4\\nb: [no, 1]", "x.yaml", []).plain()
    {'a': 0.0005, 'b': ['no', 1]}
    """

    def stop(line: int | None, problem: str) -> RecipeError:
        return RecipeError([*problems, Problem(file, line, "", problem)])

    try:
        loader = _Loader(text)
        return _Reader(file, loader, problems).node(loader.get_single_node(), None)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise stop(mark.line + 1 if mark else None, _syntax(error)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise stop(line, f"the character {chr(error.character)!r} is not allowed in YAML. Remove it") from None
    except RecursionError:
        raise stop(None, "nested too deeply to be a recipe") from None
    except _TooMany as error:
        raise stop(error.line, f"more than {MAX_NODES} values: aliases that multiply? Write less") from None


def parse_yaml_file(
    path: Path, file: str, problems: list[Problem], kind: str = "recipe", example: str = "name: quickstart"
) -> Node:
    """The Node of a YAML file of keys and values; `file` is its name in messages. Raises RecipeError."""

    def stop(text: str, line: int | None = None) -> RecipeError:
        return RecipeError([*problems, Problem(file, line, "", text)])

    try:
        tree = parse_yaml(path.read_text(encoding="utf-8-sig"), file, problems)
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


def dump_yaml(data: object) -> str:
    """YAML that `parse_yaml` reads back to the same values."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=10_000)


def _syntax(error: yaml.MarkedYAMLError) -> str:
    """PyYAML's message, with the remedy for the most frequent mistakes."""
    text = error.problem or error.context or ""
    if "\\t" in text:
        return "a tab character. YAML is indented with spaces"
    if "mapping values are not allowed" in text:
        return "a colon where none may stand. Put text that holds `: ` in quotes"
    if "expected a single document" in f"{error.context} {text}":
        return "a second document begins here. A recipe file holds one"
    return f"not YAML: {f'{error.context}, ' if error.context and error.context != text else ''}{text}"


class _TooMany(Exception):
    def __init__(self, line: int | None) -> None:
        self.line = line


class _Reader:
    """PyYAML's node graph -> Nodes. It keeps the count of values, which aliases multiply."""

    def __init__(self, file: str, loader: _Loader, problems: list[Problem]) -> None:
        self.file, self.loader, self.problems = file, loader, problems
        self.count = 0
        self.open: list[yaml.Node] = []

    def problem(self, node: yaml.Node, text: str, key: str = "") -> None:
        self.problems.append(Problem(self.file, node.start_mark.line + 1, key, text))

    def node(self, node: yaml.Node | None, line: int | None) -> Node:
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
        if isinstance(node, yaml.MappingNode):
            value = self.mapping(node)
        else:
            value = [self.node(item, None) for item in node.value]
        self.open.pop()
        return Node(value, self.file, line)

    def scalar(self, node: yaml.ScalarNode) -> Any:
        try:
            return self.loader.construct_object(node)
        except (ValueError, KeyError, yaml.YAMLError):
            self.problem(node, f"{node.value[:40]!r} cannot be read as {node.tag.replace(TAG, '!!')}")
            return None

    def mapping(self, node: yaml.MappingNode) -> dict[Any, Node]:
        found: dict[Any, Node] = {}
        merged: dict[Any, Node] = {}
        lines: dict[Hashable, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == TAG + "merge":
                merged |= {key: value for key, value in self.merged(key_node, value_node).items() if key not in merged}
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

    def merged(self, key_node: yaml.Node, value_node: yaml.Node) -> dict[Any, Node]:
        """The keys that a `<<` merges; of several mappings the first wins."""
        merged: dict[Any, Node] = {}
        bases = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
        for base in [self.node(base, None) for base in bases]:
            if isinstance(base.value, dict):
                merged = {**base.value, **merged}
            else:
                self.problem(key_node, "<< merges keys and values (an alias such as *defaults), nothing else")
        return merged
