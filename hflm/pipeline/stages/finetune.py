"""Fine-tuning: all listed tasks together, loss on the target only.

The result, any adapter merged, is `finetune/model/`.
"""

from typing import TYPE_CHECKING

from hflm.core import logger
from hflm.pipeline.console import phase
from hflm.pipeline.stages.base import RecordedStage, Run
from hflm.pipeline.stages.fitting import check_prompts, fit_training_rows
from hflm.pipeline.stages.packed_rows import share_packed
from hflm.pipeline.stages.training import begin_stage, block_size_of, initial_model, train_stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from hflm.preprocessing import Packed


class Finetune(RecordedStage):
    name = "finetune"
    inputs: tuple[str, ...] = ("tokenizer", "pretrain")

    def run(self, run: Run) -> None:
        from hflm.models import add_adapter, context_length, patch_loss
        from hflm.tasks import chat_template

        recipe = run.recipe
        stage = recipe.finetune
        assert stage is not None
        model, tokenizer = _initial_model(run)
        tokenizer.chat_template = chat_template({name: recipe.tasks[name] for name in stage.tasks})
        block_size = block_size_of(stage.block_size, model)
        check_prompts(run, tokenizer, context_length(model))
        begin_stage(run, self.name)
        with phase("finetune: tokenizing and packing"):
            packed = share_packed(run, self.name, "train", lambda: _packed(run, "train", tokenizer, block_size))
            validation = share_packed(
                run, self.name, "validation", lambda: _packed(run, "validation", tokenizer, block_size)
            )
        assert packed is not None
        logger.info(f"finetune: {packed.counts()}")
        model = patch_loss(model, stage.z_loss, stage.args.get("label_smoothing_factor", 0.0))
        if stage.adapter is not None:
            model = add_adapter(model, stage.adapter, recipe.model.revision if recipe.pretrain is None else None)
        sets = {"": validation} if validation is not None else {}
        train_stage(run, self.name, model, tokenizer, packed, sets, block_size)


def _packed(run: Run, use: str, tokenizer: "PreTrainedTokenizerFast", block_size: int) -> "Packed | None":
    """The examples of all tasks that have rows for `use`, packed; None where none has."""
    from hflm.preprocessing import pack_examples

    assert run.recipe.finetune is not None
    pairs, cut = [], 0
    for name in run.recipe.finetune.tasks:
        rows = run.rows.get((name, use))
        if rows is None:
            continue
        fitted = fit_training_rows(rows, tokenizer, block_size)
        cut += fitted.cut
        pairs += [(example.prompt, example.target) for example in fitted.examples]
    return pack_examples(pairs, tokenizer, block_size, cut) if pairs else None


def _initial_model(run: Run) -> "tuple[PreTrainedModel, PreTrainedTokenizerFast]":
    from accelerate.utils import set_seed

    from hflm.models import load_model

    recipe = run.recipe
    assert recipe.finetune is not None
    quantization = recipe.finetune.quantization
    if recipe.pretrain is None:
        return initial_model(recipe, run.folder, quantization)
    set_seed(recipe.seed)  # the same adapter and dropout, whether or not pretraining ran in this process
    dtype = recipe.model.dtype or "float32"
    return load_model(run.folder / "pretrain" / "model", dtype=dtype, quantization=quantization)
