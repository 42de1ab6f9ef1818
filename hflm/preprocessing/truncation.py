"""Make prompts fit into a model's context, counting how many were cut."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hflm import tasks
from hflm.core import DataError
from hflm.preprocessing.tokenizer import encode, plain_backend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def truncate_prompts(
    task: Any, examples: Sequence[Any], tokenizer: "PreTrainedTokenizerFast", budgets: Sequence[int], where: str
) -> tuple[list[Any], int]:
    """The examples with prompts of at most `budgets[i]` tokens each, and how many of them were cut.

    `too_long: truncate` shortens the kind's long text from its end, keeping the question and the instruction;
    `too_long: refuse` raises DataError that names the rows. So does a prompt that is too long without its text.
    """
    lengths = [len(ids) for ids in encode(tokenizer, [example.prompt for example in examples])]
    long = [number for number, budget in enumerate(budgets) if lengths[number] > budget]
    if long and task.too_long == "refuse":
        listed = ", ".join(f"row {number + 1} ({lengths[number]} tokens)" for number in long[:10])
        more = f" and {len(long) - 10} more" if len(long) > 10 else ""
        raise DataError(
            f"{where}: {len(long)} of {len(examples)} prompts are longer than the {min(budgets)} tokens that the model "
            f"has room for: {listed}{more}. too_long: truncate cuts their text"
        )
    fitted = list(examples)
    for number in long:
        fitted[number] = _truncated(task, examples[number], tokenizer, budgets[number], lengths[number], where)
    return fitted, len(long)


def _truncated(
    task: Any, example: Any, tokenizer: "PreTrainedTokenizerFast", budget: int, length: int, where: str
) -> Any:
    offsets = plain_backend(tokenizer).encode(tasks.long_text(task, example), add_special_tokens=False).offsets
    kept = len(offsets)
    shorter = example
    while length > budget:
        # Cutting n tokens of the text mostly shortens the prompt by n; where the cut changes tokens, it is repeated.
        kept -= length - budget
        if kept <= 0:
            raise DataError(
                f"{where}, row {example.id}: the prompt is longer than the {budget} tokens that the model has room "
                "for, even without its text. Shorten the prompt, use fewer shots or a model with more n_positions"
            )
        shorter = tasks.shorten(task, example, offsets[kept - 1][1])
        length = len(encode(tokenizer, [shorter.prompt])[0])
    return shorter
