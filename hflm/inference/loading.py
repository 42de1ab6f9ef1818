"""Load a model to ask it."""

from typing import TYPE_CHECKING, Any

from hflm.core.arithmetic import at_hand
from hflm.models import load_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def load_for_inference(path: str, revision: str | None = None) -> "tuple[Any, PreTrainedTokenizerFast]":
    """(model, tokenizer): the model in eval mode on the accelerator, if there is one, else on the CPU.

    It computes in fp32, not in the fastest format of the device: in bf16 a score would depend on the batch that it is
    computed in. Raises ModelError.
    """
    model: Any
    model, tokenizer = load_model(path, revision)
    return model.to(at_hand()).eval(), tokenizer
