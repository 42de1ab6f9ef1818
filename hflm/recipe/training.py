"""The sections `pretrain` and `finetune` of a recipe."""

import re
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from hflm.recipe import library_options as names
from hflm.recipe.cleaning import Clean, misplaced
from hflm.recipe.library_options import show
from hflm.recipe.presets import TIED_MODULES
from hflm.recipe.section import (
    BatchTokens,
    BlockSize,
    OnSpike,
    Positive,
    Rows,
    Section,
    Words,
    ZLoss,
    contradicted,
    count,
    misused,
    options_of,
)
from hflm.recipe.tasks import Data, Mixture

BY_DATA = ("eva", "corda", "loftq", "lora_ga")  # adapters whose first weights peft computes apart from its config


def _fraction_or_data(value):
    return "data" if isinstance(value, dict | Data) else "fraction"


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
            Annotated[float, Field(gt=0, le=0.5), Tag("fraction")] | Annotated[Data, Tag("data")],
            Discriminator(_fraction_or_data),
        ]
        | None
    ) = None
    """The share of documents to hold out, by the hash of each, or a data set of its own."""
    clean: Clean | None = None
    """Which documents to leave out."""
    block_size: BlockSize = None
    shuffle_buffer: Positive | None = None
    """Documents of a stream that are shuffled together; in order where it is left out."""
    batch_tokens: BatchTokens = None
    on_spike: OnSpike = "ignore"
    z_loss: ZLoss = 0.0
    args: options_of("TrainingArguments") = Field(default_factory=dict)
    """How to train; a small preset (`nano`, `micro`, `mini`) brings `optim: muon` and its learning rate."""

    @classmethod
    def rules(cls, raw):
        data = raw.get("data")
        sources = [each for each in (data if isinstance(data, list) else [data]) if isinstance(each, dict)]
        if raw.get("shuffle_buffer") is not None and not all(each.get("streaming") for each in sources):
            yield (
                ("shuffle_buffer",),
                "is for a stream; rows in memory are shuffled whole. Remove it or add `streaming`",
            )
        if isinstance(data, list) and len(data) > 1 and all(isinstance(each, dict) for each in data):
            without = [i for i, each in enumerate(data) if each.get("weight") is None]
            if 0 < len(without) < len(data):
                yield ("data", without[0]), "has no weight, but others have. Give all of them a weight, or none"
        yield from misplaced(raw)
        yield from misused(raw, "args", "TrainingArguments")
        yield from contradicted(raw)


def _adapter_rules(adapter):
    """Yields (path below the adapter, text) for what hflm cannot train or merge."""
    if "type" not in adapter:
        yield (), "which kind of adapter? Add `type: lora`"
    elif adapter["type"] != "lora":
        hint = f" Use type: lora with use_{adapter['type']}: true" if adapter["type"] in ("dora", "rslora") else ""
        yield ("type",), f"expected lora, got {show(adapter['type'])}{hint and '.'}{hint}"
    options = {key: value for key, value in adapter.items() if key != "type"}
    for key, text in names.problems(options, "LoraConfig", beside=["type"]):
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
    """Names under `tasks:`; their training rows are learnt together, the loss on the targets only."""
    adapter: options_of("LoraConfig") | None = None
    """Train an adapter, merged at the end; all weights where it is left out."""
    quantization: options_of("BitsAndBytesConfig") | None = None
    """Keep the frozen base in 4 or 8 bits under the adapter (QLoRA); needs the extra `quant`."""
    block_size: BlockSize = None
    batch_tokens: BatchTokens = None
    on_spike: OnSpike = "ignore"
    z_loss: ZLoss = 0.0
    args: options_of("TrainingArguments") = Field(default_factory=dict)
    """How to train."""

    @classmethod
    def rules(cls, raw):
        adapter = raw.get("adapter")
        if isinstance(adapter, dict):
            for path, text in _adapter_rules(adapter):
                yield ("adapter", *path), text
        quantization = raw.get("quantization")
        if isinstance(quantization, dict):
            yield from misused(raw, "quantization", "BitsAndBytesConfig")
            if [quantization.get(key) for key in ("load_in_4bit", "load_in_8bit")].count(True) != 1:
                yield ("quantization",), "to how many bits? Say either load_in_4bit: true or load_in_8bit: true"
            if isinstance(adapter, dict) and adapter.get("use_dora"):
                yield (
                    ("adapter", "use_dora"),
                    "peft's DoRA is not the same merged as trained on a quantized model. Remove it",
                )
            if adapter is None:
                yield ("quantization",), "a quantized model learns only through an adapter. Add `adapter: {type: lora}`"
        yield from misused(raw, "args", "TrainingArguments")
        yield from contradicted(raw)
