"""What a model is made of, from its config alone: the matrices of a block, parameters by part, what an adapter adds.

Known families are GPT-2 and Llama with its close kin. Nothing here imports torch.
"""

import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LLAMAS = ("llama", "mistral", "qwen2", "qwen3")
DEFAULT_TARGETS = {"gpt2": ["c_attn"], **{family: ["q_proj", "v_proj"] for family in LLAMAS}}  # peft's own


@dataclass(frozen=True)
class Linear:
    """One matrix of a block. `name` is its path inside the block, as peft's target_modules match it."""

    name: str
    inputs: int
    outputs: int
    bias: bool

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs + self.bias * self.outputs


@dataclass(frozen=True)
class Shape:
    """A decoder: `n_layer` equal blocks between an embedding and a head."""

    family: str
    vocab_size: int
    n_positions: int
    n_layer: int
    n_embd: int
    n_head: int
    head_dim: int
    linears: tuple[Linear, ...]
    norm: int  # parameters of one norm
    head_norms: int  # parameters of the norms of queries and keys, in one block
    position_table: int  # parameters of the position embeddings
    tied: bool
    activation: str
    dropouts: tuple[float, float, float]  # probabilities: attention, residual, embedding

    @property
    def block(self) -> int:
        """Parameters of the matrices and biases of one block."""
        return sum(linear.parameters for linear in self.linears)

    @property
    def inner(self) -> int:
        """Width of the MLP."""
        return max(linear.outputs for linear in self.linears if linear.name.startswith("mlp."))


def of(config: Mapping[str, Any]) -> Shape | None:
    """The Shape of a config.json's content, or None for an architecture that is not known here."""
    kind = config.get("model_type", "gpt2")
    if kind == "gpt2":
        return _gpt2(**config)
    return _llama(config) if kind in LLAMAS else None


def _gpt2(
    vocab_size: int = 50257, n_positions: int = 1024, n_embd: int = 768, n_layer: int = 12, n_head: int = 12,
    n_inner: int | None = None, activation_function: str = "gelu_new", resid_pdrop: float = 0.1, embd_pdrop: float = 0.1,
    attn_pdrop: float = 0.1, tie_word_embeddings: bool = True, **_: Any,
) -> Shape:  # fmt: skip
    inner = n_inner or 4 * n_embd
    return Shape(
        family="gpt2",
        vocab_size=vocab_size,
        n_positions=n_positions,
        n_layer=n_layer,
        n_embd=n_embd,
        n_head=n_head,
        head_dim=n_embd // n_head,
        linears=(
            Linear("attn.c_attn", n_embd, 3 * n_embd, True),
            Linear("attn.c_proj", n_embd, n_embd, True),
            Linear("mlp.c_fc", n_embd, inner, True),
            Linear("mlp.c_proj", inner, n_embd, True),
        ),
        norm=2 * n_embd,
        head_norms=0,
        position_table=n_positions * n_embd,
        tied=tie_word_embeddings,
        activation=activation_function,
        dropouts=(attn_pdrop, resid_pdrop, embd_pdrop),
    )


def _llama(config: Mapping[str, Any]) -> Shape:
    width, heads, inner = config["hidden_size"], config["num_attention_heads"], config["intermediate_size"]
    kv_heads = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or width // heads
    qkv = config["model_type"] == "qwen2" or config.get("attention_bias", False)
    out, mlp = config.get("attention_bias", False), config.get("mlp_bias", False)
    return Shape(
        family=config["model_type"],
        vocab_size=config["vocab_size"],
        n_positions=config.get("max_position_embeddings", 2048),
        n_layer=config["num_hidden_layers"],
        n_embd=width,
        n_head=heads,
        head_dim=head,
        linears=(
            Linear("self_attn.q_proj", width, heads * head, qkv),
            Linear("self_attn.k_proj", width, kv_heads * head, qkv),
            Linear("self_attn.v_proj", width, kv_heads * head, qkv),
            Linear("self_attn.o_proj", heads * head, width, out),
            Linear("mlp.gate_proj", width, inner, mlp),
            Linear("mlp.up_proj", width, inner, mlp),
            Linear("mlp.down_proj", inner, width, mlp),
        ),
        norm=width,
        head_norms=2 * head if config["model_type"] == "qwen3" else 0,
        position_table=0,
        tied=config.get("tie_word_embeddings", False),
        activation=config.get("hidden_act", "silu"),
        dropouts=(config.get("attention_dropout", 0.0), 0.0, 0.0),
    )


def parameters(shape: Shape) -> dict[str, int]:
    """{part: parameters} of the whole model, exact; a tied head is its embedding and counts once."""
    mlp = sum(linear.parameters for linear in shape.linears if linear.name.startswith("mlp."))
    return {
        "embeddings": shape.vocab_size * shape.n_embd + shape.position_table,
        "attention": shape.n_layer * (shape.block - mlp),
        "mlp": shape.n_layer * mlp,
        "norms": (2 * shape.n_layer + 1) * shape.norm + shape.n_layer * shape.head_norms,
        "head": 0 if shape.tied else shape.vocab_size * shape.n_embd,
    }


def total_parameters(shape: Shape) -> int:
    """Parameters of the whole model.

    >>> total_parameters(of({"n_layer": 12, "n_embd": 768, "n_head": 12}))
    124439808
    """
    return sum(parameters(shape).values())


def adapted(shape: Shape, adapter: Mapping[str, Any]) -> Iterator[tuple[int, Linear, int]]:
    """Yields (layer, Linear, rank) for each matrix that peft's LoraConfig `adapter` puts an adapter on."""
    targets = adapter.get("target_modules") or DEFAULT_TARGETS[shape.family]
    layers = adapter.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers
    prefix = "transformer.h" if shape.family == "gpt2" else "model.layers"
    for layer in range(shape.n_layer):
        if layers is not None and layer not in layers:
            continue
        for linear in shape.linears:
            name = f"{prefix}.{layer}.{linear.name}"
            if _matches(name, targets) and not _matches(name, adapter.get("exclude_modules") or []):
                ranks = adapter.get("rank_pattern") or {}
                own = [rank for pattern, rank in ranks.items() if re.fullmatch(rf"(.*\.)?({pattern})", name)]
                yield layer, linear, own[0] if own else adapter.get("r", 8)


def adapter_parameters(shape: Shape, adapter: Mapping[str, Any]) -> int:
    """Trainable parameters of an adapter: A (r, in) and B (out, r) a matrix, and DoRA's magnitude (out)."""
    more = bool(adapter.get("use_dora")) + bool(adapter.get("lora_bias"))
    return sum(
        rank * (linear.inputs + linear.outputs) + more * linear.outputs for _, linear, rank in adapted(shape, adapter)
    )


def _matches(name: str, targets: str | Sequence[str]) -> bool:
    """peft's rule: a text is `all-linear` or a pattern for the whole name, a list holds the ends of names."""
    if isinstance(targets, str):
        return targets.lower() == "all-linear" or re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def stored_parameters(folder: str | Path) -> int | None:
    """The number of parameters in a folder's safetensors files, read from their headers, or None without any."""
    files = sorted(Path(folder).glob("*.safetensors"))
    total = 0
    for file in files:
        with open(file, "rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                count = 1
                for size in tensor["shape"]:
                    count *= size
                total += count
    return total if files else None
