"""`hflm preview`: the first rows as they will be trained and asked, without a model."""

import itertools
import math
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hflm import tasks
from hflm.core import UserError
from hflm.models import architecture
from hflm.pipeline.inputs import Inputs, resolve_inputs
from hflm.pipeline.reading import Corpus, RowsByUse, TaskRows, read_corpus, read_tasks
from hflm.pipeline.stages.fitting import fit_training_rows
from hflm.pipeline.stages.tokenizer import load_named_tokenizer
from hflm.pipeline.tokenizer_texts import sample_texts, tokenizer_texts
from hflm.planning import read_model_config
from hflm.preprocessing import (
    IGNORED,
    Packed,
    Row,
    TokenizerReport,
    add_tokens,
    encode,
    load_tokenizer,
    pack_documents,
    pack_examples,
    report_tokenizer,
    train_tokenizer,
)
from hflm.recipe import Recipe, stage_batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

STAGES = ("pretrain", "finetune", "benchmark")
SAMPLE = 2000  # documents of a stream that are packed, and texts whose tokens are counted
GPT2 = "openai-community/gpt2"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Token:
    """One token of a row. `trained`: the loss is computed on it; `begins`: a document or example begins here."""

    id: int
    text: str
    trained: bool
    begins: bool


@dataclass(frozen=True)
class Lengths:
    """The tokens of the texts of a source, and how many of all of them the loss is computed on."""

    name: str
    texts: int
    shortest: int
    median: int
    longest: int
    trained_fraction: float


@dataclass(frozen=True)
class StagePreview:
    """A training stage: its first `rows`, what packing did, and how long it is.

    `steps` and `epochs` are None where the length of the data is not known (a stream: only its beginning was packed).
    """

    stage: str
    rows: tuple[tuple[Token, ...], ...]
    packing: str
    lengths: tuple[Lengths, ...]
    rows_per_step: int
    steps: int | None
    epochs: float | None


@dataclass(frozen=True)
class PromptPreview:
    """The first prompt of a benchmark's task, shots included; `tokens` long, where `room` is left for prompts."""

    task: str
    prompt: str
    references: tuple[str, ...]
    tokens: int
    room: int


@dataclass(frozen=True)
class Preview:
    """What `hflm preview` shows. `reports` are of the recipe's tokenizer, and of GPT-2's where that is at hand."""

    recipe: str
    reports: dict[str, TokenizerReport]
    stages: tuple[StagePreview, ...]
    prompts: tuple[PromptPreview, ...]


def preview_recipe(recipe: Recipe, stage: str | None, rows: int, say: Say) -> Preview:
    """The Preview of a recipe's stages, or of one of STAGES; `rows` of each are shown.

    Data are read and a new tokenizer is trained, as a run does. Raises UserError for a stage that the recipe lacks, and
    what a run would raise for its data.
    """
    stages = [name for name in STAGES if getattr(recipe, name) is not None]
    if stage is not None and stage not in stages:
        raise UserError(f"--stage {stage}: {recipe.name} has no such stage, only {', '.join(stages)}")
    chosen = stages if stage is None else [stage]
    names = recipe.benchmark.tasks if recipe.benchmark and "benchmark" in chosen else ()
    todo = {"tokenizer", *chosen, *(f"benchmark/{name}" for name in names)}
    with tempfile.TemporaryDirectory() as scratch:
        skipped = Path(scratch) / "skipped"
        inputs = resolve_inputs(recipe)
        material = read_tasks(recipe, inputs, todo, say)
        corpus = read_corpus(recipe, inputs, todo, say, skipped)
        tokenizer = _tokenizer(recipe, inputs, corpus, material, skipped)
        model = read_model_config(recipe, [])
        context = model.shape.n_positions if model else 1024
        found = []
        if "pretrain" in chosen:
            parameters = sum(architecture.parameters(model.shape).values()) if model else 0
            found.append(_pretrain(recipe, corpus, tokenizer, context, parameters, rows))
        if "finetune" in chosen:
            found.append(_finetune(recipe, material, tokenizer, context, rows))
        prompts = tuple(_prompt(name, material[name, "test"], tokenizer, context) for name in names)
        texts = sample_texts(corpus, material)
    reports = {"the recipe's tokenizer": report_tokenizer(tokenizer, texts)} if texts else {}
    gpt2 = _gpt2()
    if gpt2 is not None and texts:
        reports[GPT2] = report_tokenizer(gpt2, texts)
    return Preview(recipe.name, reports, tuple(found), tuple(each for each in prompts if each is not None))


def _tokenizer(
    recipe: Recipe, inputs: Inputs, corpus: Corpus | None, rows: RowsByUse, skipped: Path
) -> "PreTrainedTokenizerFast":
    section = recipe.tokenizer
    if section is None:
        assert recipe.model.from_ is not None, "a recipe without a tokenizer starts from a model"
        return load_tokenizer(recipe.model.from_, recipe.model.revision)
    if section.train is None:
        tokenizer = load_named_tokenizer(recipe)
    else:
        options = section.train
        texts = tokenizer_texts(recipe, inputs, corpus, rows, skipped)
        tokenizer = train_tokenizer(texts, options.algorithm, options.vocab_size, options.min_frequency)
    add_tokens(tokenizer, section.add_tokens or ())
    return tokenizer


def _pretrain(
    recipe: Recipe,
    corpus: Corpus | None,
    tokenizer: "PreTrainedTokenizerFast",
    context: int,
    parameters: int,
    rows: int,
) -> StagePreview:
    section = recipe.pretrain
    assert section is not None and corpus is not None
    block_size = section.block_size or min(context, 1024)
    whole = isinstance(corpus.texts, list)
    texts = corpus.texts if isinstance(corpus.texts, list) else list(itertools.islice(corpus.texts, SAMPLE))
    packed = pack_documents(texts, tokenizer, block_size, rows=section.rows)
    counted = map(len, encode(tokenizer, texts[:SAMPLE]))
    lengths = (_lengths("the corpus", counted, 1.0),)
    budget = section.token_budget(parameters) if parameters else None
    return _stage(recipe, "pretrain", packed, lengths, tokenizer, rows, whole, budget)


def _finetune(
    recipe: Recipe, material: RowsByUse, tokenizer: "PreTrainedTokenizerFast", context: int, rows: int
) -> StagePreview:
    section = recipe.finetune
    assert section is not None
    block_size = section.block_size or min(context, 1024)
    pairs, cut, lengths = [], 0, []
    for name in section.tasks:
        fitted = fit_training_rows(material[name, "train"], tokenizer, block_size)
        cut += fitted.cut
        own = [(example.prompt, example.target) for example in fitted.examples]
        pairs += own
        sample = own[:SAMPLE]
        prompts = list(map(len, encode(tokenizer, [prompt for prompt, _ in sample])))
        targets = [len(ids) + 1 for ids in encode(tokenizer, [f" {target}" for _, target in sample])]
        both = [prompt + target for prompt, target in zip(prompts, targets, strict=True)]
        lengths.append(_lengths(name, both, sum(targets) / max(1, sum(both))))
    packed = pack_examples(pairs, tokenizer, block_size, cut)
    return _stage(recipe, "finetune", packed, tuple(lengths), tokenizer, rows, True)


def _lengths(name: str, tokens: Iterable[int], trained_fraction: float) -> Lengths:
    ordered = sorted(tokens)
    return Lengths(name, len(ordered), ordered[0], ordered[len(ordered) // 2], ordered[-1], trained_fraction)


def _stage(
    recipe: Recipe,
    stage: str,
    packed: Packed,
    lengths: tuple[Lengths, ...],
    tokenizer: "PreTrainedTokenizerFast",
    rows: int,
    whole: bool,
    budget: float | None = None,
) -> StagePreview:
    section = getattr(recipe, stage)
    batch = stage_batch(section, packed.block_size, recipe.processes or 1, stage)
    per_epoch = math.ceil(len(packed.rows) / batch.rows) if whole else None
    steps: int | None = section.args.get("max_steps", -1)
    if budget is not None:
        steps = math.ceil(budget / (batch.rows * packed.block_size))
    elif steps is None or steps <= 0:
        steps = per_epoch and math.ceil(per_epoch * section.args.get("num_train_epochs", 3))
    return StagePreview(
        stage=stage,
        rows=tuple(_tokens(packed.rows[number], tokenizer) for number in range(min(rows, len(packed.rows)))),
        packing=str(packed.counts()) if whole else f"the first {packed.texts:,} documents: {packed.counts()}",
        lengths=lengths,
        rows_per_step=batch.rows,
        steps=steps,
        epochs=steps / per_epoch if steps and per_epoch else None,
    )


def _tokens(row: Row, tokenizer: "PreTrainedTokenizerFast") -> tuple[Token, ...]:
    ids = row["input_ids"].tolist()
    texts = tokenizer.batch_decode([[number] for number in ids], skip_special_tokens=False)
    trained, begins = (row["labels"] != IGNORED).tolist(), (row["position_ids"] == 0).tolist()
    return tuple(itertools.starmap(Token, zip(ids, texts, trained, begins, strict=True)))


def _prompt(name: str, rows: TaskRows, tokenizer: "PreTrainedTokenizerFast", context: int) -> PromptPreview | None:
    if rows.task.kind == "language_modeling":
        return None
    [first] = tasks.with_shots(rows.task, rows.examples[:1], rows.shots)
    answer = tasks.task_settings(rows.task).max_new_tokens or 0
    for choice in tasks.choices(rows.task) or ():
        answer = max(answer, len(encode(tokenizer, [f" {choice}"])[0]))
    [ids] = encode(tokenizer, [first.prompt])
    return PromptPreview(name, first.prompt, first.references, len(ids), context - min(answer, context // 2))


def _gpt2() -> "PreTrainedTokenizerFast | None":
    """GPT-2's tokenizer, if the Hub's cache has it."""
    from huggingface_hub import try_to_load_from_cache

    return load_tokenizer(GPT2) if isinstance(try_to_load_from_cache(GPT2, "tokenizer.json"), str) else None
