"""`generate`, `score` and `demo` use the device, and give what the CPU gives."""

import pytest
import torch

from hflm.demo import open_session
from hflm.inference import attention_weights, generate_texts, load_for_inference, score_text
from hflm.models import build_model, save_pretrained

TEXT = "The dog saw the key in the barn"


@pytest.fixture
def folder(tokenizer, tmp_path, device, monkeypatch):
    """A model with clear preferences; on the CPU a GPU is left unused."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true" if device.type == "cpu" else "false")
    torch.manual_seed(0)
    config = {"n_layer": 2, "n_head": 2, "n_embd": 64, "n_positions": 128, "initializer_range": 0.2}
    save_pretrained(tmp_path / "model", build_model(config, tokenizer), tokenizer)
    return tmp_path / "model"


def test_a_model_is_asked_on_the_device(folder, device, monkeypatch):
    model, tokenizer = load_for_inference(str(folder))
    assert model.device.type == open_session(str(folder)).model.device.type == device.type
    text, scored = generate_texts(str(folder), TEXT, {"max_new_tokens": 20}), score_text(model, tokenizer, TEXT)
    weights, _ = attention_weights(model, tokenizer, TEXT)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    model, tokenizer = load_for_inference(str(folder))
    assert model.device.type == "cpu"
    assert generate_texts(str(folder), TEXT, {"max_new_tokens": 20}) == text
    assert score_text(model, tokenizer, TEXT).log_p == pytest.approx(scored.log_p, abs=1e-3)
    assert attention_weights(model, tokenizer, TEXT)[0] == pytest.approx(weights, abs=1e-4)
