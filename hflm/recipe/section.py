"""What all sections of a recipe have in common: a frozen model that reports all its problems at once, in plain words."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal, LiteralString, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from hflm.core import nfc
from hflm.recipe import library_options as names
from hflm.recipe.kinds import kind_names
from hflm.recipe.library_options import NAMES, show, suggest

# (path below the section, message) of what is wrong in a section.
KeyProblem = tuple[tuple[str | int, ...], str]


class Section(BaseModel):
    """A part of a recipe: frozen, strict about types; its ValidationError holds all its problems."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def rules(cls, raw: dict[str, Any]) -> Iterable[KeyProblem]:
        """Yields the problems that the types of the keys do not find. raw: the YAML as it is."""
        return ()

    @model_validator(mode="wrap")
    @classmethod
    def _all_problems(cls, raw: Any, handler: Callable[[Any], Any]) -> Any:
        if not isinstance(raw, dict):
            return handler(raw)
        section = None
        problems = [("problem", path, text) for path, text in cls.rules(raw)]
        if cls.model_config.get("extra") == "forbid":
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in (key for key in raw if key not in known):
                problems.append(("problem", (key,), f"unknown key.{suggest(key, cls.suggested())}"))
            raw = {key: value for key, value in raw.items() if key in known}
        try:
            section = handler(raw)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                kind = "missing" if detail["type"] == "missing" else "problem"
                path = (*detail["loc"], "kind") if detail["type"] == "union_tag_invalid" else detail["loc"]
                problems.append((kind, path, _plain_words(detail)))
        if problems:
            details = [
                InitErrorDetails(
                    type=PydanticCustomError(cast(LiteralString, kind), "{text}", {"text": text}), loc=path, input=None
                )
                for kind, path, text in problems
            ]
            raise ValidationError.from_exception_data(cls.__name__, details)
        return section

    @classmethod
    def suggested(cls) -> list[str]:
        """The keys that an unknown one may have been meant as."""
        return [field.alias or name for name, field in cls.model_fields.items()]


def _plain_words(detail: ErrorDetails) -> str:
    """pydantic's error in the terms of YAML."""
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    if "text" in context:
        return context["text"]  # written by a section inside this one
    match kind:
        case "missing":
            return "required key is missing"
        case "int_type" | "float_type" | "bool_type" | "string_type":
            union = {"int_type": "int", "float_type": "float", "bool_type": "bool", "string_type": "str"}[kind]
            return names.mismatch(union, value) or detail["msg"]
        case "tuple_type" | "list_type":
            return f"expected a list, got {show(value)}"
        case "dict_type" | "model_type" | "model_attributes_type":
            return f"expected keys and values, got {show(value)}"
        case "literal_error":
            choices = re.findall(r"'([^']*)'", context["expected"])
            return names.mismatch("|".join(choices), value) or detail["msg"]
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            bounds = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
            [(bound, limit)] = context.items()
            return f"must be {bounds[bound]} {limit:g}, got {show(value)}"
        case "string_too_short":
            return "must not be empty"
        case "union_tag_not_found":
            return f"which kind of task is it? Add `kind:`, one of {', '.join(kind_names())}"
        case "union_tag_invalid":
            return f"there is no kind {show(value['kind'])}.{suggest(value['kind'], kind_names())}"
        case "value_error":
            return str(context["error"])
    return detail["msg"]


def count(least: int, most: int | None = None) -> AfterValidator:
    """A list's length, checked only when its items are right. pydantic's own min_length counts the right ones."""

    def check(values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(values) < least:
            raise ValueError(f"expected at least {least} {'item' if least == 1 else 'items'}, got {len(values)}")
        if most and len(values) > most:
            raise ValueError(f"expected {most} items, got {len(values)}")
        return values

    return AfterValidator(check)


def unique(values: tuple[str, ...]) -> tuple[str, ...]:
    """Refuses a list that holds an item twice, in one form of its characters or in two."""
    for value, times in Counter(map(nfc, values)).most_common(1):
        if times > 1:
            raise ValueError(f"{show(value)} is listed twice. Remove one")
    return values


def _jinja(text: str) -> str:
    """A prompt must compile: ValueError with jinja's message and the line inside the prompt."""
    from jinja2 import TemplateSyntaxError

    from hflm.core import compile_template

    try:
        compile_template(text)
    except TemplateSyntaxError as error:
        raise ValueError(f"not a jinja template: {error.message} (line {error.lineno} of the prompt)") from None
    if not text.strip():
        raise ValueError("the prompt is empty. Write what the model reads before the target")
    return text


def matching(pattern: str, expected: str) -> AfterValidator:
    """Text that matches a pattern in full; `expected` describes it in words."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"expected {expected}, got {show(text)}")
        return text

    return AfterValidator(check)


def options_of(group: str) -> WithJsonSchema:
    """The JSON Schema of a dict of a library's options; the section's rules check it."""
    properties = names.schema(NAMES[group], without=names.REFUSED[group])
    if group == "LoraConfig":
        properties = {"type": {"const": "lora"}, **properties}
    return WithJsonSchema({"type": "object", "properties": properties, "additionalProperties": False})


def passing(*groups: str, more: dict[str, Any] | None = None) -> Callable[[dict[str, Any]], None]:
    """For the JSON Schema of a section that passes keys through: their names and types, after its own."""

    def extend(schema: dict[str, Any]) -> None:
        for group in groups:
            others = [*names.REFUSED.get(group, ()), *schema["properties"]]
            schema["properties"].update(names.schema(NAMES[group], without=others))
        schema["properties"].update(more or {})
        schema["additionalProperties"] = False

    return extend


def either(raw: dict[str, Any], one: str, other: str) -> Iterator[KeyProblem]:
    """Yields what is wrong where exactly one of two keys is needed; `revision` belongs to `from`."""
    present = [key for key in (one, other) if raw.get(key) is not None]
    if not present:
        yield (), f"needs either {one} or {other}"
    if len(present) == 2:
        yield (present[1],), f"{one} and {other} exclude each other. Keep one"
    if raw.get("revision") is not None and "from" not in present:
        yield ("revision",), "belongs to a `from:`. Remove it"


def option_problems(raw: dict[str, Any], key: str, group: str) -> Iterator[KeyProblem]:
    """Yields what is wrong in a section's dict of a library's options."""
    options = raw.get(key)
    for name, text in names.problems(options, group) if isinstance(options, dict) else ():
        yield (key, name), text


License = Annotated[str, matching(r"[a-z0-9][a-z0-9.-]*", "a licence as the Hub names it, such as apache-2.0")]
Positive = Annotated[int, Field(gt=0)]
# Keys of both training sections.
BlockSize = Annotated[
    int | None,
    Field(gt=1, description="Tokens in a packed row; the model's context, up to 1,024, where it is left out."),
]
BatchTokens = Annotated[
    int | None,
    Field(gt=0, description="Tokens of one optimizer step over all processes; accumulation follows from it."),
]
OnSpike = Annotated[
    Literal["stop", "rollback", "ignore"],
    Field(
        description="What follows a loss that jumps: the stage ends, or goes back and skips the batch. A loss that is not finite "
        "always ends it."
    ),
]
ZLoss = Annotated[
    float,
    Field(ge=0, description="The weight of log(Z)^2 beside the loss, which keeps the logits from drifting."),
]
AverageCheckpoints = Annotated[
    int | None,
    Field(
        ge=2,
        exclude_if=lambda value: value is None,  # absent from keys of earlier runs
        description="The stage's model is the mean of the weights of so many of its last checkpoints.",
    ),
]
Rows = Literal["documents", "lines"]
Words = Annotated[tuple[str, ...], Strict(False)]
Prompt = Annotated[str, AfterValidator(_jinja)]
