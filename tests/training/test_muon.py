"""Muon: orthogonal updates in every format, AdamW's values for the rest, state that survives a restart."""

import copy

import pytest
import torch

from hflm.training import muon
from hflm.training.muon import MuonFactory

OPTIONS = {"lr": 0.1, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0, "dtype": torch.float32}


class Model(torch.nn.Module):
    """As much of a causal language model as the optimizer looks at: a 9 x 6 embedding that is tied, two matrices."""

    def __init__(self):
        super().__init__()
        self.wte = torch.nn.Embedding(9, 6)
        self.first, self.second = torch.nn.Linear(6, 15), torch.nn.Linear(15, 6)

    def get_input_embeddings(self):
        return self.wte

    def get_output_embeddings(self):
        return self.wte

    def forward(self, ids):
        return self.second(torch.tanh(self.first(self.wte(ids)))) @ self.wte.weight.T


def loss_of(model, seed):
    ids = torch.randint(0, 9, (4, 5), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 24), (2, 40, 8), (1, 8, 300), (2, 12, 20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_result_is_near_the_orthogonal_factor(shape, dtype):
    torch.manual_seed(0)
    left, values, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    # Singular values from 1 down to 0.01, which one step of a plain Newton-Schulz iteration would leave small.
    values = torch.logspace(0, -2, values.shape[-1]).expand(values.shape)
    found = muon.orthogonalize(left * values[..., None, :] @ right, dtype)
    assert found.dtype is torch.float32 and found.shape == shape
    sizes = torch.linalg.svdvals(found)
    assert sizes.min() > (0.85 if dtype is torch.float32 else 0.6) and sizes.max() < 1.2
    tolerance = 1e-3 if dtype is torch.float32 else 0.2  # its singular vectors stay
    torch.testing.assert_close(
        left.mT @ found @ right.mT, torch.diag_embed(sizes_in_place(left, found, right)), rtol=0, atol=tolerance
    )


def sizes_in_place(left, found, right):
    return torch.diagonal(left.mT @ found @ right.mT, dim1=-2, dim2=-1)


def test_a_zero_gradient_gives_a_zero_update():
    assert not muon.orthogonalize(torch.zeros(1, 4, 9), torch.float32).any()


def test_an_update_is_orthogonal_and_has_adamws_size(model):
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = MuonFactory()(model, **OPTIONS)
    loss_of(model, 0).backward()
    optimizer.step()
    for name in ("first.weight", "second.weight"):
        update = before[name] - model.get_parameter(name).detach()
        scale = 0.1 * 0.2 * 15**0.5
        sizes = torch.linalg.svdvals(update / scale)[:4]  # the gradient of a few tokens has a low rank
        assert sizes[0] < 1.15 and sizes[1] > 0.5
        assert update.square().mean().sqrt() < 0.1 * 0.2 * 1.2
    for name in ("wte.weight", "first.bias", "second.bias"):  # AdamW's first step is the sign of the gradient
        moved = before[name] - model.get_parameter(name).detach()
        used = model.get_parameter(name).grad.abs() > 1e-6
        torch.testing.assert_close(moved[used].abs(), torch.full_like(moved[used], 0.1), rtol=1e-2, atol=0)


def test_the_rest_is_updated_as_by_torchs_adamw(model):
    twin = copy.deepcopy(model)
    names = ("wte.weight", "first.bias", "second.bias")
    ours = MuonFactory()(model, **OPTIONS)
    theirs = torch.optim.AdamW(
        [twin.get_parameter(name) for name in names], lr=0.1, betas=(0.9, 0.95), weight_decay=0.0
    )
    for seed in range(3):
        ours.zero_grad()
        loss_of(model, seed).backward()
        for name in names:
            twin.get_parameter(name).grad = model.get_parameter(name).grad.clone()
        ours.step()
        theirs.step()
    for name in names:
        torch.testing.assert_close(model.get_parameter(name), twin.get_parameter(name))


def test_matrices_of_one_shape_are_updated_as_each_alone():
    torch.manual_seed(1)
    stack = torch.randn(5, 6, 14)
    together = muon.orthogonalize(stack, torch.float32)
    for one, of_all in zip(stack, together, strict=True):
        torch.testing.assert_close(muon.orthogonalize(one[None], torch.float32)[0], of_all, rtol=1e-4, atol=1e-5)


def test_training_continues_exactly_from_a_saved_state(model):
    def train(model, optimizer, seeds):
        for seed in seeds:
            optimizer.zero_grad()
            loss_of(model, seed).backward()
            optimizer.step()

    optimizer = MuonFactory()(model, **OPTIONS)
    train(model, optimizer, range(2))
    twin = copy.deepcopy(model)
    resumed = MuonFactory()(twin, **OPTIONS)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, range(2, 5))
    train(twin, resumed, range(2, 5))
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_schedule_reaches_both_groups_and_parameters_without_gradient_stay(model):
    optimizer = MuonFactory()(model, **OPTIONS)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.step()  # as after a rollback, when a step has no gradients
    for was, now in zip(before, model.parameters(), strict=True):
        assert torch.equal(was, now)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    loss_of(model, 0).backward()
    optimizer.step()
    for was, now in zip(before, model.parameters(), strict=True):
        assert torch.equal(was, now)
