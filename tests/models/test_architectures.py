"""New models of other architectures than GPT-2's: presets, packing, optimizer, resume."""

import itertools
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import SIZES, TEXTS

from hflm.models import architecture, build_model, patch_loss
from hflm.preprocessing import collate, pack_documents
from hflm.recipe import ARCHITECTURES, CONFIG_DEFAULTS, PRESETS
from hflm.training import StageSettings, TrainingData, train_model
from hflm.training.muon import parameter_groups

OTHERS = [name for name in SIZES if name != "gpt2"]
PARTS = ("attn", "mlp")


def matrices(preset: str) -> int:
    """Weights of the matrices of all blocks, biases left out."""
    shape = architecture.of(PRESETS[preset] | {"vocab_size": 1})
    assert shape is not None
    return shape.n_layer * sum(linear.inputs * linear.outputs for linear in shape.linears)


@pytest.mark.parametrize("size", ["nano", "micro", "mini", "small", "medium"])
@pytest.mark.parametrize("family", OTHERS)
def test_presets_of_one_size_have_the_same_weights_in_their_blocks(family: str, size: str):
    assert matrices(f"{family}-{size}") == matrices(f"gpt2-{size}")


@pytest.mark.parametrize("preset", [f"{family}-nano" for family in ARCHITECTURES])
def test_the_parameters_of_a_preset_are_those_of_the_model(preset: str, tokenizer):
    config = PRESETS[preset]
    shape = architecture.of({**config, "vocab_size": len(tokenizer)})
    assert shape is not None
    model = build_model(config, tokenizer)
    assert sum(architecture.parameters(shape).values()) == model.num_parameters()
    assert model.config.model_type == config.get("model_type", "gpt2")
    for key, value in CONFIG_DEFAULTS[model.config.model_type].items():
        assert getattr(model.config, key) == value


@pytest.mark.parametrize("architecture", SIZES)
def test_packed_documents_do_not_see_each_other(tiny, tokenizer):
    """The loss of packed rows is that of each document alone, and no gradient crosses a border."""
    rows = pack_documents(TEXTS[:6], tokenizer, 64).rows
    row = next(row for row in rows if (row["position_ids"] == 0).sum() > 1)
    batch = collate([row], tokenizer.pad_token_id)
    starts = [*(batch["position_ids"][0] == 0).nonzero().flatten().tolist(), batch["input_ids"].shape[1]]
    model = patch_loss(tiny)
    with torch.no_grad():
        together = model(**batch).loss
        summed, count = torch.zeros(()), 0
        for begin, end in itertools.pairwise(starts):
            alone = {name: tensor[:, begin:end] for name, tensor in batch.items() if name != "position_ids"}
            labels = int((alone["labels"][:, 1:] != -100).sum())
            summed += model(**alone).loss * labels
            count += labels
    torch.testing.assert_close(together, summed / count, rtol=1e-5, atol=1e-5)
    embedded = tiny.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    logits = tiny(inputs_embeds=embedded, position_ids=batch["position_ids"], use_cache=False).logits
    logits[0, starts[1] :].square().sum().backward()
    assert embedded.grad is not None
    assert embedded.grad[0, : starts[1]].abs().max() == 0 < embedded.grad[0, starts[1] :].abs().max()


@pytest.mark.parametrize("architecture", SIZES)
def test_muon_takes_the_matrices_of_the_blocks(tiny):
    names = {id(parameter): name for name, parameter in tiny.named_parameters()}
    groups = {
        group["orthogonalize"]: {names[id(parameter)] for parameter in group["params"]}
        for group in parameter_groups(tiny, 0.1)
    }
    shape = architecture.of(tiny.config.to_dict())
    assert shape is not None
    assert len(groups[True]) == shape.n_layer * len(shape.linears)
    assert all(any(linear.name in name for linear in shape.linears) for name in groups[True])
    assert set(names.values()) == groups[True] | groups[False]


@pytest.mark.parametrize("family", OTHERS)
@pytest.mark.parametrize("optim", ["muon", "adamw_torch_fused"])
def test_a_resumed_training_ends_in_the_same_weights(family: str, optim: str, tokenizer, tmp_path: Path):
    packed = pack_documents(TEXTS, tokenizer, 48)
    args = {
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "save_steps": 2,
        "logging_steps": 2,
    }
    data = TrainingData(packed.rows, partial(collate, pad_token_id=tokenizer.pad_token_id))
    settings = StageSettings("pretrain", 0, 48, packed.tokens_per_row)

    def train(folder: str) -> torch.Tensor:
        torch.manual_seed(0)
        model = build_model({**SIZES[family], "attention_dropout": 0.1}, tokenizer)
        train_model(patch_loss(model), data, tmp_path / folder, {**args, "optim": optim}, settings)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    whole = train("whole")
    losses = [
        json.loads(line)["loss"]
        for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
        if '"loss"' in line
    ]
    assert losses[-1] < losses[0]
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-6")
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-4"]
    assert torch.equal(train("cut"), whole)
