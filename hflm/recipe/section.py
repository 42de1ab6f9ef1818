"""What all sections of a recipe share: a frozen model that tells all its problems at once, in plain words."""

import re
from typing import Annotated, Literal

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
from pydantic_core import InitErrorDetails, PydanticCustomError

from hflm.recipe import library_options as names
from hflm.recipe import trackers
from hflm.recipe.library_options import NAMES, show, suggest

TASK_KINDS = ("translation", "summarization", "sentiment", "qa", "generation", "choice", "language_modeling")


class Section(BaseModel):
    """A part of a recipe: frozen, strict about types, and telling all its problems at once."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def rules(cls, raw):
        """Yields (path below this section, text) for what the types of the keys do not say. raw: the YAML as it is."""
        return ()

    @model_validator(mode="wrap")
    @classmethod
    def _all_problems(cls, raw, handler):
        if not isinstance(raw, dict):
            return handler(raw)
        found = [("problem", path, text) for path, text in cls.rules(raw)]
        if cls.model_config["extra"] == "forbid":
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in raw.keys() - set(known):
                found.append(("problem", (key,), f"unknown key.{suggest(key, cls.suggested())}"))
            raw = {key: value for key, value in raw.items() if key in known}
        try:
            section = handler(raw)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                kind = "missing" if detail["type"] == "missing" else "problem"
                path = (*detail["loc"], "kind") if detail["type"] == "union_tag_invalid" else detail["loc"]
                found.append((kind, path, _plain_words(detail)))
        if found:
            details = [
                InitErrorDetails(type=PydanticCustomError(kind, "{text}", {"text": text}), loc=path, input=None)
                for kind, path, text in found
            ]
            raise ValidationError.from_exception_data(cls.__name__, details)
        return section

    @classmethod
    def suggested(cls):
        return [field.alias or name for name, field in cls.model_fields.items()]


def _plain_words(detail):
    """pydantic's error in the words of somebody who writes YAML."""
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    if "text" in context:
        return context["text"]  # said by a section inside this one
    match kind:
        case "missing":
            return "required key is missing"
        case "int_type" | "float_type" | "bool_type" | "string_type":
            union = {"int_type": "int", "float_type": "float", "bool_type": "bool", "string_type": "str"}[kind]
            return names.mismatch(union, value)
        case "tuple_type" | "list_type":
            return f"expected a list, got {show(value)}"
        case "dict_type" | "model_type" | "model_attributes_type":
            return f"expected keys and values, got {show(value)}"
        case "literal_error":
            choices = re.findall(r"'([^']*)'", context["expected"])
            return names.mismatch("|".join(choices), value)
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            bounds = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
            [(bound, limit)] = context.items()
            return f"must be {bounds[bound]} {limit:g}, got {show(value)}"
        case "string_too_short":
            return "must not be empty"
        case "union_tag_not_found":
            return f"which kind of task is it? Add `kind:`, one of {', '.join(TASK_KINDS)}"
        case "union_tag_invalid":
            return f"there is no kind {show(value['kind'])}.{suggest(value['kind'], TASK_KINDS)}"
        case "value_error":
            return str(context["error"])
    return detail["msg"]


def count(least, most=None):
    """A list's length, checked only when its items are right. pydantic's own min_length counts the right ones."""

    def check(values):
        if len(values) < least:
            raise ValueError(f"expected at least {least} {'item' if least == 1 else 'items'}, got {len(values)}")
        if most and len(values) > most:
            raise ValueError(f"expected {most} items, got {len(values)}")
        return values

    return AfterValidator(check)


def unique(values):
    """Refuses a list that holds an item twice."""
    if len(set(values)) < len(values):
        raise ValueError(f"{show(max(values, key=values.count))} stands twice. Remove one")
    return values


def _jinja(text):
    """A prompt must compile: ValueError with jinja's message and the line inside the prompt."""
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        ImmutableSandboxedEnvironment().from_string(text)
    except TemplateSyntaxError as error:
        raise ValueError(f"not a jinja template: {error.message} (line {error.lineno} of the prompt)") from None
    if not text.strip():
        raise ValueError("the prompt is empty. Write what the model reads before the target")
    return text


def matching(pattern, expected):
    """Text that matches the whole of a pattern; `expected` says it in words."""

    def check(text):
        if not re.fullmatch(pattern, text):
            raise ValueError(f"expected {expected}, got {show(text)}")
        return text

    return AfterValidator(check)


def options_of(group):
    """A dict of a library's options; the section's rules check it."""
    properties = names.schema(NAMES[group], without=names.REFUSED[group])
    if group == "LoraConfig":
        properties = {"type": {"const": "lora"}, **properties}
    return Annotated[dict, WithJsonSchema({"type": "object", "properties": properties, "additionalProperties": False})]


def passing(*groups, more=None):
    """For the JSON Schema of a section that passes keys through: their names and types beside its own."""

    def extend(schema):
        for group in groups:
            others = [*names.REFUSED.get(group, ()), *schema["properties"]]
            schema["properties"].update(names.schema(NAMES[group], without=others))
        schema["properties"].update(more or {})
        schema["additionalProperties"] = False

    return extend


def misused(raw, key, group):
    """Yields (path, text) for what is wrong in a section's dict of a library's options."""
    options = raw.get(key)
    for name, text in names.problems(options, group) if isinstance(options, dict) else ():
        yield (key, name), text


def contradicted(raw):
    """Yields (path, text) for `args` that contradict a training section's own keys."""
    args = raw.get("args")
    if not isinstance(args, dict):
        return
    if text := trackers.unknown_tracker(args.get("report_to")):
        yield ("args", "report_to"), text
    if raw.get("on_spike") == "rollback" and args.get("fp16"):
        yield ("on_spike",), "a rollback leaves steps out, which fp16's scaler does not allow. Use bf16, or stop"
    for key in ("per_device_train_batch_size", "per_device_eval_batch_size"):
        if isinstance(args.get(key), int) and args[key] < 1:
            yield ("args", key), f"a batch has at least one row, not {args[key]}"
    if raw.get("batch_tokens") is None:
        return
    if args.get("gradient_accumulation_steps") is not None:
        yield ("args", "gradient_accumulation_steps"), "it follows from batch_tokens. Keep one of the two"
    if args.get("train_sampling_strategy") == "group_by_length":
        yield ("args", "train_sampling_strategy"), "with batch_tokens a step holds any rows. Keep one of the two"


License = Annotated[str, matching(r"[a-z0-9][a-z0-9.-]*", "a licence as the Hub names it, such as apache-2.0")]
Positive = Annotated[int, Field(gt=0)]
# What both training sections say.
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
        description="A loss that jumps ends the stage, or is gone back from and its batch skipped. One that is not finite "
        "never goes on."
    ),
]
ZLoss = Annotated[
    float,
    Field(ge=0, description="The weight of log(Z)^2 beside the loss, which keeps the logits from drifting."),
]
Rows = Literal["documents", "lines"]
Words = Annotated[tuple[str, ...], Strict(False)]
Prompt = Annotated[str, AfterValidator(_jinja)]
