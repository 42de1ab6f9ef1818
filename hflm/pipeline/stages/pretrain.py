"""Pretraining: next-token prediction on the corpus; the result is `pretrain/model/`."""

from functools import partial

from hflm.core import UserError, logger
from hflm.data import SKIPPED_ROWS, append_skipped
from hflm.pipeline import provenance
from hflm.pipeline.stages.base import RecordedStage, Run
from hflm.pipeline.stages.fitting import check_prompts
from hflm.pipeline.stages.training import block_size_of, initial_model, train_stage


class Pretrain(RecordedStage):
    name = "pretrain"
    inputs = ("tokenizer",)

    def run(self, run: Run) -> None:
        from hflm.models import context_length, patch_loss
        from hflm.preprocessing import cache_folder, encode, pack_documents, pack_stream
        from hflm.training import first_process_first

        recipe, corpus = run.recipe, run.corpus
        stage = recipe.pretrain
        assert stage is not None and corpus is not None
        model, tokenizer = initial_model(recipe, run.folder)
        block_size = block_size_of(stage.block_size, model)
        check_prompts(run, tokenizer, context_length(model))
        pack = partial(pack_documents, tokenizer=tokenizer, block_size=block_size, rows=stage.rows)
        validation = pack(corpus.held_out) if corpus.held_out else None
        if isinstance(corpus.texts, list):
            with first_process_first():  # the others find what the first one has cached
                packed = pack(corpus.texts, cache=cache_folder())
            if packed.cached:
                logger.info(
                    f"pretrain: the same text and tokenizer were seen before, their tokens are read from {packed.cached}"
                )
            logger.info(f"pretrain: {packed.counts()}")
        elif stage.args.get("max_steps", -1) > 0 or stage.tokens is not None:
            packed = pack_stream(corpus.texts, tokenizer, block_size, stage.shuffle_buffer, recipe.seed)
        else:
            raise UserError("pretrain.args.max_steps: a stream has no known length. Set it, or pretrain.tokens")
        if run.state.is_main_process:
            provenance.note_sources(run.folder, corpus.given, partial(encode, tokenizer), corpus.begun, logger.info)
            append_skipped(corpus.skipped, run.folder / SKIPPED_ROWS)
        model = patch_loss(model, stage.z_loss)
        train_stage(run, self.name, model, tokenizer, packed, validation, block_size)
        if run.state.is_main_process:
            provenance.note_skipped(run.folder, logger.info)
