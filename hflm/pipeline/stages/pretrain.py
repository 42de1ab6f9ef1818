"""Pretraining: next-token prediction on the corpus; the result is `pretrain/model/`."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from hflm.core import UserError, logger
from hflm.data import SKIPPED_ROWS, DocumentStream, append_skipped
from hflm.pipeline import provenance
from hflm.pipeline.console import phase
from hflm.pipeline.reading import open_stream, streams_corpus
from hflm.pipeline.stages.base import RecordedStage, Run
from hflm.pipeline.stages.fitting import check_prompts
from hflm.pipeline.stages.packed_rows import share_packed
from hflm.pipeline.stages.training import begin_stage, block_size_of, initial_model, train_stage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from hflm.preprocessing import Packed, PackedStream


class Pretrain(RecordedStage):
    name = "pretrain"
    inputs: tuple[str, ...] = ("tokenizer",)

    def run(self, run: Run) -> None:
        from hflm.models import context_length, patch_loss

        stage = run.recipe.pretrain
        assert stage is not None
        model, tokenizer = initial_model(run.recipe, run.folder)
        block_size = block_size_of(stage.block_size, model)
        check_prompts(run, tokenizer, context_length(model))
        begin_stage(run, self.name)
        with phase("pretrain: tokenizing and packing") as progress:
            packed, validation = _packed(run, tokenizer, block_size, progress)
        if run.ranks.is_main:
            _note_sources(run, tokenizer)
        model = patch_loss(model, stage.z_loss, stage.args.get("label_smoothing_factor", 0.0))
        train_stage(run, self.name, model, tokenizer, packed, validation, block_size)
        if run.ranks.is_main:
            provenance.note_skipped(run.folder, logger.info)


def _packed(
    run: Run, tokenizer: "PreTrainedTokenizerFast", block_size: int, progress: Callable[[float], None]
) -> "tuple[Packed | PackedStream, dict[str, Packed]]":
    """Rows to train on, and those to evaluate on by the name of their set.

    The main process packs; each process reads its part of a stream.
    """
    from hflm.preprocessing import PackedStream, cache_folder, count_bytes, pack_documents

    stage, corpus = run.recipe.pretrain, run.corpus
    assert stage is not None
    pack = partial(pack_documents, tokenizer=tokenizer, block_size=block_size, rows=stage.rows)
    held_out = corpus.held_out if corpus else {}

    def pack_set(name: str) -> "Packed":
        return count_bytes(pack(held_out[name]), held_out[name], tokenizer)

    shared = {
        name: share_packed(run, "pretrain", f"validation-{name}" if name else "validation", partial(pack_set, name))
        for name in run.ranks.broadcast(list(held_out))
    }
    validation = {name: packed for name, packed in shared.items() if packed is not None}
    if streams_corpus(stage):
        if stage.args.get("max_steps", -1) <= 0 and stage.tokens is None:
            raise UserError("pretrain.args.max_steps: a stream has no known length. Set it, or pretrain.tokens")
        stream = open_stream(run.recipe, run.inputs, run.folder / SKIPPED_ROWS)
        packed = PackedStream(stream, tokenizer, block_size, stage.shuffle_buffer, run.recipe.seed)
        return packed, validation
    texts = corpus.texts if corpus else None
    assert not isinstance(texts, DocumentStream)  # a stream has returned above
    packed = share_packed(
        run,
        "pretrain",
        "train",
        lambda: None if texts is None else pack(texts, cache=cache_folder(), on_progress=progress),
    )
    assert packed is not None
    if packed.cached:
        logger.info(
            f"pretrain: the same text and tokenizer were seen before, their tokens are read from {packed.cached}"
        )
    logger.info(f"pretrain: {packed.counts()}")
    return packed, validation


def _note_sources(run: Run, tokenizer: "PreTrainedTokenizerFast") -> None:
    from hflm.preprocessing import encode

    assert run.corpus is not None
    provenance.note_sources(run.folder, run.corpus.given, partial(encode, tokenizer), run.corpus.begun, logger.info)
    append_skipped(run.corpus.skipped, run.folder / SKIPPED_ROWS)
