"""The tokenizer: trained on the recipe's own text, or the one that it names; saved in `tokenizer/`."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from hflm.core import DataError, logger, plain_table
from hflm.data import SKIPPED_ROWS
from hflm.pipeline import provenance
from hflm.pipeline.console import phase
from hflm.pipeline.stages.base import RecordedStage, Run
from hflm.pipeline.tokenizer_texts import SAMPLED_TEXTS, first_texts, sample_texts, tokenizer_texts
from hflm.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from hflm.recipe.tokenizer import TokenizerTraining


class Tokenizer(RecordedStage):
    name = "tokenizer"
    inputs: tuple[str, ...] = ()

    def run(self, run: Run) -> None:
        from hflm.models import save_pretrained
        from hflm.preprocessing import add_tokens

        if not run.ranks.is_main:
            return
        section = run.recipe.tokenizer
        assert section is not None
        started = time.monotonic()
        texts = sample_texts(run.corpus, run.rows)
        if section.train is None:
            tokenizer = load_named_tokenizer(run.recipe)
        else:
            tokenizer, own = _train(run, section.train)
            texts = texts if section.train.data is None else {"tokenizer.train.data": own, **texts}
        if had := add_tokens(tokenizer, section.add_tokens or ()):
            logger.info(f"tokenizer: {', '.join(map(repr, had))} of add_tokens are in the vocabulary already")
        run.begin()
        noted: dict[str, Any] = {"seconds": time.monotonic() - started, "entries": len(tokenizer)}
        if texts:
            noted["report"] = _report(tokenizer, texts)
        provenance.note(run.folder, stages={self.name: noted})
        run.forget(self.name)
        save_pretrained(run.folder / "tokenizer", tokenizer)


def load_named_tokenizer(recipe: Recipe) -> "PreTrainedTokenizerFast":
    """The tokenizer that a recipe starts `from`, or that of its model; without the tokens that it adds."""
    from hflm.preprocessing import load_tokenizer

    section, model = recipe.tokenizer, recipe.model
    path, revision = (
        (model.from_, model.revision) if section is None or section.from_ is None else (section.from_, section.revision)
    )
    assert path is not None, "the recipe names one of them"
    return load_tokenizer(path, revision)


def _train(run: Run, training: "TokenizerTraining") -> "tuple[PreTrainedTokenizerFast, list[str]]":
    """The trained tokenizer, and the first texts that it was trained on."""
    from hflm.preprocessing import train_tokenizer

    texts: Iterator[str] = iter(
        tokenizer_texts(run.recipe, run.inputs, run.corpus, run.rows, run.folder / SKIPPED_ROWS)
    )
    if not (begun := list(islice(texts, 1))):  # bad data are found here, before anything is written
        raise DataError("tokenizer.train: there is no text to train on")
    run.begin()
    first: list[str] = []

    def kept() -> Iterator[str]:
        for text in chain(begun, texts):
            if len(first) < SAMPLED_TEXTS:
                first.append(text)
            yield text

    with phase(f"tokenizer: training {training.algorithm}"):
        tokenizer = train_tokenizer(kept(), training.algorithm, training.vocab_size, training.min_frequency)
    logger.info(f"tokenizer: {training.algorithm}, {len(tokenizer):,} entries")
    return tokenizer, first_texts(first)


def _report(tokenizer: "PreTrainedTokenizerFast", texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Print how well the tokenizer fits some of its text; returns it for environment.json, from which the card shows it."""
    from rich.console import Console

    from hflm.preprocessing import REPORT_HEADINGS, describe_report, report_rows, report_tokenizer

    report = report_tokenizer(tokenizer, texts)
    Console(stderr=True).print(plain_table("Tokenizer", REPORT_HEADINGS, report_rows(report)))
    logger.info(f"tokenizer: {describe_report(report)}")
    return asdict(report)
