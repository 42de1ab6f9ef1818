"""Sizes of new models by name: the four published GPT-2s, small ones that a laptop trains, and the same with the parts
that later models have.

The keys are those of the architecture's configuration class in transformers; other keys have its defaults (for a GPT-2
n_positions 1024), or the values of CONFIG_DEFAULTS.
"""

from collections.abc import Mapping
from typing import Any

# The architectures of new models: transformers' class for the configuration of each.
ARCHITECTURES = {"gpt2": "GPT2Config", "llama": "LlamaConfig", "qwen3": "Qwen3Config"}
CONFIG_DEFAULTS: dict[str, dict[str, Any]] = {
    "gpt2": {"activation_function": "gelu_pytorch_tanh"},  # gelu_new's values, in one fused operation
    "llama": {},
    "qwen3": {},
}

# Embeddings with tied weights: merging an adapter would change only one of the two modules that use them.
TIED_MODULES = ("wte", "wpe", "lm_head", "embed_tokens")


def _modern(layers: int, heads: int, width: int, family: str, **more: Any) -> dict[str, Any]:
    """A Llama or Qwen3 whose blocks have as many weights in their matrices as a GPT-2's of the same depth and width.

    Two heads share a key and value head, which leaves 3 width^2 of the attention's 4; the MLP's three matrices of
    width x 3 width have 9 width^2 in place of GPT-2's 8. The head is tied to the embedding, as GPT-2's is.
    """
    return {
        "model_type": family,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": width // heads,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        **more,
    }


_GPT2: dict[str, dict[str, Any]] = {
    # Narrower models train better from larger initial weights.
    "gpt2-nano": {"n_layer": 4, "n_head": 4, "n_embd": 128, "initializer_range": 0.06},
    "gpt2-micro": {"n_layer": 4, "n_head": 4, "n_embd": 256, "initializer_range": 0.06},
    "gpt2-mini": {"n_layer": 6, "n_head": 6, "n_embd": 384, "initializer_range": 0.05},
    "gpt2-small": {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600},
}
PRESETS: dict[str, dict[str, Any]] = {
    **_GPT2,
    **{
        f"{family}-{size}": _modern(layers, heads, width, family, **more)
        for family in ("llama", "qwen3")
        for size, layers, heads, width, more in (
            ("nano", 4, 4, 128, {"initializer_range": 0.06}),
            ("micro", 4, 4, 256, {"initializer_range": 0.06}),
            ("mini", 6, 6, 384, {"initializer_range": 0.05}),
            ("small", 12, 12, 768, {}),
            ("medium", 24, 16, 1024, {}),
        )
    },
}

# TrainingArguments for pretraining a new model, by measurement. On WikiText-2, 4,096 tokens a step, gpt2-mini reaches
# after 70 steps the validation loss that AdamW with nanoGPT's settings has after 200 (tests/bench/steps_to_loss.py).
# The larger presets were not measured: they keep AdamW.
TRAINING: dict[str, dict[str, Any]] = {
    f"{family}-{size}": {"optim": "muon", "learning_rate": rate}
    for family in ARCHITECTURES
    for size, rate in (("nano", 5e-3), ("micro", 5e-3), ("mini", 4e-3))
}


def architecture_of(model: Mapping[str, Any]) -> str | None:
    """The architecture of a new model from the recipe's keys `preset` and `architecture`, or None.

    >>> architecture_of({"preset": "llama-nano"}), architecture_of({"preset": "gpt2-nano"})
    ('llama', 'gpt2')
    """
    preset = model.get("preset")
    if isinstance(preset, str) and preset in PRESETS:
        return PRESETS[preset].get("model_type", "gpt2")
    named = model.get("architecture")
    return named if isinstance(named, str) and named in ARCHITECTURES else None


def preset_training_args(preset: str | None, args: dict[str, Any]) -> dict[str, Any]:
    """`args` over the preset's own, unless they name an `optim`.

    >>> preset_training_args("gpt2-mini", {"max_steps": 100})
    {'optim': 'muon', 'learning_rate': 0.004, 'max_steps': 100}
    """
    return args if "optim" in args else {**TRAINING.get(preset or "", {}), **args}
