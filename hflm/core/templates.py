"""Jinja templates of recipes and models, sandboxed: they run no Python code, and cannot exhaust time or memory.

Jinja's own sandbox limits `range` alone. Here a render has a budget of loop iterations and calls, powers and products
stay small, and no operation makes a text of more than MAX_TEXT characters.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from jinja2 import StrictUndefined, Template, Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS = 100_000  # iterations and calls of one render
MAX_TEXT = 10_000_000  # characters
MAX_WORK = 100_000_000  # length of a text times the length of an argument, as `replace` may multiply them
MAX_WIDTH = 100_000  # the numbers that these methods, filters and functions take
WIDTHS = {"center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap", "batch", "slice", "round"} | {
    "generate_lorem_ipsum"
}
MAX_BITS = 4096  # of a whole number
BUDGET = "the budget"  # no template can name a variable with a space


class _Budget:
    """What is left of the steps and characters of one render."""

    def __init__(self) -> None:
        self.steps, self.characters = MAX_STEPS, MAX_TEXT

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise SecurityError(f"more than {MAX_STEPS:,} loop iterations and calls")

    def write(self, text: str) -> None:
        self.characters -= len(text)
        if self.characters < 0:
            raise SecurityError(f"more than {MAX_TEXT:,} characters")


class PromptEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with limits on what one render computes."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(
        self, undefined: type[Undefined] = StrictUndefined, finalize: Callable[..., Any] | None = None
    ) -> None:
        super().__init__(undefined=undefined, finalize=finalize, autoescape=False)
        self.filters = {name: _limited_filter(name, function) for name, function in self.filters.items()}
        self.filters |= {"limit iterations": _limit_iterations, "limit text": _limit_text}

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(value) if isinstance(value, str | list | tuple) else None for value in (left, right)]
        bits = [value.bit_length() if isinstance(value, int) else 0 for value in (left, right)]
        if operator == "%" and isinstance(left, str):
            _check_format(left)
        elif operator == "**" and isinstance(right, int) and bits[0] * abs(right) > MAX_BITS:
            raise SecurityError("a power is too large")
        elif operator == "*" and sizes != [None, None]:
            times = left if sizes[0] is None else right
            if isinstance(times, int) and times * (sizes[0] or sizes[1] or 0) > MAX_TEXT:
                raise SecurityError(f"a repetition of more than {MAX_TEXT:,} characters")
        elif operator == "*" and sum(bits) > MAX_BITS:
            raise SecurityError("a product is too large")
        elif operator == "+" and sum(size or 0 for size in sizes) > MAX_TEXT:
            raise SecurityError(f"a text of more than {MAX_TEXT:,} characters")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format(value.__self__)
        return wrapped

    def call(self, context: Context, function: Any, /, *arguments: Any, **options: Any) -> Any:
        context[BUDGET].step()
        _check_arguments(getattr(function, "__name__", ""), getattr(function, "__self__", None), arguments, options)
        return _check_result(super().call(context, function, *arguments, **options))


class _Limits(NodeTransformer):
    """Puts the budget's filters around what is iterated, concatenated and written."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        if node.recursive:
            raise SecurityError("a recursive loop is not allowed in a prompt")
        self.generic_visit(node)
        node.iter = _filter(node.iter, "limit iterations")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filter(node, "limit text")

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        self.generic_visit(node)
        node.nodes = [
            each if isinstance(each, nodes.TemplateData) else _filter(each, "limit text") for each in node.nodes
        ]
        return node


@functools.cache
def _environment() -> PromptEnvironment:
    return PromptEnvironment()


def compile_template(text: str, environment: PromptEnvironment | None = None) -> Template:
    """The template of a text. Raises TemplateSyntaxError; SecurityError for a loop that calls itself."""
    environment = environment or _environment()
    return environment.from_string(_Limits().visit(environment.parse(text)))


def template_fields(text: str) -> set[str]:
    """The names of the fields that a template reads: "{{ a }} {{ b.c }}" -> {"a", "b"}."""
    return find_undeclared_variables(_environment().parse(text)) - _environment().globals.keys()


def render_template(template: Template, fields: Mapping[str, Any]) -> str:
    """The text of a template. Raises UndefinedError for a field that is missing, SecurityError beyond the limits.

    >>> render_template(compile_template("{{ text | upper }}"), {"text": "a"})
    'A'
    """
    return template.render({**fields, BUDGET: _Budget()})


def _filter(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(
        cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno, environment=node.environment
    )


@pass_context
def _limit_iterations(context: Context, values: Any) -> Any:
    for value in values:
        context[BUDGET].step()
        yield value


@pass_context
def _limit_text(context: Context, value: Any) -> Any:
    if isinstance(value, str):
        context[BUDGET].write(value)
    return value


def _limited_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    passes = hasattr(function, "jinja_pass_arg")  # its first argument is a context or an environment

    @functools.wraps(function)  # keeps jinja_pass_arg
    def limited(*arguments: Any, **options: Any) -> Any:
        _check_arguments(name, arguments[passes], arguments[passes + 1 :], options)
        return _check_result(function(*arguments, **options))

    return limited


def _check_arguments(name: str, value: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Refuses widths and counts that are too large, and texts that an operation on `value` may multiply."""
    if isinstance(value, str) and name == "format":
        _check_format(value)
    size = len(value) if isinstance(value, str | list | tuple) else 1
    for argument in (*arguments, *options.values()):
        if name in WIDTHS and isinstance(argument, int) and argument > MAX_WIDTH:
            raise SecurityError(f"{name}: {argument:,} is more than {MAX_WIDTH:,}")
        if isinstance(argument, str | list | tuple) and size * len(argument) > MAX_WORK:
            raise SecurityError(f"{name}: a text of more than {MAX_TEXT:,} characters")


def _check_result(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise SecurityError(f"a text of more than {MAX_TEXT:,} characters")
    return value


def _check_format(text: str) -> None:
    """Refuses a width above 99,999, and one that is computed."""
    if re.search(r"\d{6}|%[^%a-zA-Z]*\*|:[^{}]*\{", text):
        raise SecurityError("a format's width is too large, or is computed")
