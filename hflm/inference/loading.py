"""Load a model to ask it."""

from typing import TYPE_CHECKING, Any

from hflm.core.arithmetic import at_hand, inference_dtype
from hflm.models import load_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def load_for_inference(
    path: str, revision: str | None = None, dtype: str | None = None
) -> "tuple[Any, PreTrainedTokenizerFast]":
    """(model, tokenizer): the model in eval mode on the accelerator, if there is one, else on the CPU.

    dtype: "float32" (None), "bfloat16", "float16", or "auto", the fastest of the device. Raises ModelError.
    """
    device = at_hand()
    model: Any
    model, tokenizer = load_model(path, revision, inference_dtype(device, dtype)[0])
    return model.to(device).eval(), tokenizer
