"""GPT-2 sizes by name: the four published ones, and three small ones that a laptop trains.

The keys are GPT2Config's own; anything not said here is GPT2Config's default (n_positions 1024, vocab_size 50257).
"""

PRESETS = {
    "gpt2-nano": {"n_layer": 4, "n_head": 4, "n_embd": 128},
    "gpt2-micro": {"n_layer": 4, "n_head": 4, "n_embd": 256},
    "gpt2-mini": {"n_layer": 6, "n_head": 6, "n_embd": 384},
    "gpt2-small": {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600},
}


def parameters(n_layer, n_embd, vocab_size=50257, n_positions=1024, n_inner=None, **_):
    """Trainable parameters of a GPT2LMHeadModel with tied embeddings, exact.

    A block holds two layer norms (4E), attention (E x 3E + 3E, E x E + E) and the MLP (E x I + I, I x E + E).

    >>> parameters(**PRESETS["gpt2-small"])
    124439808
    """
    inner = n_inner or 4 * n_embd
    block = 4 * n_embd + (3 * n_embd**2 + 3 * n_embd) + (n_embd**2 + n_embd) + (2 * n_embd * inner + inner + n_embd)
    return vocab_size * n_embd + n_positions * n_embd + n_layer * block + 2 * n_embd
