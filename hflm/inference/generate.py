"""`hflm generate`: continue a prompt with any model."""

import json
import warnings

from hflm.core import UserError
from hflm.models import load as models
from hflm.preprocessing import encode, first_line


def generate(model, prompt, options):
    """Print the continuations of `prompt`; `options` are GenerationConfig's, and seed, revision and json.

    Several sequences without beams are sampled, since greedy search knows only one. Raises UserError for options that
    transformers refuses.
    """
    for text in texts(model, prompt, options):
        print(text)


def texts(model, prompt, options):
    """The lines that `generate` prints: one text (or JSON object) a sequence, prompt included."""
    import torch
    from accelerate.utils import set_seed

    options = dict(options)
    seed, as_json = options.pop("seed", None), options.pop("json", False)
    loaded, tokenizer = models.load(model, options.pop("revision", None))
    if seed is not None:
        set_seed(seed)
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UserError("the prompt is not UTF-8") from None
    ids = encode(tokenizer, [prompt])[0] or [tokenizer.bos_token_id or tokenizer.eos_token_id]
    if options.get("num_return_sequences", 1) > 1 and options.get("num_beams", 1) == 1:
        options.setdefault("do_sample", True)
    room = models.context_length(loaded)
    if len(ids) >= room:
        raise UserError(f"the prompt has {len(ids)} tokens, the model's context only {room}")
    if "max_new_tokens" in options:
        longest = len(ids) + options["max_new_tokens"]
    else:
        longest = options.setdefault("max_length", min(200, room))
    if longest > room:
        warnings.warn(f"the model's context is {room} tokens: the text ends there, not at {longest}", stacklevel=2)
        options["max_length"] = room
        options.pop("max_new_tokens", None)
    try:
        sequences = loaded.eval().generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            tokenizer=tokenizer,
            **{"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, **options},
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"generation options: {first_line(error)}") from error
    decoded = [tokenizer.decode(sequence, skip_special_tokens=True) for sequence in sequences]
    if as_json:
        return [json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False) for text in decoded]
    if len(decoded) > 1:
        return [f"{number}: {text}" for number, text in enumerate(decoded, 1)]
    return decoded
