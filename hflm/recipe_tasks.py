"""The data and the tasks of a recipe, one class a kind of task."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict

from hflm import names, toy
from hflm.names import NAMES, show
from hflm.recipe_section import License, Positive, Prompt, Rows, Section, count, matching, passing, unique

GENERATED = ("bleu", "chrf", "ter", "rouge1", "rouge2", "rougeL", "rougeLsum", "exact_match", "f1", "bertscore")
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
Stop = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Strict(False)]


class Data(Section):
    """A data set: `path` and load_dataset's own keys; `license` is told in the card."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra=passing(
            "load_dataset", *BUILDERS, more={"size": {"type": "integer"}, "seed": {"type": "integer"}}
        ),
    )
    path: str
    weight: Annotated[float, Field(gt=0)] | None = None
    license: Annotated[License | None, Field(exclude=True)] = None  # it changes no stage, so its key leaves it out
    text: str | None = None

    @classmethod
    def rules(cls, raw):
        path, options = raw.get("path"), {key: raw[key] for key in raw.keys() - set(cls.model_fields)}
        known = {**NAMES["load_dataset"], "split": "str"}
        del known["path"]
        if path == "toy":
            known = {"name": "|".join(toy.NAMES), "split": "str", "size": "int", "seed": "int", "streaming": "bool"}
            if isinstance(raw.get("size"), int) and raw["size"] < 1:
                yield ("size",), f"must be above 0, got {raw['size']}"
            if "name" not in raw:
                yield (), f"the toy world has several data sets. Set `name` to one of {', '.join(toy.NAMES)}"
        else:
            for builder in [path] if path in BUILDERS else BUILDERS:
                known |= NAMES[builder]
            for key in [key for key in ("size", "seed") if key in options]:
                yield (key,), "only `path: toy` is made to a size and from a seed. Use a split such as train[:2000]"
                del options[key]
        for key, text in names.problems(options, "load_dataset", known, beside=tuple(cls.model_fields)):
            yield (key,), text

        if isinstance(raw.get("split"), str) and not re.fullmatch(_SPLITS, raw["split"]):
            yield ("split",), f"expected {SPLIT}, got {show(raw['split'])}"

    @property
    def options(self):
        """load_dataset's keyword arguments, without the path."""
        return dict(self.model_extra)


def _one_or_more(value):
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
    validation: Split | None = None
    test: Split | None = "test"


class Task(Section):
    """What all kinds of task say."""

    kind: str
    data: Data
    splits: Splits = Splits()
    limit: Positive | None = None
    on_bad_row: Literal["error", "skip"] = "error"

    @classmethod
    def rules(cls, raw):
        data, splits = raw.get("data"), raw.get("splits")
        if isinstance(data, dict):
            if "split" in data:
                yield ("data", "split"), "a task names its splits beside the data: `splits: {train: ..., test: ...}`"
            if "weight" in data:
                yield ("data", "weight"), "only pretrain.data and tokenizer.train.data are mixtures. Remove it"
            if "text" in data:
                yield ("data", "text"), "a task names its columns beside the data. Remove it"
        no_train = isinstance(splits, dict) and "train" in splits and splits["train"] is None
        if no_train and isinstance(raw.get("shots"), int) and raw["shots"] > 0:
            yield ("shots",), "the examples come from splits.train, which is null. Name a split there"


def _metrics(*allowed):
    return Annotated[tuple[Literal[allowed], ...], Strict(False), count(1), AfterValidator(unique)]


class PromptedTask(Task):
    prompt: Prompt | None = None
    shots: Annotated[int, Field(ge=0)] = 0
    too_long: Literal["truncate", "refuse"] = "truncate"


class GeneratingTask(PromptedTask):
    max_new_tokens: Positive | None = None
    stop: Stop | None = None
    metrics: _metrics(*GENERATED) | None = None
    bertscore_model: str | None = None

    @classmethod
    def rules(cls, raw):
        yield from super().rules(raw)
        metrics, model = raw.get("metrics"), raw.get("bertscore_model")
        asked = isinstance(metrics, list | tuple) and "bertscore" in metrics
        if asked and model is None:
            yield ("metrics",), "bertscore compares the vectors of an encoder. Set `bertscore_model:` to its folder"
        if model is not None and not asked:
            yield ("bertscore_model",), "only the metric bertscore reads it. Add bertscore to `metrics:`, or remove it"


class LabellingTask(PromptedTask):
    label: str = "label"
    labels: Labels
    metrics: _metrics("accuracy", "macro_f1", "mcc") | None = None


class Translation(GeneratingTask):
    kind: Literal["translation"] = "translation"
    source: str
    target: str
    languages: Annotated[tuple[str, ...], Strict(False), count(2, 2)] | None = None


class Summarization(GeneratingTask):
    kind: Literal["summarization"] = "summarization"
    document: str = "document"
    summary: str = "summary"


class Sentiment(LabellingTask):
    kind: Literal["sentiment"] = "sentiment"
    text: str = "text"


class Qa(GeneratingTask):
    kind: Literal["qa"] = "qa"
    context: str = "context"
    question: str = "question"
    answers: str = "answers"


class Generation(GeneratingTask):
    kind: Literal["generation"] = "generation"
    prompt: Prompt
    target: str


class Choice(LabellingTask):
    kind: Literal["choice"] = "choice"
    prompt: Prompt


class LanguageModeling(Task):
    kind: Literal["language_modeling"] = "language_modeling"
    text: str = "text"
    rows: Rows = "documents"
    metrics: _metrics("perplexity", "bits_per_byte") | None = None


AnyTask = Translation | Summarization | Sentiment | Qa | Generation | Choice | LanguageModeling
