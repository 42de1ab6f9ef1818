"""The data of a recipe, and the keys that all tasks have; each kind of task is a module of hflm.tasks."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PlainValidator, Strict, WithJsonSchema

from hflm.core import TOY_DATASETS
from hflm.recipe import library_options as names
from hflm.recipe.decoding import ALLOWED, generation_problems
from hflm.recipe.library_options import NAMES, show
from hflm.recipe.section import KeyProblem, License, Positive, Prompt, Section, count, matching, passing, unique

GeneratedMetric = Literal[
    "bleu", "chrf", "ter", "rouge1", "rouge2", "rougeL", "rougeLsum", "exact_match", "f1", "bertscore"
]
GENERATED: tuple[str, ...] = get_args(GeneratedMetric)
GENERATION_SCHEMA = {"type": "object", "properties": names.schema(ALLOWED), "additionalProperties": False}
BUILDERS = ("text", "json", "csv", "parquet")
SPLIT = "a split such as train or train[:2000]"
_PART = r"\w+(\.\w+)*(\[(-?\d[\d_]*%?)?:(-?\d[\d_]*%?)?\])?(\(\w+\))?"
_SPLITS = rf"{_PART}( ?\+ ?{_PART})*"
Split = Annotated[str, matching(_SPLITS, SPLIT)]
Labels = Annotated[
    tuple[Annotated[str, matching(r"\S(.*\S)?", "a word without spaces around it")], ...],
    Strict(False),
    count(2),
    AfterValidator(unique),
]


def _columns(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(each, str) and each for each in value):
        return unique(tuple(value))
    raise ValueError(f"expected the name of a column, or a list of them, got {show(value)}")


Columns = Annotated[str | tuple[str, ...], PlainValidator(_columns, json_schema_input_type=str | list[str])]
Stop = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Strict(False)]


class Data(Section):
    """A data set: `path` and load_dataset's own keys; `license` is for the card."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra=passing(
            "load_dataset", *BUILDERS, more={"size": {"type": "integer"}, "seed": {"type": "integer"}}
        ),
    )
    path: str
    """A Hub id, a folder, a file, a builder such as json with `data_files`, or toy."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """The fraction of this source in a mixture, relative to the other weights."""
    license: Annotated[License | None, Field(exclude=True)] = None  # it changes no stage, so its key leaves it out
    """Its licence, for the card."""
    text: str | None = None
    """The column of this source, in place of the section's."""

    @classmethod
    def rules(cls, raw: dict[str, Any]) -> Iterator[KeyProblem]:
        path = raw.get("path")
        options = {key: value for key, value in raw.items() if key not in cls.model_fields}
        known = {**NAMES["load_dataset"], "split": "str"}
        del known["path"]
        if path == "toy":
            known = {"name": "|".join(TOY_DATASETS), "split": "str", "size": "int", "seed": "int", "streaming": "bool"}
            if isinstance(raw.get("size"), int) and raw["size"] < 1:
                yield ("size",), f"must be above 0, got {raw['size']}"
            if "name" not in raw:
                yield (), f"the toy world has several data sets. Set `name` to one of {', '.join(TOY_DATASETS)}"
        else:
            for builder in [path] if path in BUILDERS else BUILDERS:
                known |= NAMES[builder]
            for key in [key for key in ("size", "seed") if key in options]:
                yield (key,), "only `path: toy` is made to a size and from a seed. Use a split such as train[:2000]"
                del options[key]
        for key, text in names.problems(options, "load_dataset", known, own_keys=tuple(cls.model_fields)):
            yield (key,), text

        if isinstance(raw.get("split"), str) and not re.fullmatch(_SPLITS, raw["split"]):
            yield ("split",), f"expected {SPLIT}, got {show(raw['split'])}"

    @property
    def options(self) -> dict[str, Any]:
        """load_dataset's keyword arguments, without the path."""
        return dict(self.model_extra or {})


def _one_or_more(value: Any) -> Any:
    match value:
        case dict() | Data():
            return [value]
        case list() | tuple():
            return value
    raise ValueError(f"expected keys and values such as {{path: text}}, or a list of them, got {show(value)}")


Mixture = Annotated[
    tuple[Data, ...],
    Strict(False),
    count(1),
    BeforeValidator(_one_or_more, json_schema_input_type=Data | list[Data]),
]


class Splits(Section):
    train: Split | None = "train"
    """Trained on, and where shots come from."""
    validation: Split | None = None
    """Evaluated during training."""
    test: Split | None = "test"
    """Measured."""


class Task(Section):
    """The keys of all kinds of task."""

    kind: str
    """What kind of task it is."""
    data: Data
    """Its rows."""
    splits: Splits = Splits()
    """Which split is for what."""
    limit: Positive | None = None
    """Measure only the first rows."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A row that cannot be used ends the run, or is left out and counted."""

    @classmethod
    def rules(cls, raw: dict[str, Any]) -> Iterator[KeyProblem]:
        data, splits = raw.get("data"), raw.get("splits")
        if isinstance(data, dict):
            if "split" in data:
                yield ("data", "split"), "a task names its splits next to its data: `splits: {train: ..., test: ...}`"
            if "weight" in data:
                yield ("data", "weight"), "only pretrain.data and tokenizer.train.data are mixtures. Remove it"
            if "text" in data:
                yield ("data", "text"), "a task names its columns next to its data. Remove it"
        no_train = isinstance(splits, dict) and "train" in splits and splits["train"] is None
        if no_train and isinstance(raw.get("shots"), int) and raw["shots"] > 0:
            yield ("shots",), "the examples come from splits.train, which is null. Name a split there"


class PromptedTask(Task):
    prompt: Prompt | None = None
    """Jinja over the row; the target follows after one space. Each kind has a default."""
    shots: Annotated[int, Field(ge=0)] = 0
    """Solved examples before each prompt, the same for every row."""
    too_long: Literal["truncate", "refuse"] = "truncate"
    """A prompt that does not fit has its text cut, or ends the run."""
    cluster: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None  # not in keys of earlier runs
    """The column that is equal in rows of one passage, document or user: intervals and tests resample its values. `qa`
    takes the passage by itself."""

    @property
    def cluster_column(self) -> str | None:
        return self.cluster


class GeneratingTask(PromptedTask):
    max_new_tokens: Positive | None = None
    """The longest answer."""
    stop: Stop | None = None
    """The answer ends before the first of these."""
    metrics: Annotated[tuple[GeneratedMetric, ...], Strict(False), count(1), AfterValidator(unique)] | None = None
    """Scores; each kind has its own by default."""
    bertscore_model: str | None = None
    """The folder of the encoder that bertscore compares with."""
    generation: Annotated[dict[str, Any], WithJsonSchema(GENERATION_SCHEMA)] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,  # absent from keys of earlier runs
    )
    """How an answer is chosen in a benchmark, such as `num_beams: 5`; by default greedily."""

    @classmethod
    def rules(cls, raw: dict[str, Any]) -> Iterator[KeyProblem]:
        yield from super().rules(raw)
        metrics, model = raw.get("metrics"), raw.get("bertscore_model")
        asked = isinstance(metrics, list | tuple) and "bertscore" in metrics
        if asked and model is None:
            yield ("metrics",), "bertscore compares the vectors of an encoder. Set `bertscore_model:` to its folder"
        if model is not None and not asked:
            yield ("bertscore_model",), "only the metric bertscore reads it. Add bertscore to `metrics:`, or remove it"
        generation = raw.get("generation")
        if isinstance(generation, dict):
            for name, text in generation_problems(generation):
                yield ("generation", name), text
            least, most = generation.get("min_new_tokens"), raw.get("max_new_tokens")
            if isinstance(least, int) and isinstance(most, int) and least > most:
                yield ("generation", "min_new_tokens"), f"{least} is more than the task's max_new_tokens {most}"


class LabellingTask(PromptedTask):
    label: str = "label"
    """The column of the label: a number or a word."""
    labels: Labels
    """The words, in the order of the column's numbers."""
    label_end: bool = True
    """A label's likelihood includes the end of text after it, as in training; false is lm-eval's rule."""
    metrics: (
        Annotated[tuple[Literal["accuracy", "macro_f1", "mcc"], ...], Strict(False), count(1), AfterValidator(unique)]
        | None
    ) = None
    """Scores; all three by default."""
