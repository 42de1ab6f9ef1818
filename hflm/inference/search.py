"""Answers by transformers' `generate`: beam search, sampling and penalties, the same in any batch.

The prompts of a batch have different lengths and are padded, and matrix products of different shapes round differently.
That would decide between two beams, or two tokens, whose scores are almost equal. Weights in float32 therefore compute
in float64 here, whose differences vanish when generate rounds its logits to float32. A sampled row draws from a random
generator of its own.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from hflm.inference.stopping import cut_at_stop, padding_token

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@contextlib.contextmanager
def reproducible(model: "PreTrainedModel", widen: bool = True) -> Iterator[None]:
    """Let `model` compute in float64 where its weights are float32, and ignore its own generation settings.

    On MPS, which has no float64, for weights in 16 bits and without `widen` the number format stays as it is.
    """
    widened = widen and model.dtype == torch.float32 and model.device.type != "mps"
    settings = model.generation_config
    # The end tokens are given with each batch.
    model.generation_config = GenerationConfig()
    try:
        if widened:
            _convert(model, torch.float64)
        yield
    finally:
        if widened:
            _convert(model, torch.float32)
        model.generation_config = settings


def _convert(model: "PreTrainedModel", dtype: torch.dtype) -> None:
    with torch.inference_mode(False), torch.no_grad():  # its tensors could not be trained any more
        model.to(dtype)  # type: ignore[call-arg]


def search_texts(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerFast",
    prompts: Sequence[list[int]],
    options: Mapping[str, Any],
    max_new_tokens: int,
    stop: Sequence[str],
    ends: Collection[int],
    seeds: Sequence[int],
) -> list[str]:
    """The answer to each of B prompts (token ids), cut before the first stop string, without outer white space.

    options: GenerationConfig's (hflm.recipe.decoding); ends: the tokens that end an answer; seeds: of each row, read where `do_sample` is set. Call it under
    `reproducible(model)`.
    """
    length = max(map(len, prompts))
    padding = padding_token(tokenizer)
    ids = [[padding] * (length - len(row)) + row for row in prompts]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in prompts]
    inputs = {
        "inputs": torch.tensor(ids, device=model.device),
        "attention_mask": torch.tensor(mask, device=model.device),
    }
    lengths = {"max_new_tokens": max_new_tokens, "eos_token_id": sorted(ends), "pad_token_id": padding}
    config = GenerationConfig(**options, **lengths)
    processors = LogitsProcessorList()
    generate: Any = model.generate
    if config.do_sample:
        processors = generate(**inputs, generation_config=config, custom_generate=_processors, synced_gpus=False)
        processors.append(GumbelNoise(seeds))
        config = GenerationConfig(**lengths)
    sequences = generate(
        **inputs,
        generation_config=config,
        logits_processor=processors,
        stopping_criteria=StoppingCriteriaList([AtStopString(tokenizer, length, stop)] if stop else []),
        synced_gpus=False,  # each process answers rows of its own, also with a model that FSDP2 divides
    )
    texts = tokenizer.batch_decode(sequences[:, length:], skip_special_tokens=True)
    return [cut_at_stop(text, stop).strip() for text in texts]


def _processors(model: Any, input_ids: Any, logits_processor: LogitsProcessorList, **_: Any) -> LogitsProcessorList:
    """A decoding method that decodes nothing: what `generate` makes of its options, temperature and top-p included."""
    return logits_processor


class GumbelNoise(LogitsProcessor):
    """Adds -log E, E ~ Exp(1), to each logit: the largest sum is a sample of the softmax (the Gumbel-max trick).

    Each row draws from a generator of its own, on the CPU, so that its noise depends on its seed alone.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """scores (B, V), the last processor's."""
        draws = [
            torch.empty(scores.shape[1], dtype=torch.float64).exponential_(generator=each) for each in self.generators
        ]
        return scores - torch.stack(draws).log().to(scores)


class AtStopString(StoppingCriteria):
    """Ends a row once a stop string follows the first `start` tokens, as `cut_at_stop` finds it."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", start: int, stop: Sequence[str]) -> None:
        self.tokenizer, self.start, self.stop = tokenizer, start, stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.start :], skip_special_tokens=True)
        return torch.tensor([cut_at_stop(text, self.stop) != text for text in texts], device=input_ids.device)
