"""Export to ONNX."""

import contextlib
import io
import logging
from typing import TYPE_CHECKING, Any

from hflm.core import MissingExtra

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def to_onnx(model: "PreTrainedModel") -> Any:
    """The model as an ONNX graph for any batch and length, with a `save_pretrained` of its own.

    ids and attention mask (B, T) -> logits (B, T, V).
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingExtra("onnx", "writing ONNX") from None
    import torch
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    model.eval().config.use_cache = False
    ids = torch.ones(2, 8, dtype=torch.int64)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    # It prints its progress, and logs which packages for images it misses.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        return OnnxExporter().export(model, inputs, config=OnnxConfig(dynamic_shapes=dict.fromkeys(inputs, axes)))
