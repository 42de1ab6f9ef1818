"""One answer as it is written: what the demo shows while the model is still at work."""

import torch

from hflm.core import UserError
from hflm.inference.local import cut_at, end_tokens
from hflm.models import load as models
from hflm.preprocessing import encode


def stream(model, tokenizer, prompt, max_new_tokens, stop=(), sampling=None, seed=None):
    """Yield what follows `prompt`, longer each time, cut before the first stop string.

    Without `sampling` the text is greedy, that of the benchmark. `sampling` may hold `temperature`, `top_p` and
    `repetition_penalty`, as GenerationConfig means them; `seed` makes its choices repeatable. The text ends at the
    model's end tokens, after `max_new_tokens`, or where the context is full. A character that is only half written is
    held back. An empty prompt is the beginning of a text. Raises UserError for a prompt that fills the context.

    >>> list(stream(model, tokenizer, "The dog saw", 3))                                      # doctest: +SKIP
    [' the', ' the key', ' the key.']
    """
    ids = encode(tokenizer, [prompt])[0] or [tokenizer.bos_token_id or tokenizer.eos_token_id]
    room = models.context_length(model) - len(ids)
    if room < 1:
        raise UserError(
            f"the prompt has {len(ids):,} tokens, the model's context {len(ids) + room:,}: there is no room for an answer. "
            "Shorten the text"
        )
    choose = _sampler(model, sampling, seed) if sampling else _likeliest
    ends, begun = end_tokens(model, tokenizer), len(tokenizer.decode(ids, skip_special_tokens=True))
    new, given, cache, shown = [], ids, None, None
    for _ in range(min(max_new_tokens, room)):
        with torch.inference_mode():
            output = model(
                input_ids=torch.tensor([given], device=model.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            token = choose([*ids, *new], output.logits[:, -1].float())
        if token in ends:
            break
        new, given, cache = [*new, token], [token], output.past_key_values
        # Some tokenizers leave out a space at the beginning: only after the prompt is it seen.
        text = tokenizer.decode([*ids, *new], skip_special_tokens=True)[begun:]
        shown = cut_at(text, stop)
        yield shown.rstrip("\ufffd")
        if shown != text:
            break
    if shown is None:
        yield ""
    elif shown.endswith("\ufffd"):
        yield shown


def _likeliest(ids, logits):
    return logits.argmax(-1).item()


def _sampler(model, sampling, seed):
    """A function (ids so far, logits (1, V)) -> the next token, drawn as GenerationConfig's options say."""
    from transformers.generation import logits_process

    wanted = {
        "repetition_penalty": logits_process.RepetitionPenaltyLogitsProcessor,
        "temperature": logits_process.TemperatureLogitsWarper,
        "top_p": logits_process.TopPLogitsWarper,
    }
    # They refuse 2 where they mean 2.0.
    processors = [make(float(sampling[name])) for name, make in wanted.items() if sampling.get(name, 1) != 1]
    generator = torch.Generator(model.device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)

    def draw(ids, logits):
        before = torch.tensor([ids], device=model.device)
        for process in processors:
            logits = process(before, logits)
        return torch.multinomial(logits.softmax(-1), 1, generator=generator).item()

    return draw
