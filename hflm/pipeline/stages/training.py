"""What pretraining and fine-tuning share: the model they start from, and one stage through the Trainer."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hflm.core import UserError, logger
from hflm.pipeline import provenance
from hflm.pipeline.extension import keeps_schedule, settings_of
from hflm.pipeline.hub_checkpoints import offer_checkpoint
from hflm.pipeline.reading import evaluated_tasks
from hflm.pipeline.stages.base import Run
from hflm.pipeline.stages.packed_rows import remove_shared
from hflm.pipeline.stages.tokenizer import load_named_tokenizer
from hflm.recipe import Recipe, check_steps, stage_batch

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from hflm.evaluation import TrainingScores
    from hflm.planning import Prediction
    from hflm.preprocessing import Packed, PackedStream
    from hflm.training import Extension, StageSettings, Trained


def initial_model(
    recipe: Recipe, folder: Path, quantization: dict[str, Any] | None = None
) -> "tuple[PreTrainedModel, PreTrainedTokenizerFast]":
    """What training starts from: a new model of the recipe's size, or the one that it names."""
    from accelerate.utils import set_seed

    from hflm.models import build_model, extend_embeddings, load_model
    from hflm.preprocessing import load_tokenizer

    set_seed(recipe.seed)
    if recipe.model.from_ is None:
        tokenizer = load_tokenizer(folder / "tokenizer")
        return build_model(recipe.model.config, tokenizer), tokenizer
    dtype = recipe.model.dtype or "float32"
    model, tokenizer = load_model(recipe.model.from_, recipe.model.revision, dtype, quantization)
    if recipe.tokenizer is not None:
        tokenizer = load_tokenizer(folder / "tokenizer")
        if ids := added_token_ids(recipe, tokenizer):
            model = extend_embeddings(model, tokenizer, ids)
        if len(tokenizer) > model.config.vocab_size:
            raise UserError(
                f"tokenizer: it has {len(tokenizer):,} entries, the model {recipe.model.from_} only "
                f"{model.config.vocab_size:,}. Remove the section: the model brings its own tokenizer"
            )
        if recipe.tokenizer.train is not None:
            logger.info("tokenizer: a new vocabulary on a trained model: its embeddings were trained with another one")
    return model, tokenizer


def added_token_ids(recipe: Recipe, tokenizer: "PreTrainedTokenizerFast") -> list[int]:
    """The ids of the tokens that the recipe added to a tokenizer that it trained, named or took from the model."""
    from hflm.preprocessing import added_ids

    if recipe.tokenizer is None or recipe.tokenizer.add_tokens is None:
        return []
    return added_ids(tokenizer, None if recipe.tokenizer.train is not None else load_named_tokenizer(recipe))


def block_size_of(block_size: int | None, model: "PreTrainedModel") -> int:
    """Tokens in a packed row: the recipe's, or the model's context up to 1024."""
    from hflm.models import context_length

    longest = context_length(model)
    if block_size is not None and block_size > longest:
        raise UserError(f"block_size {block_size} is more than the model's context of {longest} tokens")
    return block_size or min(longest, 1024)


def begin_stage(run: Run, stage: str) -> None:
    """Make the stage's folder ready; what other inputs left there is set aside, unless they are extended."""
    if stage in run.extended:
        return
    run.begin()
    if run.ranks.is_main and (aside := run.state.begin(stage, run.dependencies[stage])):
        logger.info(f"{stage}: its inputs have changed; the earlier {stage} is now in {aside}")
    run.ranks.wait_for_all()


def _extension(run: Run, stage: str) -> "Extension | None":
    """How the stage goes on from an earlier training with other settings, or None."""
    from hflm.training import Extension

    if stage not in run.extended:
        return None
    if not run.ranks.is_main:
        return Extension(True, lambda checkpoint: None)  # the main process chooses the checkpoint
    before, after = run.state.known(stage), run.dependencies[stage]
    assert before is not None, "only a stage whose dependencies are known is extended"

    def begin(checkpoint: Path) -> None:
        run.begin()
        aside = run.state.extend(stage, after, checkpoint, settings_of(stage, before))
        logger.info(f"{stage}: is extended from {checkpoint.name}; the earlier model is now in {aside}")

    return Extension(keeps_schedule(stage, before, after), begin)


def train_stage(
    run: Run,
    stage: str,
    model: "PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerFast",
    packed: "Packed | PackedStream",
    validation: "Mapping[str, Packed]",
    block_size: int,
) -> None:
    """Train `model` on `packed` in the stage's folder; save the model and note in environment.json what was done.

    validation: packed rows whose loss is evaluated, by the name of their set, "" where there is only one.
    """
    from hflm.preprocessing import PackedStream, collate
    from hflm.training import TrainingData, ValidationSet, train_model

    recipe, folder = run.recipe, run.folder
    pad_token_id = tokenizer.pad_token_id
    assert isinstance(pad_token_id, int), "hflm loads each tokenizer with a padding token"
    section = getattr(recipe, stage)
    if not isinstance(packed, PackedStream):
        batch = stage_batch(section, block_size, run.ranks.count, stage)
        check_steps(len(packed.rows), batch, section.args.get("dataloader_drop_last", False), stage)
    prediction = _predict(run, stage, model, packed)
    adapter = folder / stage / "adapter" if stage == "finetune" and section.adapter is not None else None
    trained = train_model(
        model,
        TrainingData(
            packed.rows,
            partial(collate, pad_token_id=pad_token_id),
            {name: ValidationSet(each.rows, each.bytes) for name, each in validation.items()},
            _scorer(run, stage, tokenizer, model),
        ),
        folder / stage,
        section.args,
        _settings(run, stage, packed, block_size, model.num_parameters()),
        save_to=adapter or folder / stage / "model",
        tokenizer=tokenizer,
        extension=_extension(run, stage),
        on_evaluation=None if run.on_evaluation is None else partial(run.on_evaluation, stage),
        on_checkpoint=None if run.uploads is None else partial(offer_checkpoint, run, stage),
    )
    counts = packed.counts()
    if isinstance(packed, PackedStream):  # known only now
        logger.info(f"{stage}: {counts}")
    if run.ranks.is_main:
        if adapter is not None:
            model = _save_merged(run, stage, adapter, model, tokenizer)
        _note_trained(run, stage, model, trained, asdict(counts), prediction)
    remove_shared(run, stage)


def _settings(
    run: Run, stage: str, packed: "Packed | PackedStream", block_size: int, parameters: int
) -> "StageSettings":
    """The recipe's settings of the stage that are none of TrainingArguments', and what its packed rows are like."""
    from hflm.training import EarlyStop, StageSettings

    section = getattr(run.recipe, stage)
    stop = section.early_stopping
    return StageSettings(
        name=stage,
        seed=run.recipe.seed,
        row_tokens=block_size,
        tokens_per_row=packed.tokens_per_row,
        label_share=packed.label_share,
        batch_tokens=section.batch_tokens,
        on_spike=section.on_spike,
        average_checkpoints=section.average_checkpoints,
        early_stopping=stop and EarlyStop(stop.patience, stop.min_delta),
        tokens=section.token_budget(parameters) if stage == "pretrain" else None,
    )


def _predict(
    run: Run, stage: str, model: "PreTrainedModel | PeftModel", packed: "Packed | PackedStream"
) -> "Prediction | None":
    """What the stage should take, which is logged; None in other processes than the first."""
    from hflm.planning import format_prediction, predict_stage

    if not (run.ranks.is_main and run.predicts):
        return None
    prediction = predict_stage(model.config.to_dict(), packed.label_share, run.recipe, stage, run.ranks.count)
    if prediction is not None:
        logger.info(f"{stage}: predicted {format_prediction(asdict(prediction))}")
    return prediction


def _save_merged(
    run: Run,
    stage: str,
    adapter: Path,
    model: "PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerFast",
) -> "PreTrainedModel":
    """The trained adapter merged into its base, which is saved as the stage's model."""
    from hflm.models import merge_adapter, save_pretrained

    section = getattr(run.recipe, stage)
    merged, _ = merge_adapter(adapter, run.recipe.model.dtype or "float32", section.quantization)
    merged.generation_config = model.generation_config  # its end tokens
    save_pretrained(run.folder / stage / "model", merged, tokenizer)
    return merged


def _note_trained(
    run: Run,
    stage: str,
    model: "PreTrainedModel | PeftModel",
    trained: "Trained",
    packing: dict[str, Any],
    prediction: "Prediction | None",
) -> None:
    """Note in environment.json what the stage did, beside what was predicted."""
    from hflm.planning import compare_prediction, format_prediction

    compared = prediction and compare_prediction(prediction, model, run.folder, stage)
    if compared:
        logger.info(f"{stage}: measured {format_prediction(compared['measured'])}")
    record = {
        "seconds": trained.seconds,
        "steps": trained.steps,
        "kept_step": trained.kept_step,
        **({"averaged_steps": list(trained.averaged)} if trained.averaged else {}),
        **({"kept": asdict(trained.kept)} if trained.kept else {}),
        **({"stopped_early": True} if trained.stopped_early else {}),
        "tokens": trained.tokens,
        "final_loss": trained.loss,
        "final_eval_loss": trained.eval_loss,
        "packing": packing,
        "skipped_steps": list(trained.skipped),
        **trained.speed,
        "arithmetic": trained.arithmetic,
        "plan": compared,
    }
    if earlier := run.state.earlier(stage):
        record["extended"] = earlier
    provenance.note(run.folder, parameters=model.num_parameters(), stages={stage: record})


def _scorer(
    run: Run, stage: str, tokenizer: "PreTrainedTokenizerFast", model: "PreTrainedModel | PeftModel"
) -> "TrainingScores | None":
    """What measures the tasks of `evaluate` at each evaluation; the rows are the main process's."""
    from hflm.evaluation import TrainingScores
    from hflm.models import context_length

    evaluated = evaluated_tasks(run.recipe, stage)
    if not evaluated:
        return None
    rows = {}
    if run.ranks.is_main:
        for name, limit in evaluated.items():
            found = run.rows[name, "evaluation"]
            rows[name] = replace(found, examples=found.examples[:limit])
    batch_tokens = run.recipe.benchmark.batch_tokens if run.recipe.benchmark else None
    return TrainingScores(tokenizer, run.ranks.broadcast(rows), context_length(model), batch_tokens, run.recipe.seed)
