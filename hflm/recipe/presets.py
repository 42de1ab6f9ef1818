"""GPT-2 sizes by name: the four published ones, and three small ones that a laptop trains.

The keys are GPT2Config's own; other keys have the values of CONFIG_DEFAULTS, or GPT2Config's defaults (n_positions 1024,
vocab_size 50257).
"""

from typing import Any

CONFIG_DEFAULTS = {"activation_function": "gelu_pytorch_tanh"}  # gelu_new's values, in one fused operation

# Embeddings with tied weights: merging an adapter would change only one of the two modules that use them.
TIED_MODULES = ("wte", "wpe", "lm_head", "embed_tokens")

PRESETS: dict[str, dict[str, Any]] = {
    # Narrower models train better from larger initial weights.
    "gpt2-nano": {"n_layer": 4, "n_head": 4, "n_embd": 128, "initializer_range": 0.06},
    "gpt2-micro": {"n_layer": 4, "n_head": 4, "n_embd": 256, "initializer_range": 0.06},
    "gpt2-mini": {"n_layer": 6, "n_head": 6, "n_embd": 384, "initializer_range": 0.05},
    "gpt2-small": {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600},
}

# TrainingArguments for pretraining a new model, by measurement. On WikiText-2, 4,096 tokens a step, gpt2-mini reaches
# after 70 steps the validation loss that AdamW with nanoGPT's settings has after 200 (tests/bench/steps_to_loss.py).
# The larger presets were not measured: they keep AdamW.
TRAINING: dict[str, dict[str, Any]] = {
    "gpt2-nano": {"optim": "muon", "learning_rate": 5e-3},
    "gpt2-micro": {"optim": "muon", "learning_rate": 5e-3},
    "gpt2-mini": {"optim": "muon", "learning_rate": 4e-3},
}


def preset_training_args(preset: str | None, args: dict[str, Any]) -> dict[str, Any]:
    """`args` over the preset's own, unless they name an `optim`, or `fsdp`, which Muon does not work with.

    >>> preset_training_args("gpt2-mini", {"max_steps": 100})
    {'optim': 'muon', 'learning_rate': 0.004, 'max_steps': 100}
    """
    return args if args.keys() & {"optim", "fsdp"} else {**TRAINING.get(preset or "", {}), **args}
