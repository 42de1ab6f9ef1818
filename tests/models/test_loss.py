"""The chunked loss against plain PyTorch: values and gradients, in fp32 and bf16, padded, with z-loss and label smoothing."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from hflm.models import loss as losses
from hflm.models import patch_loss


@pytest.fixture
def parts():
    """600 rows of 16 dimensions, an output layer of 131 entries, targets; several chunks, the last one short."""
    assert losses.CHUNK_ROWS == 256
    torch.manual_seed(0)
    hidden = torch.randn(600, 16, requires_grad=True)
    weight = (torch.randn(131, 16) * 0.5).requires_grad_()
    return hidden, weight, torch.randint(0, 131, (600,))


def plain(hidden, weight, targets, z_loss=0.0, smoothing=0.0):
    logits = (hidden @ weight.T).float()
    return (
        cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
        + z_loss * logits.logsumexp(-1).square().sum()
    )


def gradients(loss, *of):
    return torch.autograd.grad(loss / 7, of)


@pytest.mark.parametrize("pad_to", [1, 64])
@pytest.mark.parametrize(("z_loss", "smoothing"), [(0.0, 0.0), (0.01, 0.0), (0.0, 0.1), (0.01, 0.3)])
def test_loss_and_gradients_are_those_of_plain_pytorch(parts, z_loss, smoothing, pad_to):
    hidden, weight, targets = parts
    expected = plain(hidden, weight, targets, z_loss, smoothing)
    loss = losses.sum_nll(hidden, weight, targets, z_loss, pad_to, smoothing)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    found = gradients(loss, hidden, weight)
    for ours, theirs in zip(found, gradients(expected, hidden, weight), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_in_bf16_it_is_as_near_to_fp32_as_plain_autocast_is(parts):
    hidden, weight, targets = parts
    exact = gradients(plain(hidden, weight, targets), hidden, weight)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = losses.sum_nll(hidden, weight, targets), plain(hidden, weight, targets)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, plain(hidden, weight, targets), rtol=2e-3, atol=0)
    of_ours, of_theirs = gradients(ours, hidden, weight), gradients(theirs, hidden, weight)
    for found, other, true in zip(of_ours, of_theirs, exact, strict=True):
        assert found.dtype == torch.float32
        assert (found - true).norm() <= 1.2 * (other - true).norm()


def test_a_frozen_output_layer_gets_no_gradient(parts):
    hidden, weight, targets = parts
    loss = losses.sum_nll(hidden, weight.detach(), targets)
    torch.testing.assert_close(gradients(loss, hidden), gradients(plain(hidden, weight.detach(), targets), hidden))


def test_the_logits_of_a_batch_are_never_there(parts):
    """The largest float tensor that is made has as many rows as a chunk."""
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.is_floating_point():
                sizes.append(out.numel())
            return out

    hidden, weight, targets = parts
    with Watch():
        losses.sum_nll(hidden, weight, targets).backward()
    assert max(sizes) == losses.CHUNK_ROWS * 131


def config(kind, **more):
    from transformers import AutoConfig

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    heads = {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 70, "max_position_embeddings": 64}
    return AutoConfig.for_model(kind, **sizes, **heads, pad_token_id=0, bos_token_id=1, eos_token_id=2, **more)


@pytest.mark.parametrize(
    ("kind", "more", "direct"),
    [
        ("llama", {}, True),
        ("qwen2", {"tie_word_embeddings": True}, True),
        ("gemma2", {"final_logit_softcapping": 0.5}, False),
        ("cohere", {"logit_scale": 0.25}, False),
        ("granite", {"logits_scaling": 3.0}, False),
    ],
)
@pytest.mark.parametrize(("z_loss", "smoothing"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.2)])
def test_a_model_that_changes_its_logits_keeps_its_own_forward(kind, more, direct, z_loss, smoothing):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config(kind, **more)).train()  # it has no dropout
    ids = torch.randint(3, 70, (2, 9))
    logits = model(ids).logits[:, :-1].reshape(-1, 70)
    expected = plain(logits, torch.eye(70), ids[:, 1:].reshape(-1), z_loss, smoothing) / 16
    expected.backward()
    of_plain = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    assert patch_loss(model, z_loss, smoothing).loss_options.in_chunks is direct
    loss = model(input_ids=ids, labels=ids).loss
    torch.testing.assert_close(loss, expected)
    loss.backward()
    without = plain(model.eval()(ids).logits[:, :-1].reshape(-1, 70), torch.eye(70), ids[:, 1:].reshape(-1)) / 16
    torch.testing.assert_close(model(input_ids=ids, labels=ids).loss, without)
    for parameter, gradient in zip(model.parameters(), of_plain, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
