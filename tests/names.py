"""Names and types of the library options that a recipe passes through, as JSON.

Run with `python tests/names.py > hflm/recipe/names.json` after an update of transformers, peft or datasets: hflm checks
recipes against this list, since importing those libraries takes half a minute. tests/recipe/test_recipe.py fails on
drift.

A type is a union such as `int|null` of int, float, bool, str, list, dict and null; anything else in it is a literal
(`no|steps|epoch`). Options whose value cannot be written in YAML (a function, an object) are left out.
"""

import dataclasses
import enum
import inspect
import json
import re
import types
import typing
from importlib.metadata import version

import torch
from datasets import BuilderConfig, load_dataset
from datasets.packaged_modules.csv.csv import CsvConfig
from datasets.packaged_modules.json.json import JsonConfig
from datasets.packaged_modules.parquet.parquet import ParquetConfig
from datasets.packaged_modules.text.text import TextConfig
from peft import LoraConfig
from transformers import BitsAndBytesConfig, GenerationConfig, GPT2Config, LlamaConfig, Qwen3Config, TrainingArguments
from transformers.activations import ACT2FN

PLAIN = {int: "int", float: "float", bool: "bool", str: "str", list: "list", tuple: "list", dict: "dict"}
PLAIN[type(None)] = "null"
OVERRIDES = {  # where an annotation says less than the library accepts, or more than YAML can say
    "activation_function": "|".join(ACT2FN),
    "bnb_4bit_compute_dtype": "float32|bfloat16|float16|null",
    "bnb_4bit_quant_storage": "uint8|float32|bfloat16|float16|null",
    "bnb_4bit_quant_type": "fp4|nf4",
    "dtype": "str|null",
    "hidden_act": "|".join(ACT2FN),
    "fsdp": "bool|str|null",
    "llm_int8_skip_modules": "list|null",
    "sequence_bias": "list",
}


def words(kind):
    """The parts of an annotation that YAML can say.

    >>> words(int | None), words(typing.Literal["a", "b"])
    (['int', 'null'], ['a', 'b'])
    """
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        parts = [word for part in typing.get_args(kind) for word in words(part)]
        # An enum beside str names the enum's values; text beside them would allow anything.
        enums = any(isinstance(part, type) and issubclass(part, enum.Enum) for part in typing.get_args(kind))
        return [part for part in dict.fromkeys(parts) if not (enums and part == "str")]
    if origin is typing.Literal:
        values = typing.get_args(kind)
        if any(not isinstance(value, str) for value in values):
            return list(dict.fromkeys(PLAIN[type(value)] for value in values))
        # peft documents a pattern ('pissa_niter_[number of iters]') among its literals.
        return ["str"] if any("[" in value for value in values) else list(values)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return [member.value for member in kind]
    plain = PLAIN.get(kind) or PLAIN.get(origin)
    if origin is not None and getattr(origin, "__name__", "") in ("Sequence", "Mapping"):
        plain = {"Sequence": "list", "Mapping": "dict"}[origin.__name__]
    return [plain] if plain else []


def simple(annotations):
    """{name: type} of the annotations that YAML can say at least one value of, beside null."""
    unions = {name: OVERRIDES.get(name, "|".join(words(kind))) for name, kind in annotations.items()}
    return {name: union for name, union in unions.items() if union not in ("", "null")}


def fields(cls, without=()):
    """The types of a dataclass's fields."""
    hints = typing.get_type_hints(cls, localns={"torch": torch})
    return simple({f.name: hints[f.name] for f in dataclasses.fields(cls) if f.name not in without})


def generation():
    """GenerationConfig has no annotations, but a docstring. What is not documented there is deprecated."""
    found = {}
    for name, text in re.findall(r"^ {8}(\w+) *:? *\((.*?)\)+:?$", GenerationConfig.__doc__, re.MULTILINE):
        text = text.split(", *optional*")[0].removeprefix("`Union[").replace("tuple", "list")
        while text != (text := re.sub(r"[\[(][^\[\]()]*[\])]", "", text)):  # what a list or dict holds
            pass
        kinds = [kind for kind in ("int", "float", "bool", "str", "list", "dict") if re.search(rf"\b{kind}\b", text)]
        found[name] = OVERRIDES.get(name, "|".join(kinds))
    return {name: union for name, union in found.items() if union}


def quantization():
    """BitsAndBytesConfig has no annotations, but defaults; what may be None there is a dtype by name, or modules."""
    found = {}
    for parameter in inspect.signature(BitsAndBytesConfig).parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD:
            kind = PLAIN[type(parameter.default)]
            found[parameter.name] = OVERRIDES.get(parameter.name, kind)
    return found


def arguments_of_training():
    """TrainingArguments', and an optimizer of hflm's own: hflm/training/muon.py."""
    found = fields(TrainingArguments)
    return {**found, "optim": f"{found['optim']}|muon"}


def main():
    arguments = inspect.signature(load_dataset).parameters.values()
    shared = [f.name for f in dataclasses.fields(BuilderConfig)]  # name, data_files ...: load_dataset's own arguments
    names = {
        "versions": {library: version(library) for library in ("transformers", "peft", "datasets")},
        "TrainingArguments": arguments_of_training(),
        "GPT2Config": fields(GPT2Config),
        "LlamaConfig": fields(LlamaConfig),
        "Qwen3Config": fields(Qwen3Config),
        "LoraConfig": fields(LoraConfig),
        "BitsAndBytesConfig": quantization(),
        "GenerationConfig": generation(),
        "load_dataset": simple({a.name: a.annotation for a in arguments if a.kind is not a.VAR_KEYWORD}),
        "text": fields(TextConfig, without=shared),
        "json": fields(JsonConfig, without=shared),
        "csv": fields(CsvConfig, without=[*shared, "converters"]),  # converters are functions
        "parquet": fields(ParquetConfig, without=shared),
    }
    print(json.dumps(names, indent=1))


if __name__ == "__main__":
    main()
