"""The text that a tokenizer is trained on, and the part of it that its report is about."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from hflm.data import Sources, read_documents, stream_documents
from hflm.pipeline.inputs import Inputs
from hflm.pipeline.reading import Corpus, RowsByUse, TaskRows
from hflm.recipe import Recipe

STREAMED_TEXTS = 100_000  # documents of a stream that a tokenizer is trained on
SAMPLED_TEXTS, SAMPLED_CHARACTERS = 2_000, 500_000  # of a source, that the report is about


def tokenizer_texts(
    recipe: Recipe, inputs: Inputs, corpus: Corpus | None, rows: RowsByUse, listed: Path
) -> Iterator[str]:
    """The text that a tokenizer is trained on: its own data, or the corpus and the tasks' training examples."""
    assert recipe.tokenizer is not None and recipe.tokenizer.train is not None
    if recipe.tokenizer.train.data is not None:
        own = inputs.sources("tokenizer.train.data")
        stage = recipe.pretrain
        sources = Sources(own, "tokenizer.train.data", stage.text if stage else "text", seed=recipe.seed)
        if sources.streamed:
            yield from itertools.islice(stream_documents(sources, listed), STREAMED_TEXTS)
        else:
            yield from read_documents(sources).texts
        return
    if corpus is not None:
        # A stream may have no end: its beginning represents it.
        yield from itertools.islice(corpus.texts, None if isinstance(corpus.texts, list) else STREAMED_TEXTS)
    for (_, use), found in rows.items():
        if use == "train":
            yield from (f"{example.prompt} {example.target}" for example in found.examples)


def sample_texts(corpus: Corpus | None, rows: RowsByUse) -> dict[str, list[str]]:
    """{source: the first of its texts}: sources of the corpus, tasks, and the two languages of a translation.

    >>> sample_texts(corpus, rows)                                                              # doctest: +SKIP
    {"pretrain.data.0": ["Once ..."], "translation (English)": ["A dog."], "translation (German)": ["Ein Hund."]}
    """
    texts = {source.key: first_texts(source.sample) for source in (corpus.given if corpus is not None else ())}
    for (name, use), found in rows.items():
        if use == "train" or (name, "train") not in rows:
            texts |= {f"{name}{language}": first_texts(own) for language, own in _by_language(found).items()}
    return {source: own for source, own in texts.items() if own}


def first_texts(texts: Iterable[str]) -> list[str]:
    """The first texts of a source, as many as the report is about."""
    found, characters = [], 0
    for text in itertools.islice(texts, SAMPLED_TEXTS):
        found.append(text[: SAMPLED_CHARACTERS - characters])
        characters += len(found[-1])
        if characters >= SAMPLED_CHARACTERS:
            break
    return found


def _by_language(rows: TaskRows) -> dict[str, Iterator[str]]:
    """{" (language)": texts} where the task names its languages, else all of them as {"": texts}."""
    if rows.task.kind == "translation":
        source, target = rows.task.language_names
        texts = (str(example.fields["source"]) for example in rows.examples)
        return {f" ({source})": texts, f" ({target})": (example.target for example in rows.examples)}
    language = getattr(rows.task, "language", None)
    texts = (f"{example.prompt} {example.target}".strip() for example in rows.examples)
    return {f" ({language})" if language else "": texts}
