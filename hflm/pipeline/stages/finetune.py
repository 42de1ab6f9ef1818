"""Fine-tuning: all listed tasks together, loss on the target only.

The result, any adapter merged, is `finetune/model/`.
"""

from typing import TYPE_CHECKING

from hflm.core import logger
from hflm.pipeline.console import phase
from hflm.pipeline.stages.base import RecordedStage, Run
from hflm.pipeline.stages.fitting import check_prompts, fit_training_rows
from hflm.pipeline.stages.packed_rows import share_packed
from hflm.pipeline.stages.training import added_token_ids, begin_stage, block_size_of, initial_model, train_stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from hflm.preprocessing import Packed


class Finetune(RecordedStage):
    name = "finetune"
    inputs: tuple[str, ...] = ("tokenizer", "pretrain")

    def run(self, run: Run) -> None:
        from hflm.models import add_adapter, context_length, patch_loss

        recipe = run.recipe
        stage = recipe.finetune
        assert stage is not None
        model, tokenizer = _initial_model(run)
        _set_chat_template(run, model, tokenizer)
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
            # Pretraining has trained the rows of added tokens already.
            added = added_token_ids(recipe, tokenizer) if recipe.pretrain is None else []
            revision = recipe.model.revision if recipe.pretrain is None else None
            model = add_adapter(model, stage.adapter, revision, added)
        sets = {"": validation} if validation is not None else {}
        train_stage(run, self.name, model, tokenizer, packed, sets, block_size)


def _packed(run: Run, use: str, tokenizer: "PreTrainedTokenizerFast", block_size: int) -> "Packed | None":
    """The examples of all tasks that have rows for `use`, packed; None where none has."""
    from hflm.preprocessing import encode_conversations, pack_examples
    from hflm.tasks import conversation

    assert run.recipe.finetune is not None
    pairs, conversations, cut = [], [], 0
    for name in run.recipe.finetune.tasks:
        rows = run.rows.get((name, use))
        if rows is None:
            continue
        fitted = fit_training_rows(rows, tokenizer, block_size)
        cut += fitted.cut
        if fitted.cut and rows.task.kind == "chat":
            logger.info(
                f"finetune: {fitted.cut:,} conversations of {name} lose turns that do not fit into {block_size} tokens"
            )
        if rows.task.kind == "chat":
            conversations += encode_conversations(tokenizer, [conversation(example) for example in fitted.examples])
        else:
            pairs += [(example.prompt, example.target) for example in fitted.examples]
    if not pairs and not conversations:
        return None
    return pack_examples(pairs, tokenizer, block_size, cut, conversations)


def _set_chat_template(run: Run, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast") -> None:
    """The template that chat servers prompt the model with: that of its conversations, or made from its tasks' prompts.

    The token that ends a turn becomes one of the model's end tokens, so that it stops there wherever it is used.
    """
    from hflm.preprocessing import end_of_turn, ensure_chat_template
    from hflm.tasks import chat_template

    stage = run.recipe.finetune
    assert stage is not None
    trained = {name: run.recipe.tasks[name] for name in stage.tasks}
    if not any(task.kind == "chat" for task in trained.values()):
        tokenizer.chat_template = chat_template(trained)
        return
    ensure_chat_template(tokenizer)
    end = end_of_turn(tokenizer)
    if end is None:
        logger.warning(
            "finetune: the chat template ends the assistant's turns with no special token: answers may not end"
        )
    elif end != tokenizer.eos_token_id and model.generation_config is not None:
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, end]


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
