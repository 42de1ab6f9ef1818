"""One answer, token by token, for an interactive page."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hflm.core import UserError
from hflm.inference.stopping import cut_at_stop, end_tokens
from hflm.models import context_length
from hflm.preprocessing import encode_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Sampler = Callable[[list[int], torch.Tensor], int]


def stream_text(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerFast",
    prompt: str,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    sampling: dict[str, float] | None = None,
    seed: int | None = None,
) -> Iterator[str]:
    """Yield what follows `prompt`, longer each time, cut before the first stop string.

    Without `sampling` the text is greedy, that of the benchmark. `sampling` may hold `temperature`, `top_p` and
    `repetition_penalty`, as GenerationConfig means them; `seed` makes its choices repeatable. The text ends at the
    model's end tokens, after `max_new_tokens`, or where the context is full. A character is held back until all its
    bytes are generated. An empty prompt is the beginning of a text. Raises UserError for a prompt that fills the context.

    >>> list(stream_text(model, tokenizer, "The dog saw", 3))                                 # doctest: +SKIP
    [' the', ' the key', ' the key.']
    """
    ids = encode_prompts(tokenizer, [prompt])[0]
    free = context_length(model) - len(ids)
    if free < 1:
        raise UserError(
            f"the prompt has {len(ids):,} tokens, the model's context {len(ids) + free:,}: there is no room for an "
            "answer. Shorten the text"
        )
    choose = _sampler(model, sampling, seed) if sampling else _most_likely
    ends, prompt_characters = end_tokens(model, tokenizer), len(_decode(tokenizer, ids))
    new: list[int] = []
    shown = None
    for token in itertools.islice(_next_tokens(model, ids, choose), min(max_new_tokens, free)):
        if token in ends:
            break
        new.append(token)
        # Some tokenizers leave out a space at the beginning of a text, so that the answer is decoded after its prompt.
        text = _decode(tokenizer, [*ids, *new])[prompt_characters:]
        shown = cut_at_stop(text, stop)
        yield shown.rstrip("\ufffd")
        if shown != text:
            break
    if shown is None:
        yield ""
    elif shown.endswith("\ufffd"):
        yield shown


def _next_tokens(model: "PreTrainedModel", ids: list[int], choose: Sampler) -> Iterator[int]:
    """Yields what follows `ids` without an end, each token computed when it is asked for."""
    inputs, cache = ids, None
    while True:
        with torch.inference_mode():
            output = model(
                input_ids=torch.tensor([inputs], device=model.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            token = choose(ids, output.logits[:, -1].float())
        yield token
        ids, inputs, cache = [*ids, token], [token], output.past_key_values


def _decode(tokenizer: "PreTrainedTokenizerFast", ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def _most_likely(ids: list[int], logits: torch.Tensor) -> int:
    return int(logits.argmax(-1).item())


def _sampler(model: "PreTrainedModel", sampling: dict[str, float], seed: int | None) -> Sampler:
    """A function (ids so far, logits (1, V)) -> the next token, sampled as GenerationConfig's options say."""
    from transformers.generation import logits_process

    known: dict[str, Callable[[float], Any]] = {
        "repetition_penalty": logits_process.RepetitionPenaltyLogitsProcessor,
        "temperature": logits_process.TemperatureLogitsWarper,
        "top_p": logits_process.TopPLogitsWarper,
    }
    # They refuse 2 where they mean 2.0.
    processors = [make(float(sampling[name])) for name, make in known.items() if sampling.get(name, 1) != 1]
    generator = torch.Generator(model.device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)

    def sample(ids: list[int], logits: torch.Tensor) -> int:
        previous = torch.tensor([ids], device=model.device)
        for process in processors:
            logits = process(previous, logits)
        return int(torch.multinomial(logits.softmax(-1), 1, generator=generator).item())

    return sample
