"""The section `model` of a recipe: a new model, or a model to start from."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from hflm.recipe import library_options as names
from hflm.recipe.library_options import NAMES, show, suggest
from hflm.recipe.presets import ARCHITECTURES, PRESETS, architecture_of
from hflm.recipe.section import KeyProblem, Section, either, passing

OWN_KEYS = ("preset", "architecture", "from", "revision", "dtype")
_LLAMA_SIZES = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")
SIZES = {  # what a new model without a preset names; the defaults of these configurations are those of one large model
    "gpt2": ("n_layer", "n_head", "n_embd"),
    "llama": _LLAMA_SIZES,
    "qwen3": (*_LLAMA_SIZES, "num_key_value_heads", "head_dim"),
}
OTHER_SIZES = ("n_positions", "n_inner", "num_key_value_heads", "head_dim", "max_position_embeddings")


class ModelRecipe(Section):
    """A new model (`preset` or `architecture`, and any key of its configuration) or one to start `from`."""

    model_config = ConfigDict(extra="allow", json_schema_extra=passing(*ARCHITECTURES.values()))
    preset: Annotated[str, WithJsonSchema({"enum": list(PRESETS)})] | None = None
    """A new model of this size, initialised from `seed`."""
    architecture: Annotated[str, WithJsonSchema({"enum": list(ARCHITECTURES)})] | None = None
    """A new model without a preset: its architecture; the recipe then names its sizes."""
    from_: str | None = Field(None, alias="from")
    """Start from a model: a Hub id, a folder, an adapter, a run or a .gguf file."""
    revision: str | None = None
    """The Hub's commit, branch or tag of `from`."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """The type of the weights in memory; float32 by default."""

    @classmethod
    def rules(cls, raw: dict[str, Any]) -> Iterator[KeyProblem]:
        options = {key: value for key, value in raw.items() if key not in OWN_KEYS}
        named = raw.get("architecture") is not None
        yield from either(raw, "architecture" if named and raw.get("preset") is None else "preset", "from")
        if raw.get("from") is not None and raw.get("preset") is None and not named:
            yield from _config_without_preset(options)
        else:
            yield from _name_problems(raw)
            yield from _config_problems(raw, options)

    @property
    def config(self) -> dict[str, Any]:
        """The keyword arguments of a new model's configuration: the preset's, with the recipe's over them.

        Beside a GPT-2's they hold `model_type`. {} for a model `from`.
        """
        if self.from_ is not None:
            return {}
        own: dict[str, Any] = {}
        if self.preset is not None:
            own = PRESETS[self.preset]
        elif self.architecture not in (None, "gpt2"):
            own = {"model_type": self.architecture}
        return {**own, **(self.model_extra or {})}


def _known_keys() -> set[str]:
    """The keys of every architecture's configuration."""
    return {name for group in ARCHITECTURES.values() for name in NAMES[group]}


def _config_without_preset(options: dict[str, Any]) -> Iterator[KeyProblem]:
    for key, value in options.items():
        if key not in _known_keys():
            yield (key,), f"unknown key.{suggest(key, ['from', 'revision', 'dtype'])}"
        elif value is not None:
            yield (key,), "belongs to a `preset:`; a model `from:` has its own configuration. Remove it"


def _name_problems(raw: dict[str, Any]) -> Iterator[KeyProblem]:
    preset, named = raw.get("preset"), raw.get("architecture")
    if isinstance(preset, str) and preset not in PRESETS:
        yield ("preset",), f"no such preset: {show(preset)}.{suggest(preset, PRESETS)}"
    if isinstance(named, str) and named not in ARCHITECTURES:
        yield ("architecture",), f"no such architecture: {show(named)}.{suggest(named, ARCHITECTURES)}"
    elif (
        isinstance(named, str) and isinstance(preset, str) and architecture_of({"preset": preset}) not in (None, named)
    ):
        yield ("architecture",), f"{preset} is a {architecture_of({'preset': preset})}. Remove it"


def _config_problems(raw: dict[str, Any], options: dict[str, Any]) -> Iterator[KeyProblem]:
    found = architecture_of(raw)
    architecture = found or "gpt2"
    sizes = SIZES[architecture]
    group = ARCHITECTURES[architecture]
    if found is None and (raw.get("preset") is not None or raw.get("architecture") is not None):
        # Its name is wrong: a key of another architecture than GPT-2 may be right.
        options = {key: value for key, value in options.items() if key in NAMES[group] or key not in _known_keys()}
    wrong = dict(names.problems(options, group, own_keys=("preset", "architecture", "from")))
    config = {**PRESETS.get(str(raw.get("preset")), {}), **options}
    for key, value in options.items():
        if key in wrong or value is None:
            continue
        if key in (*sizes, *OTHER_SIZES) and value <= 0:
            wrong[key] = f"must be above 0, got {value}"
        if key.endswith(("_pdrop", "_dropout")) and not 0 <= value < 1:
            wrong[key] = f"a dropout probability is at least 0 and below 1, got {value}"
    for key, text in wrong.items():
        yield (key,), text
    if raw.get("preset") is None and raw.get("from") is None and raw.get("architecture") == architecture:
        missing = [key for key in sizes if config.get(key) is None and key not in wrong]
        if missing:
            yield ("architecture",), f"a new {architecture} without a preset needs its sizes. Add {', '.join(missing)}"
    yield from _heads_problems(raw, config, architecture, wrong)


def _heads_problems(
    raw: dict[str, Any], config: dict[str, Any], architecture: str, wrong: dict[str, str]
) -> Iterator[KeyProblem]:
    """Heads divide the width, and key and value heads the heads."""
    heads_key, width_key = ("n_head", "n_embd") if architecture == "gpt2" else ("num_attention_heads", "hidden_size")
    pairs = [(width_key, heads_key)] if config.get("head_dim") is None else []
    pairs += [(heads_key, "num_key_value_heads")] if architecture != "gpt2" else []
    for large, small in pairs:
        whole, part = config.get(large), config.get(small)
        if whole and part and not wrong.keys() & {large, small} and whole % part:
            where = (small,) if small in raw else (large,)
            yield where, f"{large} {whole} is not divisible by {small} {part}"
