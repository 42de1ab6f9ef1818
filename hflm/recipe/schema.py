"""A recipe: YAML -> a frozen Recipe, or every problem in it at once, each with its file and line.

The sections stand in the order of a model's life. Options of transformers, peft and datasets keep their names and are
passed through (`args`, `adapter`, `data`, the keys beside `model.preset`); hflm.recipe.library_options checks them.
Nothing here imports those libraries.
"""

import re
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError, WithJsonSchema, field_validator

from hflm.core import Problem, RecipeError
from hflm.recipe import library_options as names
from hflm.recipe import lm_eval_import as task_file
from hflm.recipe import yaml_tree as recipe_yaml
from hflm.recipe.batch_size import describe_partial_rows
from hflm.recipe.library_options import NAMES, show, suggest
from hflm.recipe.presets import PRESETS, preset_training_args
from hflm.recipe.section import (
    TASK_KINDS,
    License,
    Positive,
    Section,
    Words,
    count,
    matching,
    passing,
)
from hflm.recipe.tasks import AnyTask, Mixture
from hflm.recipe.training import FinetuneRecipe, PretrainRecipe


def _either(raw, one, other):
    given = [key for key in (one, other) if raw.get(key) is not None]
    if not given:
        yield (), f"needs either {one} or {other}"
    if len(given) == 2:
        yield (given[1],), f"{one} and {other} exclude each other. Keep one"
    if raw.get("revision") is not None and "from" not in given:
        yield ("revision",), "belongs to a `from:`. Remove it"


class TokenizerTraining(Section):
    algorithm: Literal["bpe", "unigram", "wordpiece"] = "bpe"
    """How pieces of words are found. `unigram` comes out slightly different each time, the others do not."""
    vocab_size: Positive
    """Entries, the special tokens included."""
    min_frequency: Positive = 2
    """A pair of pieces that is seen less often is not joined."""
    data: Mixture | None = None
    """Text to train on, in place of that of `pretrain` and of the fine-tuned tasks."""

    @classmethod
    def rules(cls, raw):
        size = raw.get("vocab_size")
        if isinstance(size, int) and 0 < size < 257 and raw.get("algorithm", "bpe") == "bpe":
            yield ("vocab_size",), f"must be at least 257 for bpe (256 bytes and <|endoftext|>), got {size}"


class TokenizerRecipe(Section):
    train: TokenizerTraining | None = None
    """Train a new one."""
    from_: str | None = Field(None, alias="from")
    """Take one: a Hub id, a folder or a run."""
    revision: str | None = None
    """The Hub's commit, branch or tag of `from`."""

    @classmethod
    def rules(cls, raw):
        yield from _either(raw, "train", "from")


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
    """The type of the weights in memory; float32 where it is left out."""

    @classmethod
    def rules(cls, raw):
        yield from _either(raw, "preset", "from")
        preset = raw.get("preset")
        options = {key: value for key, value in raw.items() if key not in ("preset", "from", "revision", "dtype")}
        if preset is None and raw.get("from") is not None:
            for key, value in options.items():
                if key not in NAMES["GPT2Config"]:
                    yield (key,), f"unknown key.{suggest(key, ['from', 'revision', 'dtype'])}"
                elif value is not None:
                    yield (key,), "belongs to a `preset:`; what a model `from:` is, its own config says. Remove it"
            return
        wrong = dict(names.problems(options, "GPT2Config", beside=("preset", "from")))
        if isinstance(preset, str) and preset not in PRESETS:
            yield ("preset",), f"no such preset: {show(preset)}.{suggest(preset, PRESETS)}"
        for key, value in options.items():
            if key in wrong or value is None:
                continue
            if key in ("n_layer", "n_head", "n_embd", "n_positions", "n_inner") and value <= 0:
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

    @property
    def config(self):
        """GPT2Config's keyword arguments: the preset's, with the recipe's over them; {} for a model `from`."""
        return {**PRESETS[self.preset], **self.model_extra} if self.preset else {}


class BenchmarkRecipe(Section):
    tasks: Annotated[Words, count(1)]
    """Names under `tasks:`."""
    batch_tokens: Positive | None = None
    """Tokens of a batch; found by trying where it is left out."""
    resamples: Positive = 1000
    """Bootstrap resamples behind each 95 % interval."""
    contamination: bool = True
    """Look for the benchmark's examples in the training text."""


class PushRecipe(Section):
    repo_id: Annotated[
        str,
        matching(
            r"(?!.*(--|\.\.|\.git$))[A-Za-z0-9][\w.-]*/[A-Za-z0-9_]([\w.-]{0,94}\w)?", "namespace/name, as on the Hub"
        ),
    ]
    """namespace/name on the Hub."""
    private: bool = True
    """Whether only its owner sees it."""
    license: License | None = None
    """The model's, as the Hub names licences; told in the card."""


class Recipe(Section):
    name: Annotated[str, matching(r"\w[\w.-]*", "letters, digits, `.`, `_` and `-`, as in a folder's name")]
    """The run's folder is runs/<name>."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Of everything that is drawn at random."""
    processes: Positive | None = None
    """How many the run needs; it refuses to start with fewer."""
    tokenizer: TokenizerRecipe | None = None
    """A model `from` somewhere brings its own."""
    model: ModelRecipe
    """What is trained or measured."""
    pretrain: PretrainRecipe | None = None
    """Next-token prediction on a corpus."""
    tasks: dict[str, Annotated[AnyTask, Field(discriminator="kind")]] = Field(default_factory=dict)
    """Said once, used by `finetune` and `benchmark`; a task named like a kind is of that kind."""
    finetune: FinetuneRecipe | None = None
    """Learn the tasks."""
    benchmark: BenchmarkRecipe | None = None
    """Measure the tasks."""
    push: PushRecipe | None = None
    """Send the finished run to the Hub."""

    @classmethod
    def suggested(cls):
        return ["name", "extends", *[name for name in cls.model_fields if name != "name"]]

    @field_validator("tasks", mode="before")
    @classmethod
    def _kind_by_name(cls, tasks):
        if not isinstance(tasks, dict):
            return tasks
        return {
            name: {"kind": name, **task} if isinstance(task, dict) and name in TASK_KINDS else task
            for name, task in tasks.items()
        }

    @classmethod
    def rules(cls, raw):
        def at(*path):
            value = raw
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            return value

        if not any(at(stage) is not None for stage in ("pretrain", "finetune", "benchmark")):
            yield (), "nothing to do: there is no pretrain, finetune or benchmark section. Add one"
        if at("model", "preset") is not None and at("tokenizer") is None:
            yield ("model", "preset"), "a new model needs a tokenizer. Add a `tokenizer:` section (train: or from:)"
        if at("finetune", "quantization") is not None and at("model", "preset") is not None and at("pretrain") is None:
            yield (
                ("finetune", "quantization"),
                "a new model has learnt nothing worth quantizing. Add pretrain, or `from:`",
            )
        if at("finetune", "adapter", "init_lora_weights") == "olora" and at("model", "preset") is not None:
            where = ("finetune", "adapter", "init_lora_weights")
            yield where, "peft's OLoRA cannot read GPT-2's transposed matrices. Use pissa, or remove it"
        no_texts = at("tokenizer", "train", "data") is None and at("pretrain") is None and at("finetune") is None
        if isinstance(at("tokenizer", "train"), dict) and no_texts:
            yield ("tokenizer", "train"), "no text to train on: there is no pretrain or finetune. Add `data:`"
        positions = at("model", "n_positions") or 1024
        positions = positions if isinstance(positions, int) else 1024  # said by its own rule
        for stage in ("pretrain", "finetune"):
            size = at(stage, "block_size")
            if at("model", "preset") and isinstance(size, int) and size > positions > 0:
                yield (stage, "block_size"), f"{size} is more than the model's n_positions {positions}"
                continue
            row, tokens = size or (at("model", "preset") and min(positions, 1024)), at(stage, "batch_tokens")
            if isinstance(row, int) and isinstance(tokens, int) and row > 0 and tokens > 0 and tokens % row:
                yield (stage, "batch_tokens"), describe_partial_rows(tokens, row)
        tasks = at("tasks") if isinstance(at("tasks"), dict) else {}
        for name in tasks:
            if not re.fullmatch(r"\w[\w-]*", str(name)):
                yield ("tasks", name), "a task's name is letters, digits, `_` and `-`"
        for stage, split in (("finetune", "train"), ("benchmark", "test")):
            chosen = at(stage, "tasks")
            for i, name in enumerate(chosen if isinstance(chosen, list) else ()):
                if not isinstance(name, str):
                    continue  # said by the type of the list
                where, splits = (stage, "tasks", i), at("tasks", name, "splits")
                if name in chosen[:i]:
                    yield where, f"{name} stands twice. Remove one"
                elif name not in tasks:
                    yield where, f"there is no task {name} under `tasks:`.{suggest(name, map(str, tasks))}"
                elif isinstance(splits, dict) and split in splits and splits[split] is None:
                    yield where, f"tasks.{name}.splits.{split} is null. Name a split there"
                elif stage == "finetune" and (at("tasks", name, "kind") or name) == "language_modeling":
                    yield where, f"{name} is language_modeling, which has no target. Use `pretrain:`"


def load_recipe(recipe, sets=()):
    """Reads a recipe: a path, or a shipped name such as `quickstart`.

    sets: `key.path=value` texts that change it. Raises RecipeError with all problems, by file and line.
    """
    return _checked(*recipe_yaml.read_tree(recipe, sets))


def load_task_files(files, model, sets=()):
    """A Recipe that benchmarks `model` on lm-eval's task files (`lm_eval_import`), changed by `sets` as in `load_recipe`."""
    tree, problems = task_file.tree(files, model)
    recipe_yaml.apply_sets(tree, sets, problems)
    return _checked(tree, problems)


def _checked(tree, problems):
    places = {(problem.file, problem.line) for problem in problems}
    try:
        loaded = Recipe.model_validate(tree.plain())
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            path, node = _locate(tree, detail["loc"], detail["type"] == "missing")
            if (node.file, node.line) not in places:  # else a consequence of what the reading found
                problems.append(Problem(node.file, node.line, path, detail["msg"]))
    if problems:
        raise RecipeError(sorted(dict.fromkeys(problems), key=lambda problem: (problem.file, problem.line or 0)))
    if loaded.pretrain is None:
        return loaded
    args = preset_training_args(loaded.model.preset, loaded.pretrain.args)
    return loaded.model_copy(update={"pretrain": loaded.pretrain.model_copy(update={"args": args})})


def dump_recipe(recipe):
    """The resolved recipe as YAML, defaults included: it loads back to an equal Recipe."""
    return recipe_yaml.dump(_plain(recipe))


def recipe_json_schema():
    """The recipe's JSON Schema, for editors."""
    schema = Recipe.model_json_schema(by_alias=True)
    properties = schema["properties"]
    schema["properties"] = {"extends": {"type": "string", "description": "a recipe to start from"}, **properties}
    kinds = properties["tasks"]["additionalProperties"]
    properties["tasks"]["additionalProperties"] = {**kinds, "required": ["kind"]}
    # A task named like a kind is of that kind, unless it says another.
    properties["tasks"]["properties"] = {
        kind: {"if": {"required": ["kind"]}, "then": kinds, "else": {"$ref": reference}}
        for kind, reference in kinds["discriminator"]["mapping"].items()
    }
    return schema


def _plain(value):
    match value:
        case Section():
            given = {
                field.alias or name: getattr(value, name)
                for name, field in type(value).model_fields.items()
                if getattr(value, name) is not None or field.default is not None
            }
            return _plain({**given, **(value.model_extra or {})})
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case tuple() | list():
            return [_plain(each) for each in value]
    return value


def _locate(tree, path, missing):
    """The written key path and Node of pydantic's path, which also names a union's tag and the list around one item."""
    written, node = [], tree
    for i, key in enumerate(path):
        child = node.child(key)
        if child is not None:
            written.append(str(key))
            node = child
        elif missing and i == len(path) - 1:
            written.append(str(key))
    return ".".join(written), node


def data_sources(recipe):
    """Yield (where the recipe says it, Data) of all data that a recipe names."""
    if recipe.tokenizer is not None and recipe.tokenizer.train is not None:
        for number, source in enumerate(recipe.tokenizer.train.data or ()):
            yield f"tokenizer.train.data.{number}", source
    if recipe.pretrain is not None:
        for number, source in enumerate(recipe.pretrain.data):
            yield f"pretrain.data.{number}", source
        if recipe.pretrain.validation is not None and not isinstance(recipe.pretrain.validation, float):
            yield "pretrain.validation", recipe.pretrain.validation
    for name, task in recipe.tasks.items():
        yield f"tasks.{name}.data", task.data
