"""The tokenizer: trained on the recipe's own text, or the one that it names; saved in `tokenizer/`."""

import time

from hflm.core import logger
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

        run.forget(self.name)
        if not run.ranks.is_main:
            return
        section = run.recipe.tokenizer
        assert section is not None
        training = section.train
        if training is None:
            assert section.from_ is not None  # the recipe has one of `train` and `from`
            tokenizer = load_tokenizer(section.from_, section.revision)
        else:
            started = time.monotonic()
            texts = tokenizer_texts(run.recipe, run.inputs, run.corpus, run.rows, run.folder / SKIPPED_ROWS)
            with phase(f"tokenizer: training {training.algorithm}"):
                tokenizer = train_tokenizer(texts, training.algorithm, training.vocab_size, training.min_frequency)
            logger.info(f"tokenizer: {training.algorithm}, {len(tokenizer):,} entries")
            noted = {"seconds": time.monotonic() - started, "entries": len(tokenizer)}
            provenance.note(run.folder, stages={self.name: noted})
        save_pretrained(run.folder / "tokenizer", tokenizer)
