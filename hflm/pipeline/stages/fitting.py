"""Prompts that fit into the model, checked before anything is trained."""

import dataclasses
from typing import TYPE_CHECKING

from hflm.core import logger
from hflm.pipeline.reading import TaskRows
from hflm.pipeline.stages.base import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from hflm.preprocessing import TruncatedPrompts


def check_prompts(run: Run, tokenizer: "PreTrainedTokenizerFast", context_length: int) -> None:
    """Report every row of fine-tuning, evaluation and benchmark whose prompt or target cannot fit into the model.

    Raises DataError; a task with `on_bad_row: skip` loses these rows, which are counted as left out.
    """
    from hflm.evaluation import fit_rows
    from hflm.preprocessing import ensure_chat_template

    finetune = run.recipe.finetune
    row_tokens = (finetune.block_size if finetune else None) or min(context_length, 1024)
    for (name, use), rows in list(run.rows.items()):
        known = "finetune" in run.todo if use in ("train", "validation") else run.endpoint is None
        if rows.task.kind == "language_modeling" or not known:
            continue
        if rows.task.kind == "chat":
            ensure_chat_template(tokenizer)
        fitted = (
            fit_rows(tokenizer, rows, context_length)[0]
            if use in ("test", "evaluation")
            else fit_training_rows(rows, tokenizer, row_tokens)
        )
        for line in fitted.skipped[:10]:
            logger.info(f"left out: {line}")
        if fitted.skipped:
            examples = [rows.examples[number] for number in fitted.numbers]
            skipped = rows.skipped + len(fitted.skipped)
            run.rows[name, use] = dataclasses.replace(rows, examples=examples, skipped=skipped)


def fit_training_rows(rows: TaskRows, tokenizer: "PreTrainedTokenizerFast", block_size: int) -> "TruncatedPrompts":
    """The examples whose prompts and targets fit into rows of `block_size` tokens. Raises DataError."""
    from hflm.preprocessing import fit_for_training, target_lengths, truncate_prompts

    if rows.task.kind == "chat":
        return fit_for_training(rows.task, rows.examples, tokenizer, block_size, rows.where)
    lengths = target_lengths([example.target for example in rows.examples], tokenizer)
    budgets = [block_size - length for length in lengths]
    no_budget = f"the target is too long: it fills the {block_size} tokens of a row. Use a larger block_size"
    return truncate_prompts(rows.task, rows.examples, tokenizer, budgets, rows.where, no_budget)
