"""The state of an optimizer by the names of its parameters, and by their numbers."""

import torch

from hflm.training.checkpoint_format import by_name, by_number


def test_a_state_by_numbers_is_the_optimizers_own():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    groups = [
        {"params": [model[1].weight, model[0].weight], "weight_decay": 0.1},
        {"params": [model[0].bias, model[1].bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    model[0].weight.grad = torch.ones(2, 3)  # the others have no state
    optimizer.step()
    plain = optimizer.state_dict()
    named = by_name(plain, ["1.weight", "0.weight", "0.bias", "1.bias"])
    assert list(named["state"]) == ["0.weight"]
    assert [group["params"] for group in named["param_groups"]] == [["1.weight", "0.weight"], ["0.bias", "1.bias"]]
    assert [group["weight_decay"] for group in named["param_groups"]] == [0.1, 0.0]
    assert by_number(named) == plain
