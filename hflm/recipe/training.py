"""The sections `pretrain` and `finetune` of a recipe."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, WithJsonSchema

from hflm.recipe import library_options as names
from hflm.recipe import trackers
from hflm.recipe.cleaning import Clean, cleaning_conflicts
from hflm.recipe.evaluation import EarlyStopping, EvaluateRecipe, has_named_sets
from hflm.recipe.library_options import show
from hflm.recipe.presets import TIED_MODULES
from hflm.recipe.section import (
    AverageCheckpoints,
    BatchTokens,
    BlockSize,
    KeyProblem,
    OnSpike,
    Positive,
    Rows,
    Section,
    Words,
    ZLoss,
    count,
    option_problems,
    options_of,
)
from hflm.recipe.tasks import Data, Mixture

BY_DATA = ("eva", "corda", "loftq", "lora_ga")  # adapters whose first weights peft computes from data


def _validation_form(value: Any) -> str:
    if has_named_sets(value):
        return "sets"
    return "data" if isinstance(value, dict | Data) else "fraction"


def _tokens(value: Any) -> Any:
    multiple = isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?x", value) and float(value[:-1]) > 0
    if multiple or (isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value < float("inf")):
        return value
    raise ValueError(
        f"expected a number of tokens such as 2.5e9, or a multiple of the parameters such as 20x, got {show(value)}"
    )


Tokens = Annotated[
    Any,
    AfterValidator(_tokens),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 1}, {"type": "string", "pattern": r"^\d+(\.\d+)?x$"}]}),
]


class PretrainRecipe(Section):
    data: Mixture
    """The corpus; a list of data sets is read one after the other, or mixed by their `weight`."""
    text: str = "text"
    """The column that holds the text."""
    rows: Rows = "documents"
    """Rows are documents that do not see each other, or the lines of one running text."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A row that cannot be used ends the run, or is left out and listed."""
    validation: (
        Annotated[
            Annotated[float, Field(gt=0, le=0.5), Tag("fraction")]
            | Annotated[Data, Tag("data")]
            | Annotated[dict[str, Data], Tag("sets")],
            Discriminator(_validation_form),
        ]
        | None
    ) = None
    """The fraction of documents to hold out, by the hash of each, a data set of its own, or several by their names."""
    clean: Clean | None = None
    """Which documents to leave out."""
    block_size: BlockSize = None
    shuffle_buffer: Positive | None = None
    """Documents of a stream that are shuffled together; in order by default."""
    batch_tokens: BatchTokens = None
    on_spike: OnSpike = "ignore"
    z_loss: ZLoss = 0.0
    average_checkpoints: AverageCheckpoints = None
    tokens: Tokens | None = Field(None, exclude_if=lambda value: value is None)  # absent from keys of earlier runs
    """Train on so many tokens (2.5e9), or that multiple of the parameters (20x), in place of `args.max_steps`."""
    evaluate: EvaluateRecipe | None = Field(None, exclude_if=lambda value: value is None)
    """Tasks to measure at each evaluation."""
    early_stopping: EarlyStopping | None = Field(None, exclude_if=lambda value: value is None)
    """When to stop before the last step; by `args.metric_for_best_model`."""
    args: Annotated[dict[str, Any], options_of("TrainingArguments")] = Field(default_factory=dict)
    """How to train; a small preset (`nano`, `micro`, `mini`) sets `optim: muon` and its learning rate."""

    def token_budget(self, parameters: int) -> float | None:
        """The tokens to train on, for a model of so many parameters; None where `tokens` is not set.

        >>> PretrainRecipe(data="toy", tokens="20x").token_budget(1_000_000)                        # doctest: +SKIP
        20000000.0
        """
        if isinstance(self.tokens, str):
            return float(self.tokens[:-1]) * parameters
        return self.tokens

    @property
    def validation_sets(self) -> dict[str, Data]:
        """The data sets to evaluate on, by the key path that names them: `pretrain.validation` or below it."""
        if isinstance(self.validation, Data):
            return {"pretrain.validation": self.validation}
        named = self.validation if isinstance(self.validation, dict) else {}
        return {f"pretrain.validation.{name}": data for name, data in named.items()}

    @classmethod
    def rules(cls, raw: dict[str, Any]) -> Iterator[KeyProblem]:
        data = raw.get("data")
        sources = [each for each in (data if isinstance(data, list) else [data]) if isinstance(each, dict)]
        if raw.get("shuffle_buffer") is not None and not all(each.get("streaming") for each in sources):
            yield (
                ("shuffle_buffer",),
                "is for a stream; rows in memory are shuffled anyway. Remove it or add `streaming`",
            )
        if isinstance(data, list) and len(data) > 1 and all(isinstance(each, dict) for each in data):
            without = [i for i, each in enumerate(data) if each.get("weight") is None]
            if 0 < len(without) < len(data):
                yield ("data", without[0]), "has no weight, but others have. Give all of them a weight, or none"
        yield from cleaning_conflicts(raw)
        yield from _token_problems(raw)
        yield from option_problems(raw, "args", "TrainingArguments")
        yield from _argument_problems(raw)


def _adapter_problems(adapter: dict[str, Any]) -> Iterator[KeyProblem]:
    """Yields what hflm cannot train or merge, by the path below the adapter."""
    if "type" not in adapter:
        yield (), "which kind of adapter? Add `type: lora`"
    elif adapter["type"] != "lora":
        hint = f" Use type: lora with use_{adapter['type']}: true" if adapter["type"] in ("dora", "rslora") else ""
        yield ("type",), f"expected lora, got {show(adapter['type'])}{hint and '.'}{hint}"
    options = {key: value for key, value in adapter.items() if key != "type"}
    for key, text in names.problems(options, "LoraConfig", own_keys=["type"]):
        yield (key,), text
    for key in ("target_modules", "modules_to_save"):
        modules = adapter.get(key)
        for module in [modules] if isinstance(modules, str) else modules if isinstance(modules, list) else ():
            if isinstance(module, str) and module.split(".")[-1] in TIED_MODULES:
                yield (key,), f"{module} belongs to the tied embeddings, where an adapter cannot be merged. Remove it"
    if isinstance(adapter.get("target_modules"), str):  # peft reads one word as a regular expression
        try:
            re.compile(adapter["target_modules"])
        except re.error as error:
            yield ("target_modules",), f"{show(adapter['target_modules'])} is no regular expression: {error}"
    start = adapter.get("init_lora_weights")
    if start in BY_DATA:
        yield ("init_lora_weights",), f"{start} needs a pass of its own over data, which hflm does not make. Remove it"


class FinetuneRecipe(Section):
    tasks: Annotated[Words, count(1)]
    """Names under `tasks:`; their training rows are mixed, and the loss is computed on the targets only."""
    adapter: Annotated[dict[str, Any], options_of("LoraConfig")] | None = None
    """Train an adapter, merged at the end; by default all weights are trained."""
    quantization: Annotated[dict[str, Any], options_of("BitsAndBytesConfig")] | None = None
    """Keep the frozen base in 4 or 8 bits under the adapter (QLoRA); needs the extra `quant`."""
    block_size: BlockSize = None
    batch_tokens: BatchTokens = None
    on_spike: OnSpike = "ignore"
    z_loss: ZLoss = 0.0
    average_checkpoints: AverageCheckpoints = None
    evaluate: EvaluateRecipe | None = Field(None, exclude_if=lambda value: value is None)
    """Tasks to measure at each evaluation."""
    early_stopping: EarlyStopping | None = Field(None, exclude_if=lambda value: value is None)
    """When to stop before the last step; by `args.metric_for_best_model`."""
    args: Annotated[dict[str, Any], options_of("TrainingArguments")] = Field(default_factory=dict)
    """How to train."""

    @classmethod
    def rules(cls, raw: dict[str, Any]) -> Iterator[KeyProblem]:
        adapter = raw.get("adapter")
        if isinstance(adapter, dict):
            for path, text in _adapter_problems(adapter):
                yield ("adapter", *path), text
        quantization = raw.get("quantization")
        if isinstance(quantization, dict):
            yield from option_problems(raw, "quantization", "BitsAndBytesConfig")
            if [quantization.get(key) for key in ("load_in_4bit", "load_in_8bit")].count(True) != 1:
                yield ("quantization",), "to how many bits? Set either load_in_4bit: true or load_in_8bit: true"
            if isinstance(adapter, dict) and adapter.get("use_dora"):
                yield (
                    ("adapter", "use_dora"),
                    "peft's DoRA is not the same merged as trained on a quantized model. Remove it",
                )
            if adapter is None:
                yield ("quantization",), "a quantized model is trained by an adapter only. Add `adapter: {type: lora}`"
        if adapter is not None and raw.get("average_checkpoints") is not None:
            text = "the mean of two adapters' factors is not the mean of their products. Remove it"
            yield ("average_checkpoints",), text
        yield from option_problems(raw, "args", "TrainingArguments")
        yield from _argument_problems(raw)


def _token_problems(raw: dict[str, Any]) -> Iterator[KeyProblem]:
    """Yields what contradicts `tokens`."""
    args: Any = raw.get("args") if isinstance(raw.get("args"), dict) else {}
    for key in ("max_steps", "num_train_epochs"):
        if raw.get("tokens") is not None and args.get(key) not in (None, -1):
            yield ("args", key), "`tokens` already says how long to train. Keep one of the two"


def _argument_problems(raw: dict[str, Any]) -> Iterator[KeyProblem]:
    """Yields `args` that contradict a training section's own keys, or leave nothing to train."""
    args = raw.get("args")
    if not isinstance(args, dict):
        return
    if text := trackers.unknown_tracker(args.get("report_to")):
        yield ("args", "report_to"), text
    smoothing = args.get("label_smoothing_factor", 0)
    if isinstance(smoothing, int | float) and not 0 <= smoothing < 1:
        yield ("args", "label_smoothing_factor"), f"must be at least 0 and below 1, got {smoothing}"
    if raw.get("on_spike") == "rollback" and args.get("fp16"):
        yield ("on_spike",), "a rollback leaves steps out, which fp16's scaler does not allow. Use bf16, or stop"
    if raw.get("average_checkpoints") is not None:
        if args.get("load_best_model_at_end"):
            yield ("average_checkpoints",), "load_best_model_at_end keeps one checkpoint. Keep one of the two"
        if raw.get("early_stopping") is not None:
            yield (
                ("average_checkpoints",),
                "early_stopping ends a stage before its last checkpoints. Keep one of the two",
            )
        if args.get("save_strategy", "steps") not in ("steps", "epoch"):
            yield ("args", "save_strategy"), "average_checkpoints needs regular checkpoints. Set steps or epoch"
    for key in ("per_device_train_batch_size", "per_device_eval_batch_size"):
        if isinstance(args.get(key), int) and args[key] < 1:
            yield ("args", key), f"a batch has at least one row, not {args[key]}"
    if args.get("num_train_epochs") == 0 or args.get("max_steps") == 0:
        key = "max_steps" if args.get("max_steps") == 0 else "num_train_epochs"
        yield ("args", key), "0 leaves no step to train. Set a number above 0, or remove the section"
    if raw.get("batch_tokens") is None:
        return
    if args.get("gradient_accumulation_steps") is not None:
        yield ("args", "gradient_accumulation_steps"), "it follows from batch_tokens. Keep one of the two"
    if args.get("train_sampling_strategy") == "group_by_length":
        yield ("args", "train_sampling_strategy"), "with batch_tokens a step holds any rows. Keep one of the two"
