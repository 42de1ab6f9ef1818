"""GPT-2 sizes by name: the four published ones, and three small ones that a laptop trains.

The keys are GPT2Config's own; anything not said here is in DEFAULTS, or GPT2Config's default (n_positions 1024, vocab_size 50257).
"""

DEFAULTS = {"activation_function": "gelu_pytorch_tanh"}  # the same numbers as gelu_new, in one fused operation

PRESETS = {
    "gpt2-nano": {"n_layer": 4, "n_head": 4, "n_embd": 128},
    "gpt2-micro": {"n_layer": 4, "n_head": 4, "n_embd": 256},
    "gpt2-mini": {"n_layer": 6, "n_head": 6, "n_embd": 384},
    "gpt2-small": {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600},
}
