"""The tokenizer: trained on the recipe's own text, or the one that it names; saved in `tokenizer/`."""

import time
from itertools import chain, islice

from hflm.core import DataError, logger
from hflm.data import SKIPPED_ROWS
from hflm.pipeline import provenance
from hflm.pipeline.console import phase
from hflm.pipeline.reading import tokenizer_texts
from hflm.pipeline.stages.base import RecordedStage, Run


class Tokenizer(RecordedStage):
    name = "tokenizer"
    inputs: tuple[str, ...] = ()

    def run(self, run: Run) -> None:
        from hflm.models import save_pretrained
        from hflm.preprocessing import load_tokenizer, train_tokenizer

        if not run.ranks.is_main:
            return
        section = run.recipe.tokenizer
        assert section is not None
        training = section.train
        if training is None:
            assert section.from_ is not None  # the recipe has one of `train` and `from`
            tokenizer = load_tokenizer(section.from_, section.revision)
            run.begin()
        else:
            started = time.monotonic()
            texts = tokenizer_texts(run.recipe, run.inputs, run.corpus, run.rows, run.folder / SKIPPED_ROWS)
            if not (first := list(islice(texts, 1))):  # bad data are found here, before anything is written
                raise DataError("tokenizer.train: there is no text to train on")
            run.begin()
            texts = chain(first, texts)
            with phase(f"tokenizer: training {training.algorithm}"):
                tokenizer = train_tokenizer(texts, training.algorithm, training.vocab_size, training.min_frequency)
            logger.info(f"tokenizer: {training.algorithm}, {len(tokenizer):,} entries")
            noted = {"seconds": time.monotonic() - started, "entries": len(tokenizer)}
            provenance.note(run.folder, stages={self.name: noted})
        run.forget(self.name)
        save_pretrained(run.folder / "tokenizer", tokenizer)
