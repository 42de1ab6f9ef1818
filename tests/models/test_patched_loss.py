"""A model with the patched loss is an ordinary module: hooks, copies, pickles, compiled, saved under its own name."""

import copy
import io
import json

import pytest
import torch
from conftest import SIZES, TEXTS

from hflm.models import add_adapter, load_model, patch_loss, save_pretrained
from hflm.preprocessing import collate, pack_documents


@pytest.fixture
def batch(tokenizer) -> dict[str, torch.Tensor]:
    return collate(pack_documents(TEXTS[:6], tokenizer, 64).rows, tokenizer.pad_token_id)


def loss_and_gradient(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), next(p.grad.clone() for p in model.parameters() if p.grad is not None)


def pickled(model: torch.nn.Module) -> torch.nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": pickled,
    "compile": lambda model: torch.compile(model, backend="eager"),
}


@pytest.mark.parametrize("architecture", SIZES)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo's own
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_has_the_same_loss_and_gradient(tiny, batch, way):
    model = patch_loss(tiny, z_loss=0.1)
    expected = loss_and_gradient(model, batch)
    other = COPIES[way](model)
    torch.testing.assert_close(loss_and_gradient(other, batch), expected)


def test_a_copy_is_independent(tiny, batch):
    model = patch_loss(tiny)
    other = copy.deepcopy(model)
    before = model(**batch).loss.item()
    for parameter in other.parameters():
        parameter.data.zero_()
    assert model(**batch).loss.item() == before != other(**batch).loss.item()


def test_forward_hooks_run(tiny, batch):
    model, seen = patch_loss(tiny), []
    model.register_forward_hook(lambda module, args, output: seen.append(output.loss.item()))
    loss = model(**batch).loss.item()
    assert seen == [loss]


@pytest.mark.parametrize("architecture", SIZES)
def test_a_patched_model_is_saved_under_the_name_of_its_class(tiny, tokenizer, tmp_path):
    save_pretrained(tmp_path / "model", patch_loss(tiny), tokenizer)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    name = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}[config["model_type"]]
    assert config["architectures"] == [name]
    assert "loss_options" not in config
    loaded, _ = load_model(str(tmp_path / "model"))
    assert type(loaded).__qualname__ == name and not hasattr(loaded, "loss_options")


def test_an_adapter_records_where_its_base_is_wherever_it_is_loaded_from(tiny, tokenizer, tmp_path, monkeypatch):
    save_pretrained(tmp_path / "run" / "base", tiny, tokenizer)
    monkeypatch.chdir(tmp_path)
    base, _ = load_model("run/base")
    wrapped = add_adapter(base, {"type": "lora", "r": 2, "init_lora_weights": False})
    wrapped.save_pretrained(tmp_path / "run" / "adapter")
    ids = torch.arange(10)[None]
    expected = wrapped.eval()(input_ids=ids).logits
    (tmp_path / "elsewhere" / "run" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")  # another folder of the base's relative name
    loaded, _ = load_model(str(tmp_path / "run" / "adapter"))
    torch.testing.assert_close(loaded.eval()(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-4)
