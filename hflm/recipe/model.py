"""The section `model` of a recipe: a new GPT-2, or a model to start from."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from hflm.recipe import library_options as names
from hflm.recipe.library_options import NAMES, show, suggest
from hflm.recipe.presets import PRESETS
from hflm.recipe.section import KeyProblem, Section, either, passing

SIZES = ("n_layer", "n_head", "n_embd", "n_positions", "n_inner")


class ModelRecipe(Section):
    """A new GPT-2 (`preset` and any GPT2Config key) or one to start `from`."""

    model_config = ConfigDict(extra="allow", json_schema_extra=passing("GPT2Config"))
    preset: Annotated[str, WithJsonSchema({"enum": list(PRESETS)})] | None = None
    """A new GPT-2 of this size, initialised from `seed`."""
    from_: str | None = Field(None, alias="from")
    """Start from a model: a Hub id, a folder, an adapter, a run or a .gguf file."""
    revision: str | None = None
    """The Hub's commit, branch or tag of `from`."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """The type of the weights in memory; float32 by default."""

    @classmethod
    def rules(cls, raw: dict[str, Any]) -> Iterator[KeyProblem]:
        yield from either(raw, "preset", "from")
        options = {key: value for key, value in raw.items() if key not in ("preset", "from", "revision", "dtype")}
        if raw.get("preset") is None and raw.get("from") is not None:
            yield from _config_without_preset(options)
        else:
            yield from _config_problems(raw, options)

    @property
    def config(self) -> dict[str, Any]:
        """GPT2Config's keyword arguments: the preset's, with the recipe's over them; {} for a model `from`."""
        return {**PRESETS[self.preset], **(self.model_extra or {})} if self.preset else {}


def _config_without_preset(options: dict[str, Any]) -> Iterator[KeyProblem]:
    for key, value in options.items():
        if key not in NAMES["GPT2Config"]:
            yield (key,), f"unknown key.{suggest(key, ['from', 'revision', 'dtype'])}"
        elif value is not None:
            yield (key,), "belongs to a `preset:`; a model `from:` has its own configuration. Remove it"


def _config_problems(raw: dict[str, Any], options: dict[str, Any]) -> Iterator[KeyProblem]:
    preset = raw.get("preset")
    wrong = dict(names.problems(options, "GPT2Config", own_keys=("preset", "from")))
    if isinstance(preset, str) and preset not in PRESETS:
        yield ("preset",), f"no such preset: {show(preset)}.{suggest(preset, PRESETS)}"
    for key, value in options.items():
        if key in wrong or value is None:
            continue
        if key in SIZES and value <= 0:
            wrong[key] = f"must be above 0, got {value}"
        if key.endswith("_pdrop") and not 0 <= value < 1:
            wrong[key] = f"a dropout probability is at least 0 and below 1, got {value}"
    for key, text in wrong.items():
        yield (key,), text
    config = {**PRESETS.get(preset if isinstance(preset, str) else "", {}), **options}
    heads, width = config.get("n_head"), config.get("n_embd")
    if heads and width and not wrong.keys() & {"n_head", "n_embd"} and width % heads:
        where = ("n_head",) if "n_head" in raw else ("n_embd",)
        yield where, f"n_embd {width} is not divisible by n_head {heads}"
