"""Building, loading and saving models; the patched loss against plain PyTorch; adapters."""

import json

import pytest
import torch
from conftest import SIZES, TEXTS
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen3Config

from hflm.core import MissingExtra, ModelError
from hflm.models import (
    add_adapter,
    build_model,
    check_quantization,
    context_length,
    load_model,
    merge_adapter,
    model_revision,
    patch_loss,
    save_pretrained,
)
from hflm.models import architecture as shape
from hflm.models import loss as losses
from hflm.preprocessing import collate, pack_documents, pack_examples
from hflm.recipe import PRESETS


@pytest.mark.parametrize(
    ("preset", "published"),
    [
        ("gpt2-small", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("gpt2-nano", None),
        ("gpt2-micro", None),
        ("gpt2-mini", None),
    ],
)
def test_presets_have_exactly_the_published_parameters(preset, published):
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(**PRESETS[preset]))
    assert shape.total_parameters(shape.of(PRESETS[preset])) == model.num_parameters()
    assert published is None or model.num_parameters() == published


def test_any_config_key_reaches_the_model(tokenizer):
    model = build_model({"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 32, "n_inner": 24}, tokenizer)
    assert model.transformer.h[0].mlp.c_fc.weight.shape == (16, 24)
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert context_length(model) == 32


def plain_loss(model, batch):
    """The mean of -log p over the labels, written out, on a model as it is."""
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]), batch["labels"][:, 1:].reshape(-1), ignore_index=-100
    )


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("architecture", SIZES)
def test_the_patched_loss_has_the_gradients_of_a_plain_step(tokenizer, tiny):
    batch = collate(pack_examples([(text[:12], text[13:]) for text in TEXTS[:9]], tokenizer, 64).rows, 0)
    plain_loss(tiny, batch).backward()
    expected = gradients(tiny)
    tiny.zero_grad()
    loss = patch_loss(tiny)(**batch).loss
    loss.backward()
    for name, gradient in gradients(tiny).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


@pytest.mark.parametrize("architecture", SIZES)
def test_trainer_takes_exactly_the_step_of_plain_pytorch(tokenizer, tiny, tmp_path):
    """Two micro-batches with different numbers of labels, accumulated: one step on the mean over all labels."""
    import copy
    from functools import partial

    from hflm.training import StageSettings, TrainingData, train_model

    rows = pack_examples([(text[:8], text[9 : 12 + 2 * n]) for n, text in enumerate(TEXTS[:8])], tokenizer, 40).rows
    assert len({int((row["labels"] != -100).sum()) for row in rows}) > 1
    reference = copy.deepcopy(tiny)
    batch = collate(rows, tokenizer.pad_token_id)
    plain_loss(reference, batch).backward()
    torch.optim.SGD(reference.parameters(), lr=0.1).step()
    train_model(
        patch_loss(tiny),
        TrainingData(rows, partial(collate, pad_token_id=tokenizer.pad_token_id)),
        tmp_path,
        {
            "max_steps": 1,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": len(rows),
            "optim": "sgd",
            "learning_rate": 0.1,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "max_grad_norm": 0.0,
            "weight_decay": 0.0,
            "save_strategy": "no",
            "bf16": False,
        },
        StageSettings("finetune", seed=0, row_tokens=40, tokens_per_row=40),
    )
    for (name, trained), expected in zip(tiny.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(trained, expected, rtol=1e-4, atol=1e-6, msg=name)


def test_only_labelled_positions_reach_the_output_layer(tokenizer, tiny, monkeypatch):
    seen, plain = [], losses.sum_nll
    monkeypatch.setattr(
        losses,
        "sum_nll",
        lambda hidden, *rest, **more: seen.append(tuple(hidden.shape)) or plain(hidden, *rest, **more),
    )
    model = patch_loss(tiny)
    ids = torch.arange(20)[None]
    labels = torch.full_like(ids, -100)
    labels[0, 18:] = ids[0, 18:]
    model(input_ids=ids, labels=labels)
    assert seen == [(2, 32)]


def test_residual_projections_start_smaller_by_the_root_of_their_number(tokenizer):
    """GPT-2's scheme: 0.02 / sqrt(2 n_layer) for the two projections that each block adds to the residual path."""
    torch.manual_seed(0)
    model = build_model({"n_layer": 8, "n_head": 2, "n_embd": 64, "n_positions": 16}, tokenizer)
    for block in model.transformer.h:
        for projection in (block.attn.c_proj, block.mlp.c_proj):
            assert projection.weight.std().item() == pytest.approx(0.02 / 16**0.5, rel=0.05)
        for other in (block.attn.c_attn, block.mlp.c_fc):
            assert other.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("architecture", SIZES)
def test_a_batch_without_labels_has_loss_zero_and_not_nan(tiny):
    ids = torch.arange(6)[None]
    loss = patch_loss(tiny)(input_ids=ids, labels=torch.full_like(ids, -100)).loss
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("architecture", SIZES)
def test_without_labels_nothing_changes(tiny):
    ids = torch.arange(10)[None]
    tiny.eval()
    before = tiny(input_ids=ids).logits
    after = patch_loss(tiny)(input_ids=ids).logits
    assert torch.equal(before, after)


def test_a_patched_model_generates_from_left_padded_prompts_as_before(tokenizer, tiny):
    """generate() makes position ids only for a forward that says it takes them."""
    for parameter in tiny.parameters():
        parameter.data.mul_(4)
    tokenizer.padding_side = "left"
    prompts = tokenizer(["The dog", "The cat saw the hat in the", "A fox"], padding=True, return_tensors="pt")
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    expected = tiny.eval().generate(**prompts, **options).tolist()
    assert patch_loss(tiny).generate(**prompts, **options).tolist() == expected
    inputs = {"input_ids": torch.tensor([[0, 5, 6]]), "attention_mask": torch.tensor([[0, 1, 1]])}
    seen = []
    tiny.transformer.wpe.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].tolist()))
    tiny.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert seen[0] == [[0, 0, 1]]


@pytest.mark.parametrize("architecture", SIZES)
def test_saved_models_load_again_as_safetensors(tokenizer, tiny, tmp_path):
    save_pretrained(tmp_path / "run" / "model", tiny, tokenizer)
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    for path in (tmp_path / "run", tmp_path / "run" / "model"):
        model, loaded = load_model(str(path))
        assert torch.equal(model.lm_head.weight, tiny.lm_head.weight)
        assert loaded.get_vocab() == tokenizer.get_vocab()


def test_saving_leaves_the_old_model_when_it_fails(tokenizer, tiny, tmp_path):
    class Broken:
        def save_pretrained(self, folder):
            raise OSError(28, "No space left on device")

    save_pretrained(tmp_path / "model", tiny, tokenizer)
    with pytest.raises(OSError, match="No space"):
        save_pretrained(tmp_path / "model", tiny, Broken())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "tokenizer.json").is_file()


ADAPTERS = [
    {"init_lora_weights": False},
    {"use_rslora": True},
    {"use_dora": True},
    {"use_dora": True, "use_rslora": True, "target_modules": "all-linear"},
    {"init_lora_weights": "pissa"},
]
QUANTIZED = [  # what a merged model may differ by
    ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, {"target_modules": ["c_attn", "c_fc"]}, 2e-3),
    ({"load_in_4bit": True, "bnb_4bit_use_double_quant": True}, {"use_rslora": True}, 2e-3),
    ({"load_in_8bit": True}, {}, 2e-2),  # its products are in 8 bits too, the merged model's are not
]


def learn(wrapped, tokenizer, steps=3):
    """A few steps; gives the names of what was trained."""
    batch = collate(pack_documents(TEXTS[:4], tokenizer, 64).rows, tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW((p for p in wrapped.parameters() if p.requires_grad), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        wrapped(**batch).loss.backward()
        optimizer.step()
    return {name for name, parameter in wrapped.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("adapter", ADAPTERS, ids=str)
def test_adapters_train_reload_and_merge_into_plain_weights(tokenizer, tiny, tmp_path, adapter):
    save_pretrained(tmp_path / "base", tiny, tokenizer)
    base, _ = load_model(str(tmp_path / "base"))
    ids = torch.arange(1, 11)[None]
    before = base.eval()(input_ids=ids).logits
    wrapped = add_adapter(patch_loss(base), {"type": "lora", "r": 2, **adapter})
    trained = learn(wrapped, tokenizer)
    assert trained and all("lora_" in name for name in trained)
    expected = wrapped.eval()(input_ids=ids).logits
    assert (expected - before).abs().max() > 1e-3
    wrapped.save_pretrained(tmp_path / "adapter")
    merged, _ = merge_adapter(tmp_path / "adapter")
    torch.testing.assert_close(merged.eval()(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
    reloaded, _ = load_model(str(tmp_path / "adapter"))
    torch.testing.assert_close(reloaded.eval()(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("quantization", "adapter", "tolerance"), QUANTIZED, ids=str)
def test_a_quantized_model_learns_by_an_adapter_and_is_merged_into_plain_safetensors(
    tokenizer, tmp_path, quantization, adapter, tolerance
):
    pytest.importorskip("bitsandbytes")
    config = {"n_layer": 2, "n_head": 2, "n_embd": 64, "attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0}
    save_pretrained(tmp_path / "base", build_model({**config, "n_positions": 64}, tokenizer), tokenizer)
    base, _ = load_model(str(tmp_path / "base"), quantization=quantization)
    assert base.transformer.h[0].attn.c_attn.weight.element_size() == 1
    wrapped = add_adapter(patch_loss(base), {"type": "lora", "r": 2, **adapter})
    assert all("lora_" in name for name in learn(wrapped, tokenizer))
    ids = torch.arange(1, 11)[None]
    expected = wrapped.eval()(input_ids=ids).logits
    wrapped.save_pretrained(tmp_path / "adapter")
    merged, _ = merge_adapter(tmp_path / "adapter", quantization=quantization)
    save_pretrained(tmp_path / "model", merged, tokenizer)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert "quantization_config" not in config
    plain, _ = load_model(str(tmp_path / "model"))
    assert plain.transformer.h[0].attn.c_attn.weight.shape == (64, 192)
    assert (plain.eval()(input_ids=ids).logits - expected).abs().max() < tolerance
    # The matrices are those that training saw, not the ones from before they were quantized.
    original, _ = load_model(str(tmp_path / "base"))
    places = [dict(m.named_parameters())["transformer.h.0.attn.c_proj.weight"] for m in (plain, original)]
    assert not torch.allclose(*places, atol=1e-5)
    torch.testing.assert_close(*places, atol=0.01, rtol=0)


def test_the_attribute_that_keeps_4bit_weights_unpacked_is_still_bitsandbytes_own(tokenizer, tiny, tmp_path):
    """`load_model` sets it, since bitsandbytes has no option; renamed or removed there, that would have no effect."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    assert hasattr(bitsandbytes.nn.Linear4bit(8, 8), "support_avx512bf16_for_cpu")
    save_pretrained(tmp_path / "base", tiny, tokenizer)
    model, _ = load_model(str(tmp_path / "base"), quantization={"load_in_4bit": True})
    quantized = [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert quantized and not any(module.support_avx512bf16_for_cpu for module in quantized)


def test_quantization_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="uv sync --extra quant"):
        check_quantization()


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"target_modules": ["nothing"]}, "nothing"),
        ({"target_modules": ".*(wte|c_attn)"}, "it matches transformer.wte, one of the tied embeddings"),
        ({"init_lora_weights": "olora"}, "OLoRA cannot read GPT-2's"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layers"),
    ],
)
def test_an_adapter_that_cannot_be_trained_or_merged_says_so(tiny, adapter, message):
    with pytest.raises(ModelError, match=message):
        add_adapter(tiny, {"type": "lora", **adapter})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda place: str(place / "nothing"), "no such file or folder"),
        (lambda place: str(place), "holds no finished model"),
        (lambda place: str(place / "lost.gguf"), "no such file"),
        (lambda place: __file__, "is no model: expected a run"),
        (lambda place: "nobody/no-such-model", "cannot be loaded.*No local file or folder has this name either"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(tmp_path, make, message):
    with pytest.raises(ModelError, match=message) as error:
        load_model(make(tmp_path))
    assert "\n" not in str(error.value)


def test_pickled_weights_are_refused(tokenizer, tiny, tmp_path):
    save_pretrained(tmp_path, tiny, tokenizer)
    torch.save(tiny.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("kind", [GPT2Config, LlamaConfig, Qwen3Config])
def test_a_model_without_tokenizer_files_is_refused(tmp_path, kind):
    """As the checkpoints of a run are. For some, transformers makes a tokenizer without entries, others it cannot load."""
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "vocab_size": 300}
    AutoModelForCausalLM.from_config(kind(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has no tokenizer. Put the files of the model's tokenizer there"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("file", ["config.json", "adapter_config.json"])
def test_a_revision_is_the_commit_on_the_hub_or_the_content_of_local_files(tmp_path, monkeypatch, file):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    before = model_revision(str(folder))
    assert before.startswith("sha256:")
    (folder / "config.json").write_text('{"n_layer": 2}')
    assert model_revision(str(folder)) != before

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    commit = "5" * 40
    repository = tmp_path / "hub" / "models--you--small"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / file).write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert model_revision("you/small") == model_revision("you/small", commit) == commit


def test_an_adapters_folder_is_its_base_with_the_adapter_merged(tokenizer, tiny, tmp_path):
    save_pretrained(tmp_path / "base", tiny, tokenizer)
    base, _ = load_model(str(tmp_path / "base"))
    adapted = add_adapter(base, {"type": "lora", "r": 2, "init_lora_weights": False}).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    ids = torch.arange(10)[None]
    expected = adapted(input_ids=ids).logits
    merged, loaded = load_model(str(tmp_path / "adapter"))
    torch.testing.assert_close(merged.eval()(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-4)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert model_revision(str(tmp_path / "adapter")).startswith("sha256:")


@pytest.mark.parametrize(
    ("config", "files", "message"),
    [
        ({}, ["adapter_model.safetensors"], "does not say which model it belongs to"),
        ({"base_model_name_or_path": "x"}, ["adapter_model.bin"], "no adapter_model.safetensors"),
        ({"base_model_name_or_path": "./nowhere"}, ["adapter_model.safetensors"], "no such file or folder"),
    ],
)
def test_an_adapter_that_cannot_be_used_says_why(tmp_path, config, files, message):
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    for file in files:
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(ModelError, match=message):
        load_model(str(tmp_path))


def test_a_model_that_does_not_tell_its_context_is_refused():
    from transformers import MambaConfig, MambaForCausalLM

    mamba = MambaForCausalLM(MambaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, state_size=2))
    with pytest.raises(ModelError, match="a mamba does not say how many tokens it takes"):
        context_length(mamba)
