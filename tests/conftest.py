"""Small things that many tests share: a tiny world, a tokenizer and a model over it."""

import os

# Tests never ask a network for a model or a data set.
os.environ["HF_HUB_OFFLINE"] = "1"
# Two workers of pytest-xdist on two cores: one thread each, in the processes that they start, too.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

TEXTS = [
    f"The {animal} saw the {thing} in the {place}."
    for animal in ("dog", "cat", "fox")
    for thing in ("key", "cup", "hat")
    for place in ("barn", "mill", "park")
]

# Labels whose texts, and mostly their tokens, begin another label's.
LABELS_THAT_BEGIN_ANOTHER = [
    ("1", "2", "10", "1/10"),
    ("good", "good enough", "not good"),
    ("A", "A+", "A-", "B"),
    ("no", "none", "no one"),
    ("C", "C#", "C++", "c"),
    ("\u597d", "\u597d\u7684", "\u4e0d\u597d"),
]


@pytest.fixture(scope="session")
def tokenizer():
    from hflm.preprocessing import train_tokenizer

    return train_tokenizer(TEXTS, "bpe", 320)


SIZES = {  # of tiny models: 2 layers, 32 dimensions, no dropout, a context of 64
    "gpt2": {
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 32,
        "n_positions": 64,
        "attn_pdrop": 0,
        "embd_pdrop": 0,
        "resid_pdrop": 0,
    },
    "llama": {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "hidden_size": 32,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    },
}
SIZES["qwen3"] = {**SIZES["llama"], "model_type": "qwen3", "head_dim": 16}


@pytest.fixture
def architecture():
    """Of `tiny`. A module whose tests hold for all architectures has a fixture of this name with all as parameters."""
    return "gpt2"


@pytest.fixture
def tiny(tokenizer, architecture):
    """A fresh model of SIZES."""
    import torch

    from hflm.models import build_model

    torch.manual_seed(0)
    return build_model(SIZES[architecture], tokenizer)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """The CPU, in the suite of everybody, and a GPU where there is one: the tests in tests/gpu."""
    return _device(request.param)


@pytest.fixture(params=[pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)])
def device_of_run(request):
    """Of tests that start whole runs."""
    return _device(request.param)


def _device(name):
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA or ROCm GPU")
    return torch.device(name)
