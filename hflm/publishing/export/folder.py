"""Export a model as a folder, a GGUF file or an ONNX graph.

    folder   safetensors and tokenizer, as transformers and `from:` read them
    gguf     one file for llama.cpp and what is built on it (the extra `gguf`): GPT-2 and Llama with byte-level BPE
    onnx     a folder with model.onnx for ONNX Runtime (the extra `onnx`): ids in, logits out, without a cache

Each gives the same greedy text as the model here, up to the rounding of its dtype.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hflm.core import UserError, format_bytes, last_path_part, logger
from hflm.models import load_model, save_pretrained
from hflm.publishing.export.loss import loss_texts, mean_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Format = Literal["folder", "gguf", "onnx"]


def export_model(
    path: str,
    form: Format = "folder",
    output: str | Path | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
) -> Path:
    """Write the model at `path` (a run, a folder, a .gguf file, a Hub id) as `form` and return where.

    `dtype` is float32, float16 or bfloat16, by default that of the saved weights; `quantize` is one of gguf.QUANTIZED.
    Without `output` it is written in the run's export/. Raises ModelError for what the format cannot hold, and
    UserError for an `output` that exists.
    """
    if quantize is not None and form != "gguf":
        raise UserError(f"--quantize {quantize} is for --to gguf; a {form} takes --dtype")
    name = Path(path).resolve().name if Path(path).exists() else last_path_part(path)
    if output is None:
        folder = Path(path) / "export" if Path(path).is_dir() else Path("export")
        gguf_name = f"{name}-{quantize}.gguf" if quantize else f"{name}.gguf"
        output = folder / {"folder": name, "gguf": gguf_name, "onnx": f"{name}-onnx"}[form]
    elif form != "gguf" and Path(output).exists():
        raise UserError(f"{output} exists already. Remove it, or name another folder by --output")
    elif form == "gguf" and Path(output).is_dir():
        raise UserError(f"{output} is a folder. Name a file by --output")
    model, tokenizer = load_model(path, dtype=dtype or "auto")
    trim_vocabulary(model, tokenizer)
    output = Path(output)
    if form == "gguf":
        _export_gguf(model, tokenizer, path, output, name, quantize)
    elif form == "onnx":
        from hflm.publishing.export.onnx import to_onnx

        save_pretrained(output, to_onnx(model), tokenizer)
    else:
        save_pretrained(output, model, tokenizer)
    return output


def _export_gguf(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerFast",
    path: str,
    output: Path,
    name: str,
    quantize: str | None,
) -> None:
    """Write the GGUF file; with `quantize` report what it costs in loss."""
    from hflm.publishing.export.gguf import write_gguf

    if quantize is None:
        write_gguf(model, tokenizer, output, name)
        return
    described, texts = loss_texts(path)
    dtype, before = str(model.dtype).removeprefix("torch."), mean_loss(model, tokenizer, texts)
    write_gguf(model, tokenizer, output, name, quantize)  # the model has the file's weights afterwards
    after = mean_loss(model, tokenizer, texts)
    size = format_bytes(output.stat().st_size)
    logger.info(
        f"{quantize}: {size}; loss on {described}: {before:.4f} nats per token in {dtype}, {after:.4f} in {quantize} "
        f"({after - before:+.4f})"
    )


def trim_vocabulary(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast") -> "PreTrainedModel":
    """Cut the rows of the embedding that belong to no token; returns the model, whose answers stay the same.

    A vocabulary is padded to a multiple of 64 because matrices of such sizes are multiplied faster.
    """
    entries = max(tokenizer.get_vocab().values()) + 1
    if model.config.vocab_size > entries:
        model.resize_token_embeddings(entries)
    return model
