"""`hflm generate`: continue a prompt with any model."""

import json
import warnings
from typing import Any

from hflm.core import UserError
from hflm.inference.loading import load_for_inference
from hflm.inference.stopping import begin_token
from hflm.models import context_length
from hflm.preprocessing import encode, first_line
from hflm.recipe.generation_options import BEAMS, SAMPLING

DEFAULT_LENGTH = 200  # tokens, prompt included


def generate_texts(
    model: str,
    prompt: str,
    options: dict[str, Any],
    seed: int | None = None,
    revision: str | None = None,
    dtype: str | None = None,
) -> list[str]:
    """The continuations of `prompt`, prompt included, one a sequence; `options` are GenerationConfig's.

    The model runs on the accelerator if there is one, in `dtype` (see load_for_inference). Options that have no effect
    with the others are warned of. Several sequences without beams are sampled, since greedy search has only one. A text
    ends where the model's context does. Raises UserError for options that transformers refuses, and for a prompt that fills the context.
    """
    import torch
    from accelerate.utils import set_seed

    loaded, tokenizer = load_for_inference(model, revision, dtype)
    if seed is not None:
        set_seed(seed)
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise UserError("the prompt is not UTF-8") from None
    ids = encode(tokenizer, [prompt])[0] or [begin_token(tokenizer)]
    options = _with_length(options, len(ids), context_length(loaded))
    if options.get("num_return_sequences", 1) > 1 and options.get("num_beams", 1) == 1:
        options.setdefault("do_sample", True)
    _warn_without_effect(options)
    try:
        sequences = loaded.generate(
            torch.tensor([ids], device=loaded.device),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64, device=loaded.device),
            tokenizer=tokenizer,
            **{"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, **options},
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"generation options: {first_line(error)}") from error
    return [str(tokenizer.decode(sequence, skip_special_tokens=True)) for sequence in sequences]


def _warn_without_effect(options: dict[str, Any]) -> None:
    """Warn of options that transformers reads only together with others."""
    checks = (
        (SAMPLING, options.get("do_sample"), "the most likely token is taken. Set do_sample to true to sample"),
        (BEAMS, options.get("num_beams", 1) > 1, "there is one beam. Set num_beams above 1 to search with several"),
    )
    for neutral, has_effect, reason in checks:
        ignored = [name for name, value in neutral.items() if options.get(name) not in (None, value)]
        if ignored and not has_effect:
            warnings.warn(f"{' and '.join(ignored)}: without effect, because {reason}", stacklevel=4)


def format_texts(prompt: str, texts: list[str], as_json: bool) -> list[str]:
    """The lines that `hflm generate` prints: JSON objects, or the texts, numbered if there are several."""
    if as_json:
        return [json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False) for text in texts]
    return [f"{number}: {text}" for number, text in enumerate(texts, 1)] if len(texts) > 1 else texts


def _with_length(options: dict[str, Any], prompt_length: int, context_length: int) -> dict[str, Any]:
    """The options with a `max_length` or `max_new_tokens` that the model's context has room for."""
    if prompt_length >= context_length:
        raise UserError(f"the prompt has {prompt_length} tokens, the model's context only {context_length}")
    if "max_new_tokens" in options:
        length = prompt_length + options["max_new_tokens"]
    else:
        length = options.get("max_length", min(DEFAULT_LENGTH, context_length))
    if length > context_length:
        warnings.warn(
            f"the model's context is {context_length} tokens: the text ends there, not at {length}", stacklevel=3
        )
        return {**{k: v for k, v in options.items() if k != "max_new_tokens"}, "max_length": context_length}
    return options if "max_new_tokens" in options else {**options, "max_length": length}
