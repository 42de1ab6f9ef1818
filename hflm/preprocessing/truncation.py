"""Make prompts fit into a model's context, counting how many were cut."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from hflm.core import DataError
from hflm.preprocessing.tokenizer import encode_prompts, plain_backend
from hflm.tasks import Example, describe_bad_rows, long_texts, shorten

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from hflm.recipe import PromptedTask


class TruncatedPrompts(NamedTuple):
    """`examples` that fit, their `numbers` among those asked for, how many were `cut`, and a line for each other one."""

    examples: list[Example]
    numbers: list[int]
    cut: int
    skipped: list[str]


def truncate_prompts(
    task: "PromptedTask",
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerFast",
    budgets: Sequence[int],
    where: str,
    no_budget: str = "the target is too long: it leaves no room for a prompt",
) -> TruncatedPrompts:
    """The examples with prompts of at most `budgets[i]` tokens each.

    `too_long: truncate` shortens the texts that the prompt shows, from their ends and the longest first, so that all
    long ones keep the same number of tokens; short ones (a question) and the instruction stay. `too_long: refuse`
    raises DataError that names the rows. A prompt that is too long without its texts, and one whose budget is below 1
    (`no_budget` is the reason), are bad rows: DataError, or left out with `on_bad_row: skip`.
    """
    lengths = [len(ids) for ids in encode_prompts(tokenizer, [example.prompt for example in examples])]
    long = [number for number, budget in enumerate(budgets) if lengths[number] > budget]
    if long and task.too_long == "refuse":
        listed = ", ".join(f"row {number + 1} ({lengths[number]} tokens)" for number in long[:10])
        more = f" and {len(long) - 10} more" if len(long) > 10 else ""
        raise DataError(
            f"{where}: {len(long)} of {len(examples)} prompts are longer than the {min(budgets)} tokens that the model "
            f"has room for: {listed}{more}. too_long: truncate cuts their text"
        )
    fitted, problems = dict(enumerate(examples)), []
    for number in long:
        budget, row = budgets[number], f"{where}, row {examples[number].id}"
        shorter = _truncated(task, examples[number], tokenizer, budget, lengths[number]) if budget > 0 else None
        if shorter is not None:
            fitted[number] = shorter
            continue
        del fitted[number]
        problems.append(
            f"{row}: the prompt is longer than the {budget} tokens that the model has room for, even without its text. "
            "Shorten the prompt, use fewer shots or a model with more n_positions"
            if budget > 0
            else f"{row}: {no_budget}"
        )
    if problems and (task.on_bad_row == "error" or not fitted):
        raise DataError(describe_bad_rows(problems, len(examples), where))
    return TruncatedPrompts(list(fitted.values()), list(fitted), len(long) - len(problems), problems)


def _truncated(
    task: "PromptedTask",
    example: Example,
    tokenizer: "PreTrainedTokenizerFast",
    budget: int,
    length: int,
) -> Example | None:
    """The example with a prompt of at most `budget` tokens instead of `length`; None where the rest is too long."""
    texts = long_texts(task, example)
    offsets = [plain_backend(tokenizer).encode(text, add_special_tokens=False).offsets for text in texts]
    kept, shorter = [len(each) for each in offsets], example
    while length > budget:
        # Cutting n tokens of the texts mostly shortens the prompt by n; where the cut changes tokens, it is repeated.
        total = sum(kept) - (length - budget)
        if total < len(texts):
            return None
        kept = equally_capped(kept, total)
        ends = [each[count - 1][1] if count else 0 for each, count in zip(offsets, kept, strict=True)]
        shorter = shorten(task, example, ends)
        length = len(encode_prompts(tokenizer, [shorter.prompt])[0])
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
