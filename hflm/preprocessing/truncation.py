"""Make prompts fit into a model's context, counting what was cut."""

from hflm import tasks
from hflm.core import DataError
from hflm.preprocessing.tokenizer import encode


def fit(task, examples, tokenizer, rooms, where):
    """The examples with prompts of at most `rooms[i]` tokens each, and how many had to be cut.

    `too_long: truncate` shortens the kind's long text from its end, keeping the question and the instruction;
    `too_long: refuse` raises DataError that names the rows. So does a prompt that is too long without its text.
    """
    lengths = [len(ids) for ids in encode(tokenizer, [example.prompt for example in examples])]
    long = [number for number, room in enumerate(rooms) if lengths[number] > room]
    if long and task.too_long == "refuse":
        shown = ", ".join(f"row {number + 1} ({lengths[number]} tokens)" for number in long[:10])
        more = f" and {len(long) - 10} more" if len(long) > 10 else ""
        raise DataError(
            f"{where}: {len(long)} of {len(examples)} prompts are longer than the {min(rooms)} tokens that the model "
            f"has room for: {shown}{more}. too_long: truncate cuts their text"
        )
    fitted = list(examples)
    for number in long:
        fitted[number] = _shortened(task, examples[number], tokenizer, rooms[number], lengths[number], where)
    return fitted, len(long)


def _shortened(task, example, tokenizer, room, length, where):
    offsets = tokenizer.backend_tokenizer.encode(tasks.long_text(task, example), add_special_tokens=False).offsets
    keep = len(offsets)
    while length > room:
        # Cutting n tokens of the text mostly shortens the prompt by n; where the cut makes other tokens, once more.
        keep -= length - room
        if keep <= 0:
            raise DataError(
                f"{where}, row {example.id}: the prompt is longer than the {room} tokens that the model has room for, "
                "even without its text. Shorten the prompt, use fewer shots or a model with more n_positions"
            )
        shorter = tasks.shorten(task, example, offsets[keep - 1][1])
        length = len(encode(tokenizer, [shorter.prompt])[0])
    return shorter
