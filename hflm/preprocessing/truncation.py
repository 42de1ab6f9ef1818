"""Make prompts fit into a model's context, counting how many were cut."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hflm.core import DataError
from hflm.preprocessing.tokenizer import encode, plain_backend
from hflm.tasks import Example, long_texts, shorten

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from hflm.recipe import PromptedTask


def truncate_prompts(
    task: "PromptedTask",
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerFast",
    budgets: Sequence[int],
    where: str,
) -> tuple[list[Example], int]:
    """The examples with prompts of at most `budgets[i]` tokens each, and how many of them were cut.

    `too_long: truncate` shortens the texts that the prompt shows, from their ends and the longest first, so that all
    long ones keep the same number of tokens; short ones (a question) and the instruction stay. `too_long: refuse`
    raises DataError that names the rows. So does a prompt that is too long without its texts.
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
    task: "PromptedTask",
    example: Example,
    tokenizer: "PreTrainedTokenizerFast",
    budget: int,
    length: int,
    where: str,
) -> Example:
    texts = long_texts(task, example)
    offsets = [plain_backend(tokenizer).encode(text, add_special_tokens=False).offsets for text in texts]
    kept, shorter = [len(each) for each in offsets], example
    while length > budget:
        # Cutting n tokens of the texts mostly shortens the prompt by n; where the cut changes tokens, it is repeated.
        total = sum(kept) - (length - budget)
        if total < len(texts):
            raise DataError(
                f"{where}, row {example.id}: the prompt is longer than the {budget} tokens that the model has room "
                "for, even without its text. Shorten the prompt, use fewer shots or a model with more n_positions"
            )
        kept = equally_capped(kept, total)
        ends = [each[count - 1][1] if count else 0 for each, count in zip(offsets, kept, strict=True)]
        shorter = shorten(task, example, ends)
        length = len(encode(tokenizer, [shorter.prompt])[0])
    return shorter


def equally_capped(lengths: Sequence[int], total: int) -> list[int]:
    """Lengths cut to one common cap, so that their sum is `total`.

    >>> equally_capped([9, 2, 6], 10)
    [4, 2, 4]
    """
    capped, left = [0] * len(lengths), total
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for place, number in enumerate(order):
        capped[number] = min(lengths[number], left // (len(order) - place))
        left -= capped[number]
    return capped
