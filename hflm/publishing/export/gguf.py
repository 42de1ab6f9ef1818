"""Export to GGUF, the file format of llama.cpp."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hflm.core import MissingExtra, ModelError

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

# What tokenizer.json says about the splitting of text, less its defaults -> llama.cpp's name for the same.
PRE_TOKENIZERS = {
    '[{"add_prefix_space": false, "type": "ByteLevel"}]': "gpt-2",
    '[{"individual_digits": true, "type": "Digits"}, {"add_prefix_space": false, "type": "ByteLevel"}]': "smollm",
}
QUANTIZED = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")  # those that the package gguf can write; 32 weights a block


@dataclass(frozen=True)
class Layout:
    """How GGUF stores an architecture: `reorder(name, matrix)` gives its form, `restore` undoes that."""

    layers: int
    reorder: "Callable[[str, np.ndarray], np.ndarray]"
    restore: "Callable[[str, np.ndarray], np.ndarray]"


def write_gguf(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerFast",
    path: str | Path,
    name: str,
    quantize: str | None = None,
) -> Path:
    """Write the GGUF file `path` atomically.

    Matrices keep the model's dtype, or take `quantize` (one of QUANTIZED) where their rows are whole blocks; the
    embedding takes at least q8_0, since it is the output matrix too. Vectors and positions are in float32, as llama.cpp
    computes with them. With `quantize` the model's own weights become those of the file. Raises ModelError for an
    architecture, a setting or a tokenizer that llama.cpp would read as something else.
    """
    try:
        import gguf
    except ImportError:
        raise MissingExtra("gguf", "writing a .gguf file") from None
    config = model.config
    describe = DESCRIBE.get(config.model_type)
    if describe is None:
        known = ", ".join(DESCRIBE)
        raise ModelError(f"a {config.model_type} cannot be written as GGUF here, only one of: {known}")
    fields = _tokenizer_fields(tokenizer)  # before the file is begun: it may be refused
    plain = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[str(model.dtype).removeprefix("torch.")]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        writer = gguf.GGUFWriter(partial, config.model_type)
        writer.add_name(name)
        kind = "ALL_F32" if plain == "F32" and quantize is None else f"MOSTLY_{(quantize or plain).upper()}"
        writer.add_file_type(gguf.LlamaFileType[kind])
        layout = describe(writer, config)
        for key, value in fields.items():
            getattr(writer, f"add_{key}")(value)
        _add_tensors(writer, model, layout, plain, quantize)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _add_tensors(
    writer: "GGUFWriter", model: "PreTrainedModel", layout: Layout, plain: str, quantize: str | None
) -> None:
    """Add the weights under llama.cpp's names; with `quantize` the model takes those that the file then holds."""
    import gguf
    import torch

    kind = model.config.model_type
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, kind.upper()), layout.layers)
    for key, tensor in model.named_parameters():  # a tied output matrix has no second name
        target = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ModelError(f"{key} has no place in a GGUF file of a {kind}")
        array = layout.reorder(key, tensor.detach().float().cpu().numpy())
        stored_as = _tensor_type(target, array, plain, quantize)
        stored = gguf.quants.quantize(array, stored_as)
        writer.add_tensor(target, stored, raw_dtype=stored_as)
        if quantize is not None:
            restored = layout.restore(key, gguf.quants.dequantize(stored, stored_as).reshape(array.shape))
            tensor.data = torch.from_numpy(restored.copy()).to(tensor.device, tensor.dtype)


def _tensor_type(target: str, array: "np.ndarray", plain: str, quantize: str | None) -> "GGMLQuantizationType":
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    if array.ndim == 1 or target == "position_embd.weight":
        return GGMLQuantizationType.F32
    if quantize is None:
        return GGMLQuantizationType[plain]
    wanted = GGMLQuantizationType["Q8_0" if target in ("token_embd.weight", "output.weight") else quantize.upper()]
    block, _ = GGML_QUANT_SIZES[wanted]
    return wanted if array.shape[1] % block == 0 else GGMLQuantizationType["F16" if plain == "F32" else plain]


def _describe_gpt2(writer: "GGUFWriter", config: "PretrainedConfig") -> Layout:
    """Write a GPT-2's settings. Conv1D stores its matrices transposed."""
    plain = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
    _check(config, plain | {"activation_function": ("gelu_new", "gelu_pytorch_tanh")})
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)

    def transpose(key: str, array: "np.ndarray") -> "np.ndarray":
        return array.T if ".c_" in key and array.ndim == 2 else array

    return Layout(config.n_layer, transpose, transpose)


def _describe_llama(writer: "GGUFWriter", config: "PretrainedConfig") -> Layout:
    """Write a Llama's settings. llama.cpp rotates neighbouring dimensions, transformers the two halves of a head."""
    _check(config, {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False})
    _write_rotary_settings(writer, config)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    heads = {"q_proj.weight": config.num_attention_heads, "k_proj.weight": config.num_key_value_heads}

    def permute(key: str, array: "np.ndarray", halves: bool) -> "np.ndarray":
        for name, count in heads.items():
            if key.endswith(name):
                shape = (count, 2, -1, array.shape[1]) if halves else (count, -1, 2, array.shape[1])
                return array.reshape(shape).swapaxes(1, 2).reshape(array.shape)
        return array

    return Layout(
        config.num_hidden_layers,
        reorder=lambda key, array: permute(key, array, halves=True),
        restore=lambda key, array: permute(key, array, halves=False),
    )


def _describe_qwen3(writer: "GGUFWriter", config: "PretrainedConfig") -> Layout:
    """Write a Qwen3's settings. llama.cpp rotates the halves of its heads, as transformers does."""
    _check(config, {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False})
    _write_rotary_settings(writer, config)
    return Layout(config.num_hidden_layers, reorder=lambda _, array: array, restore=lambda _, array: array)


def _write_rotary_settings(writer: "GGUFWriter", config: "PretrainedConfig") -> None:
    """Write what all models with rotary positions and RMS norms have."""
    rope = config.rope_parameters
    if rope["rope_type"] != "default":
        raise ModelError(f"rope_type {rope['rope_type']}: only the default one can be written as GGUF here")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])


DESCRIBE = {"gpt2": _describe_gpt2, "llama": _describe_llama, "qwen3": _describe_qwen3}


def _check(config: "PretrainedConfig", expected: dict[str, Any]) -> None:
    """Raise ModelError for a setting that llama.cpp, which has one form of each architecture, does not have."""
    for key, wanted in expected.items():
        found = getattr(config, key)
        if found not in (wanted if isinstance(wanted, tuple) else (wanted,)):
            raise ModelError(
                f"{key} {found!r} cannot be written as GGUF: llama.cpp's {config.model_type} has no such setting"
            )


def _tokenizer_fields(tokenizer: "PreTrainedTokenizerFast") -> dict[str, Any]:
    """A tokenizer's fields in GGUF: {GGUFWriter's add_... method: its value}. Raises ModelError.

    No text gets a begin-of-text token by itself: hflm's models are trained and asked without one.
    """
    import gguf

    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    splitting = backend["pre_tokenizer"] or {}
    steps = splitting["pretokenizers"] if splitting.get("type") == "Sequence" else [splitting]
    for step in steps:
        step.pop("trim_offsets", None)
        if step.get("use_regex") is True:
            del step["use_regex"]
    pre = PRE_TOKENIZERS.get(json.dumps(steps, sort_keys=True))
    bpe = backend["model"]
    if bpe["type"] != "BPE" or pre is None or backend["normalizer"] or bpe.get("ignore_merges"):
        raise ModelError(
            "this tokenizer cannot be written as GGUF here, only byte-level BPE that splits its text as GPT-2 "
            "(tokenizer.train.algorithm: bpe) or SmolLM do"
        )
    added = {token["id"]: token["special"] for token in backend["added_tokens"]}
    token_texts = {number: token for token, number in tokenizer.get_vocab().items()}
    numbers = range(max(token_texts) + 1)
    kinds = gguf.TokenType
    types = [
        kinds.UNUSED if number not in token_texts
        else kinds.NORMAL if number not in added
        else kinds.CONTROL if added[number]
        else kinds.USER_DEFINED
        for number in numbers
    ]  # fmt: skip
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id")
        for name in ("bos", "eos", "pad")
        if getattr(tokenizer, f"{name}_token_id") is not None
    }
    return {
        "tokenizer_model": "gpt2",
        "tokenizer_pre": pre,
        "token_list": [token_texts.get(number, f"[PAD{number}]") for number in numbers],
        "token_types": types,
        "token_merges": [" ".join(pair) for pair in bpe["merges"]],
        "add_bos_token": False,
        "add_eos_token": False,
        **special,
        **({"chat_template": tokenizer.chat_template} if isinstance(tokenizer.chat_template, str) else {}),
    }
