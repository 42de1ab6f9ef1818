"""`hflm export`: a model in the format of another tool, any adapter merged, the vocabulary cut to the tokenizer's.

    folder   safetensors and tokenizer, as transformers and `from:` read them
    gguf     one file for llama.cpp and what is built on it (the extra `gguf`): GPT-2 and Llama with byte-level BPE
    onnx     a folder with model.onnx for ONNX Runtime (the extra `onnx`): ids in, logits out, without a cache

Each gives the same greedy text as the model here, up to the rounding of its dtype.
"""

import contextlib
import io
import json
import logging
import os
from pathlib import Path

from hflm.core import MissingExtra, ModelError, UserError, last_path_part
from hflm.models import load_model, save_pretrained

# What tokenizer.json says about the cutting of text, less its defaults -> llama.cpp's name for the same.
PRE_TOKENIZERS = {
    '[{"add_prefix_space": false, "type": "ByteLevel"}]': "gpt-2",
    '[{"individual_digits": true, "type": "Digits"}, {"add_prefix_space": false, "type": "ByteLevel"}]': "smollm",
}


def export(path, form="folder", output=None, dtype=None):
    """Write the model at `path` (a run, or what `model.load` takes) as `form` and return where.

    `form` is folder, gguf or onnx; `dtype` is float32, float16 or bfloat16, by default that of the saved weights.
    Without `output` it is written in the run's export/. Raises ModelError for what the format cannot hold, and
    UserError for an `output` that exists.
    """
    name = Path(path).resolve().name if Path(path).exists() else last_path_part(path)
    if output is None:
        folder = Path(path) / "export" if Path(path).is_dir() else Path("export")
        output = folder / {"folder": name, "gguf": f"{name}.gguf", "onnx": f"{name}-onnx"}[form]
    elif form != "gguf" and Path(output).exists():
        raise UserError(f"{output} exists already. Remove it, or name another folder by --output")
    elif form == "gguf" and Path(output).is_dir():
        raise UserError(f"{output} is a folder. Name a file by --output")
    model, tokenizer = load_model(path, dtype=dtype or "auto")
    cut(model, tokenizer)
    if form == "gguf":
        write_gguf(model, tokenizer, output, name)
    else:
        save_pretrained(output, traced(model) if form == "onnx" else model, tokenizer)
    return output


def cut(model, tokenizer):
    """Cut the rows of the embedding that belong to no token; returns the model, whose answers stay as they were.

    A vocabulary is padded to a multiple of 64 because matrices of such sizes are multiplied faster.
    """
    entries = max(tokenizer.get_vocab().values()) + 1
    if model.config.vocab_size > entries:
        model.resize_token_embeddings(entries)
    return model


def traced(model):
    """The model as an ONNX graph for any batch and length, with a `save_pretrained` of its own.

    ids and attention mask (B, T) -> logits (B, T, V).
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingExtra("onnx", "writing ONNX") from None
    import torch
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    model.eval().config.use_cache = False
    ids = torch.ones(2, 8, dtype=torch.int64)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    # It prints its progress, and logs which packages for pictures it misses.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        return OnnxExporter().export(model, inputs, config=OnnxConfig(dynamic_shapes=dict.fromkeys(inputs, axes)))


def write_gguf(model, tokenizer, path, name):
    """Write the GGUF file `path`, whole or not at all.

    Matrices keep the model's dtype; vectors and positions are in float32, as llama.cpp computes with them. Raises
    ModelError for an architecture, a setting or a tokenizer that llama.cpp would read as something else.
    """
    try:
        import gguf
    except ImportError:
        raise MissingExtra("gguf", "writing a .gguf file") from None

    config = model.config
    describe = {"gpt2": _gpt2, "llama": _llama}.get(config.model_type)
    if describe is None:
        raise ModelError(f"a {config.model_type} cannot be written as GGUF here, only a gpt2 or a llama")
    tokens = _tokens(tokenizer)  # before the file is begun: it may be refused
    kinds = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    kind = kinds[str(model.dtype).removeprefix("torch.")]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        writer = gguf.GGUFWriter(partial, config.model_type)
        writer.add_name(name)
        writer.add_file_type({"F32": gguf.LlamaFileType.ALL_F32, "F16": gguf.LlamaFileType.MOSTLY_F16}.get(kind, 32))
        layers, reorder = describe(writer, config)
        for key, value in tokens.items():
            getattr(writer, f"add_{key}")(value)
        names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, config.model_type.upper()), layers)
        for key, tensor in model.named_parameters():  # a tied output matrix is not named twice
            target = names.get_name(key, try_suffixes=(".weight", ".bias"))
            array = reorder(key, tensor.detach().float().cpu().numpy())
            vector = array.ndim == 1 or target == "position_embd.weight"
            as_kind = gguf.GGMLQuantizationType["F32" if vector else kind]
            writer.add_tensor(target, gguf.quants.quantize(array, as_kind), raw_dtype=as_kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _gpt2(writer, config):
    """Describe a GPT-2: (its layers, what to do with each matrix). Conv1D stores them transposed."""
    plain = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
    _check(config, plain | {"activation_function": ("gelu_new", "gelu_pytorch_tanh")})
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    return config.n_layer, lambda key, array: array.T if ".c_" in key and array.ndim == 2 else array


def _llama(writer, config):
    """Describe a Llama: (its layers, what to do with each matrix). llama.cpp rotates neighbours, not halves."""
    _check(config, {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False})
    rope = config.rope_parameters
    if rope["rope_type"] != "default":
        raise ModelError(f"rope_type {rope['rope_type']}: only the default one can be written as GGUF here")
    heads = {"q_proj.weight": config.num_attention_heads, "k_proj.weight": config.num_key_value_heads}
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(config.vocab_size)

    def reorder(key, array):
        for name, count in heads.items():
            if key.endswith(name):
                return array.reshape(count, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        return array

    return config.num_hidden_layers, reorder


def _check(config, expected):
    """llama.cpp has one form of each architecture. Raises ModelError for a setting that makes another one."""
    for key, wanted in expected.items():
        found = getattr(config, key)
        if found not in (wanted if isinstance(wanted, tuple) else (wanted,)):
            raise ModelError(
                f"{key} {found!r} cannot be written as GGUF: llama.cpp's {config.model_type} knows no such"
            )


def _tokens(tokenizer):
    """What GGUF says of a tokenizer: {GGUFWriter's add_... method: its value}. Raises ModelError.

    No text gets a begin-of-text token by itself: hflm's models are trained and asked without one.
    """
    import gguf

    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    cutting = backend["pre_tokenizer"] or {}
    steps = cutting["pretokenizers"] if cutting.get("type") == "Sequence" else [cutting]
    for step in steps:
        step.pop("trim_offsets", None)
        if step.get("use_regex") is True:
            del step["use_regex"]
    pre = PRE_TOKENIZERS.get(json.dumps(steps, sort_keys=True))
    merging = backend["model"]
    if merging["type"] != "BPE" or pre is None or backend["normalizer"] or merging.get("ignore_merges"):
        raise ModelError(
            "this tokenizer cannot be written as GGUF here, only byte-level BPE that cuts its text as GPT-2 "
            "(tokenizer.train.algorithm: bpe) or SmolLM do"
        )
    added = {token["id"]: token["special"] for token in backend["added_tokens"]}
    spelt = {number: token for token, number in tokenizer.get_vocab().items()}
    numbers = range(max(spelt) + 1)
    kinds = gguf.TokenType
    types = [
        kinds.UNUSED if number not in spelt
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
        "token_list": [spelt.get(number, f"[PAD{number}]") for number in numbers],
        "token_types": types,
        "token_merges": [" ".join(pair) for pair in merging["merges"]],
        "add_bos_token": False,
        "add_eos_token": False,
        **special,
        **({"chat_template": tokenizer.chat_template} if isinstance(tokenizer.chat_template, str) else {}),
    }
