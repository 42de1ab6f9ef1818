"""The Recipe: its sections in the order of a model's life, and the rules between sections.

Options of transformers, peft and datasets keep their names and are passed through (`args`, `adapter`, `data`, the keys
next to `model.preset`); hflm.recipe.library_options checks them. Nothing here imports those libraries.
"""

import functools
import operator
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from hflm.recipe.batch_size import describe_partial_rows
from hflm.recipe.benchmark import BenchmarkRecipe, PushRecipe
from hflm.recipe.evaluation import Lookup, evaluation_problems
from hflm.recipe.kinds import kind_names, kind_sections
from hflm.recipe.library_options import suggest
from hflm.recipe.model import ModelRecipe
from hflm.recipe.presets import architecture_of
from hflm.recipe.section import KeyProblem, Positive, Section, matching
from hflm.recipe.sweep import SweepRecipe
from hflm.recipe.sweep_metrics import sweep_problems
from hflm.recipe.tasks import Task
from hflm.recipe.tokenizer import TokenizerRecipe
from hflm.recipe.training import FinetuneRecipe, PretrainRecipe

if TYPE_CHECKING:
    AnyTask = Task
else:
    AnyTask = functools.reduce(operator.or_, kind_sections())


class Recipe(Section):
    name: Annotated[str, matching(r"\w[\w.-]*", "letters, digits, `.`, `_` and `-`, as in a folder's name")]
    """The run's folder is runs/<name>."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Of all random numbers."""
    processes: Positive | None = None
    """How many the run needs; it refuses to start with fewer."""
    tokenizer: TokenizerRecipe | None = None
    """Not needed with a model `from`, which has its own."""
    model: ModelRecipe
    """What is trained or measured."""
    pretrain: PretrainRecipe | None = None
    """Next-token prediction on a corpus."""
    tasks: dict[str, Annotated[AnyTask, Field(discriminator="kind")]] = Field(default_factory=dict)
    """Defined once, used by `finetune` and `benchmark`; a task named like a kind is of that kind."""
    finetune: FinetuneRecipe | None = None
    """Train on the tasks."""
    benchmark: BenchmarkRecipe | None = None
    """Measure the tasks."""
    push: PushRecipe | None = None
    """Upload the finished run to the Hub."""
    sweep: SweepRecipe | None = None
    """What `hflm sweep` searches; `hflm run` leaves it out."""

    @classmethod
    def suggested(cls) -> list[str]:
        return ["name", "extends", *[name for name in cls.model_fields if name != "name"]]

    @field_validator("tasks", mode="before")
    @classmethod
    def _kind_by_name(cls, tasks: Any) -> Any:
        if not isinstance(tasks, dict):
            return tasks
        return {
            name: {"kind": name, **task} if isinstance(task, dict) and name in kind_names() else task
            for name, task in tasks.items()
        }

    @classmethod
    def rules(cls, raw: dict[str, Any]) -> Iterator[KeyProblem]:
        def at(*path: str) -> Any:
            value: Any = raw
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            return value

        if not any(at(stage) is not None for stage in ("pretrain", "finetune", "benchmark")):
            yield (), "nothing to do: there is no pretrain, finetune or benchmark section. Add one"
        yield from _new_model_rules(at)
        for stage in ("pretrain", "finetune"):
            yield from _row_rules(at, stage)
            yield from evaluation_problems(at, stage)
        for name in at("tasks") if isinstance(at("tasks"), dict) else ():
            if not re.fullmatch(r"\w[\w-]*", str(name)):
                yield ("tasks", name), "a task's name is letters, digits, `_` and `-`"
        for path, split in (
            (("finetune",), "train"),
            (("pretrain", "evaluate"), "validation"),
            (("finetune", "evaluate"), "validation"),
            (("benchmark",), "test"),
        ):
            yield from _chosen_task_rules(at, path, split)
        yield from _push_rules(at)
        yield from sweep_problems(at)


def _new_model_rules(at: Lookup) -> Iterator[KeyProblem]:
    """What a new model and a new tokenizer need, and what cannot be done with a model that is not trained."""
    named = "architecture" if at("model", "preset") is None else "preset"
    new = at("model", named) is not None
    if new and at("tokenizer") is None:
        yield ("model", named), "a new model needs a tokenizer. Add a `tokenizer:` section (train: or from:)"
    own = at("tokenizer", "train") is None and at("tokenizer", "from") is None
    if at("tokenizer", "add_tokens") is not None and own and at("model", "from") is None:
        yield ("tokenizer", "add_tokens"), "to which tokenizer? Add `train:` or `from:`, or start from a model"
    if at("tokenizer", "add_tokens") is not None and at("model", "from") is not None:
        yield from _added_rows_rules(at)
    if new and at("finetune", "quantization") is not None and at("pretrain") is None:
        yield ("finetune", "quantization"), "a new model is not trained yet. Add `pretrain:`, or start `from:` a model"
    gpt2 = _architecture(at) == "gpt2"
    if gpt2 and at("finetune", "adapter", "init_lora_weights") == "olora":
        where = ("finetune", "adapter", "init_lora_weights")
        yield where, "peft's OLoRA cannot read GPT-2's transposed matrices. Use pissa, or remove it"
    no_texts = at("tokenizer", "train", "data") is None and at("pretrain") is None and at("finetune") is None
    if isinstance(at("tokenizer", "train"), dict) and no_texts:
        yield ("tokenizer", "train"), "no text to train on: there is no pretrain or finetune. Add `data:`"


def _added_rows_rules(at: Lookup) -> Iterator[KeyProblem]:
    """The rows of added tokens are trained by an adapter, too, which not every adapter can."""
    if at("finetune", "quantization") is not None:
        where = ("finetune", "quantization")
        yield where, "the embeddings of tokenizer.add_tokens are trained in full precision. Remove one of the two"
    if at("finetune", "adapter", "trainable_token_indices") is not None:
        where = ("finetune", "adapter", "trainable_token_indices")
        yield where, "an adapter trains the tokens of tokenizer.add_tokens by itself. Remove it"


def _row_rules(at: Lookup, stage: str) -> Iterator[KeyProblem]:
    """Rows fit into the model's context, and a batch consists of whole rows."""
    new, size, tokens = _architecture(at), at(stage, "block_size"), at(stage, "batch_tokens")
    key = "n_positions" if new == "gpt2" else "max_position_embeddings"
    positions = at("model", key) or (1024 if at("model", "preset") or new == "gpt2" else 2048)
    positions = positions if isinstance(positions, int) else 1024  # ModelRecipe reports it
    if new and isinstance(size, int) and size > positions > 0:
        yield (stage, "block_size"), f"{size} is more than the model's {key} {positions}"
        return
    row = size or (new and min(positions, 1024))
    if isinstance(row, int) and isinstance(tokens, int) and row > 0 and tokens > 0 and tokens % row:
        yield (stage, "batch_tokens"), describe_partial_rows(tokens, row)


def _push_rules(at: Lookup) -> Iterator[KeyProblem]:
    """Where checkpoints are sent, each training stage writes some."""
    if at("push", "checkpoints") is not True:
        return
    trained = [stage for stage in ("pretrain", "finetune") if at(stage) is not None]
    if not trained:
        yield ("push", "checkpoints"), "nothing is trained: there is no pretrain or finetune section. Remove it"
    for stage in trained:
        if at(stage, "args", "save_strategy") == "no":
            yield (
                ("push", "checkpoints"),
                f"{stage}.args.save_strategy is no: it writes no checkpoints. Set steps or epoch",
            )


def _architecture(at: Lookup) -> str | None:
    """The architecture of the recipe's new model, None for a model `from`."""
    return architecture_of({key: at("model", key) for key in ("preset", "architecture")})


def _chosen_task_rules(at: Lookup, path: tuple[str, ...], split: str) -> Iterator[KeyProblem]:
    """The tasks that a section names are defined, once, and have the split that it reads."""
    tasks = at("tasks") if isinstance(at("tasks"), dict) else {}
    chosen = at(*path, "tasks")
    for i, name in enumerate(chosen if isinstance(chosen, list) else ()):
        if not isinstance(name, str):
            continue  # reported by the type of the list
        where, splits = (*path, "tasks", i), at("tasks", name, "splits")
        if name in chosen[:i]:
            yield where, f"{name} is listed twice. Remove one"
        elif name not in tasks:
            yield where, f"there is no task {name} under `tasks:`.{suggest(name, map(str, tasks))}"
        elif split == "validation" and at("tasks", name, "splits", split) is None:
            text = f"{name} has no validation split, and the test split is for the benchmark. Name one, such as"
            yield where, f"{text} tasks.{name}.splits: {{train: 'train[200:]', validation: 'train[:200]'}}"
        elif isinstance(splits, dict) and split in splits and splits[split] is None:
            yield where, f"tasks.{name}.splits.{split} is null. Name a split there"
        elif path == ("finetune",) and (at("tasks", name, "kind") or name) == "language_modeling":
            yield where, f"{name} is language_modeling, which has no target. Use `pretrain:`"
