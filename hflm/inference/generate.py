"""`hflm generate`: continue a prompt with any model."""

import json
import re
import warnings
from typing import Any

from hflm.core import UserError
from hflm.inference.loading import load_for_inference
from hflm.models import context_length
from hflm.preprocessing import encode_prompts, first_line

# What GenerationConfig.validate does not know, since it depends on the model and the call: options that have an effect only
# with one of the others, or with none, as one model without an encoder continues one prompt and returns its text alone.
WITHOUT_EFFECT: dict[str, tuple[str, ...]] = {
    "max_matching_ngram_size": ("prompt_lookup_num_tokens",),
    "num_assistant_tokens": ("assistant_early_exit",),
    "num_assistant_tokens_schedule": ("assistant_early_exit",),
    "assistant_confidence_threshold": ("assistant_early_exit",),
    "assistant_ensemble_weight": ("assistant_early_exit",),
    "assistant_lookbehind": (),
    "target_lookbehind": (),
    "cache_config": ("cache_implementation",),
    "max_cache_len": ("cache_implementation",),
    "bos_token_id": (),
    "decoder_start_token_id": (),
    "return_dict_in_generate": (),
    "output_attentions": (),
    "output_hidden_states": (),
    "output_logits": (),
    "output_scores": (),
}
OVERRULED = {"max_length": "max_new_tokens", "min_length": "min_new_tokens"}
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
    ids = encode_prompts(tokenizer, [prompt])[0]
    if options.get("num_return_sequences", 1) > 1 and options.get("num_beams", 1) == 1:
        options = {"do_sample": True, **options}
    options = _with_effect(options)
    options = _with_length(options, len(ids), context_length(loaded))
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


def _with_effect(options: dict[str, Any]) -> dict[str, Any]:
    """The options that have an effect on a text, with a warning of each other one."""
    reasons = _contradictions(options)
    for name, others in WITHOUT_EFFECT.items():
        if options.get(name) not in (None, False) and not any(options.get(other) for other in others):
            needed = (
                f"set {' or '.join(others)} as well" if others else "of one prompt, one model writes the text alone"
            )
            reasons.setdefault(name, needed)
    for name, other in OVERRULED.items():
        if options.get(name) is not None and options.get(other) is not None:
            reasons[name] = f"{other} is set, and goes first"
    for name, reason in reasons.items():
        warnings.warn(f"{name}: without effect: {reason}", stacklevel=4)
    return {name: value for name, value in options.items() if name not in reasons}


def _contradictions(options: dict[str, Any]) -> dict[str, str]:
    """{option: the reason} of those that GenerationConfig finds without effect, such as a temperature without sampling."""
    from transformers import GenerationConfig

    try:
        GenerationConfig(**options).validate(strict=True)
    except (ValueError, TypeError) as error:  # what is wrong, and no mere contradiction, `generate` refuses
        return dict(re.findall(r"^- `(\w+)`: (.*)$", str(error), re.MULTILINE))
    return {}


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
