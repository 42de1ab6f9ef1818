"""What a device computes: the loss beside float64, documents that do not see each other, answers in batches of any size."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from hflm.inference import LocalModel
from hflm.models import build_model, patch_loss
from hflm.models import loss as losses
from hflm.preprocessing import collate
from hflm.training import StageSettings, TrainingData, train_model

CONFIG = {"n_layer": 2, "n_head": 2, "n_embd": 64, "n_positions": 64}
NO_DROPOUT = {"attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0}


def relative_error(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("form", ["fp32", "bf16"])
def test_loss_and_gradients_beside_float64(device, form, z_loss, record_property):
    """Rows in several chunks, on a GPU at GPT-2's vocabulary, which is padded inside the products."""
    rows, width, entries = (5000, 768, 50257) if device.type == "cuda" else (600, 64, 1003)
    torch.manual_seed(0)
    hidden = torch.randn(rows, width, device=device, requires_grad=True)
    weight = (torch.randn(entries, width, device=device) / width**0.5).requires_grad_()
    targets = torch.randint(entries, (rows,), device=device)

    def plain(hidden, weight):
        logits = hidden @ weight.T
        total = cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, reduction="sum")
        return total + z_loss * logits.logsumexp(-1).square().sum()

    double = plain(hidden.double(), weight.double())
    exact = [double.detach(), *torch.autograd.grad(double, (hidden, weight))]
    del double
    with torch.autocast(device.type, torch.bfloat16) if form == "bf16" else nullcontext():
        ours = losses.sum_nll(hidden, weight, targets, z_loss, pad_to=64)
        theirs = plain(hidden, weight)
    errors, bounds = [], []
    for loss, kept in ((ours, errors), (theirs, bounds)):
        found = [loss.detach(), *torch.autograd.grad(loss, (hidden, weight))]
        kept += [relative_error(each, true.double()) for each, true in zip(found, exact, strict=True)]
    for name, error, of_plain in zip(("loss", "hidden", "weight"), errors, bounds, strict=True):
        record_property(f"error_{name}_{form}", f"{error:.1e}")
        most = 1e-5 if form == "fp32" else max(1.2 * of_plain, 2e-3)
        assert error <= most, f"{name}: {error:.2e}, plain PyTorch {of_plain:.2e}"


def attention_kinds():
    from transformers.utils import is_flash_attn_2_available

    without = pytest.mark.skipif(not is_flash_attn_2_available(), reason="the package flash-attn is not installed")
    return ["sdpa", "eager", pytest.param("flash_attention_2", marks=without)]


@pytest.mark.parametrize("attention", attention_kinds())
def test_packed_documents_do_not_see_each_other(device, tokenizer, attention):
    """A document's loss has no gradient by another document's tokens, and is that of the document alone."""
    form = torch.float32 if attention != "flash_attention_2" else torch.bfloat16
    if device.type == "cpu" and attention == "flash_attention_2":
        pytest.skip("flash-attn computes on GPUs only")
    torch.manual_seed(0)
    config = {**CONFIG, **NO_DROPOUT, "tie_word_embeddings": False, "initializer_range": 0.2}
    model = patch_loss(build_model(config, tokenizer)).to(device, form)
    model.set_attn_implementation(attention)
    # transformers derives the boundaries for flash-attn from the position ids of a single row only.
    lengths = [(24, 40)] if attention == "flash_attention_2" else [(24, 40), (50, 14)]
    ids = torch.stack([torch.randperm(200)[:64] + 50 for _ in lengths]).to(device)  # each token once in a row
    positions = torch.stack([torch.cat([torch.arange(n) for n in both]) for both in lengths]).to(device)
    for number in (0, 1):
        labels = ids.masked_fill(
            torch.stack([torch.arange(64) >= first for first, _ in lengths]).to(device) != number, -100
        )
        labels[positions == 0] = -100
        model.zero_grad()
        loss = model(input_ids=ids, labels=labels, position_ids=positions).loss
        loss.backward()
        own, other = ids[labels != -100], set(ids.flatten().tolist()) - set(ids[labels != -100].tolist())
        gradient = model.get_input_embeddings().weight.grad
        total, count = 0.0, 0
        for row, (first, second) in enumerate(lengths):
            alone = ids[row : row + 1, :first] if number == 0 else ids[row : row + 1, first:]
            assert alone.shape[1] == (first, second)[number]
            other -= set(alone.flatten().tolist())
            total += model(input_ids=alone, labels=alone).loss.item() * (alone.shape[1] - 1)
            count += alone.shape[1] - 1
        assert gradient[own].abs().sum() > 0
        assert gradient[sorted(other)].abs().max() == 0
        assert loss.item() == pytest.approx(total / count, rel=1e-5 if form == torch.float32 else 2e-2)


def test_rows_of_one_document_take_the_flash_kernel(device, tokenizer):
    """`collate` leaves out the position ids, so that there is no mask, which that kernel refuses on a GPU."""
    torch.manual_seed(0)
    model = patch_loss(build_model({**CONFIG, **NO_DROPOUT}, tokenizer)).to(device)
    rows = [
        {"input_ids": ids, "labels": ids, "position_ids": torch.arange(len(ids))}
        for ids in torch.randint(1, 250, (2, 64))
    ]
    rows[1] = {name: values[:40] for name, values in rows[1].items()}
    batch = {name: each.to(device) for name, each in collate(rows, tokenizer.pad_token_id).items()}
    found = []
    for kernel in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        model.zero_grad()
        with sdpa_kernel(kernel), torch.autocast(device.type, torch.bfloat16):
            loss = model(**batch).loss
            loss.backward()
        found.append((loss.item(), model.get_input_embeddings().weight.grad.clone()))
    (flash, flash_gradient), (exact, exact_gradient) = found
    assert flash == pytest.approx(exact, rel=1e-2)
    assert relative_error(flash_gradient, exact_gradient.double()) < 5e-2


def test_answers_are_the_same_in_batches_of_1_and_64(device, tokenizer, record_property):
    torch.manual_seed(0)
    model = build_model({**CONFIG, "initializer_range": 0.2}, tokenizer).to(device).eval()
    animals, things = ("dog", "cat", "fox", "mouse"), ("key", "cup", "hat", "old green coat")
    prompts = [f"The {a} saw the {t} in the{' very' * n} park" for a in animals for t in things for n in range(4)]

    def answers(batch_tokens):
        asked = LocalModel(model, tokenizer, batch_tokens)
        with torch.inference_mode():
            texts = [pair for rows, found in asked.texts(prompts, 12, ()) for pair in zip(rows, found, strict=True)]
            nats = [pair for rows, found in asked.likelihoods(prompts, ("barn", "mill")) for pair in zip(rows, found)]
        return [text for _, text in sorted(texts)], torch.tensor([each for _, each in sorted(nats)])

    (alone, alone_nats), (together, together_nats) = answers(1), answers(1 << 20)
    assert len(prompts) == 64
    assert together == alone
    record_property("nats_difference", f"{(alone_nats - together_nats).abs().max():.1e}")
    torch.testing.assert_close(together_nats, alone_nats, rtol=1e-4, atol=1e-4)


def test_training_leaves_the_precision_of_products_as_it_was(device, tokenizer, tmp_path, monkeypatch):
    """A benchmark after training computes in fp32, not in the TF32 that TrainingArguments sets for the whole process."""
    if device.type == "cpu":  # as on a GPU that has TF32
        monkeypatch.setattr("hflm.core.arithmetic._has_tf32", lambda device_type: True)
        monkeypatch.setattr("transformers.training_args.is_torch_tf32_available", lambda: True)
    model = patch_loss(build_model(CONFIG, tokenizer))
    ids = torch.randint(1, 250, (8, 64)).numpy()
    rows = [{"input_ids": row, "labels": row, "position_ids": torch.arange(64).numpy()} for row in ids]
    data = TrainingData(rows, lambda batch: collate(batch, tokenizer.pad_token_id))
    before = torch.backends.fp32_precision
    trained = train_model(
        model, data, tmp_path, {"max_steps": 2, "save_strategy": "no"}, StageSettings("pretrain", 0, 64, 64)
    )
    assert trained.steps == 2
    assert trained.arithmetic["tf32"] or device.type == "cuda"  # GPUs before Ampere have none
    assert torch.backends.fp32_precision == before
