"""Muon for the matrices inside the blocks, AdamW for the rest: one optimizer for Trainer (`args.optim: muon`).

Muon (Jordan et al. 2024) replaces a matrix' momentum by the nearest semi-orthogonal matrix. Here

- matrices of one shape are orthogonalised together, in batched products on their shorter side;
- the polynomial is Polar Express (Amsel et al. 2025, arXiv 2505.16932): each of the four steps has coefficients of its
  own, the best for the singular values that the steps before it leave;
- where a matrix is at least twice as long as wide, the steps run on its Gram matrix, which takes two products with the
  long side in place of eight;
- the products run in the format that is fastest on the device (hflm.core.arithmetic);
- the update is scaled to the root mean square of AdamW's (Moonlight, arXiv 2502.16982), so that one learning rate and
  one weight decay serve both.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.adamw import adamw

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Polar Express for singular values from 0.005 to 1 in four steps, with the paper's safety factor of 1.02 in all steps but
# the last: x -> a x + b x^3 + c x^5. On WikiText-2 a fifth step, and NorMuon's normalisation of each neuron (arXiv
# 2510.05491), changed the validation loss of gpt2-nano after 300 steps by less than 0.01 nats.
POLAR_EXPRESS = (
    (7.992262213929536, -21.872439776406495, 15.414037565696756),
    (3.832776267530716, -2.732528174067681, 0.5016577275248457),
    (3.1272728629578372, -2.25398698444038, 0.45207508057075974),
    (2.2000281800359804, -1.5770596350587658, 0.40893738237389926),
)
MOMENTUM = 0.95
RMS = 0.2  # AdamW's update has about this root mean square


def orthogonalize(matrices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The nearest semi-orthogonal matrix of each of `matrices` (N, rows, columns), in float32.

    Singular values above 0.005 of the matrix' norm end between 0.9 and 1.1. `dtype` is that of the products.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if tall else matrices  # (N, short, long)
    norm = torch.linalg.matrix_norm(wide, keepdim=True)
    wide = (wide / (1.02 * norm + 1e-12)).to(dtype)
    # In 16 bits the Gram matrix loses the small singular values, so that the matrix itself is kept.
    through_gram = dtype == torch.float32 and wide.shape[-1] >= 2 * wide.shape[-2]
    result = (_iterate_gram(wide) if through_gram else _iterate(wide)).float()
    return result.mT if tall else result


def _iterate(wide: torch.Tensor) -> torch.Tensor:
    for a, b, c in POLAR_EXPRESS:
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide


def _iterate_gram(wide: torch.Tensor) -> torch.Tensor:
    """The same: each step multiplies X by a polynomial P of its Gram matrix G, and the next Gram matrix is P G P."""
    gram = wide @ wide.mT
    product = gram  # of the factors so far
    for step, (a, b, c) in enumerate(POLAR_EXPRESS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if step == 0 else factor @ product
        if step < len(POLAR_EXPRESS) - 1:
            gram = factor @ gram @ factor  # of the next X, P X
    return product @ wide


class Muon(torch.optim.Optimizer):
    """Muon on the groups with `"orthogonalize": True`, AdamW on the others.

    lr, betas, eps, weight_decay: TrainingArguments'. `dtype` is that of Muon's products. Parameters may be DTensors
    (FSDP2): a matrix' update is gathered, and every rank computes the whole of it.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not group["orthogonalize"]:
                self._step_adamw(group, trained)
                continue
            same_shape = defaultdict(list)
            for parameter in trained:
                same_shape[parameter.shape].append(parameter)
            for parameters in same_shape.values():
                self._step_muon(group, parameters)
        return loss

    def _step_muon(self, group: dict[str, Any], parameters: list[torch.Tensor]) -> None:
        updates = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            gradient = _gradient(parameter)
            state["momentum"].lerp_(gradient, 1 - MOMENTUM)
            update = gradient.lerp(state["momentum"], MOMENTUM)  # Nesterov's
            updates.append(update.full_tensor() if isinstance(update, DTensor) else update)
        orthogonal = orthogonalize(torch.stack(updates), self.dtype)
        scale = RMS * max(orthogonal.shape[-2:]) ** 0.5
        for parameter, update in zip(parameters, orthogonal, strict=True):
            if isinstance(parameter, DTensor):  # every rank has the same update and keeps its part
                update = distribute_tensor(update, parameter.device_mesh, parameter.placements, src_data_rank=None)
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * scale)

    def _step_adamw(self, group: dict[str, Any], parameters: list[torch.Tensor]) -> None:
        if not parameters:
            return
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [_gradient(parameter) for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    assert parameter.grad is not None, "step leaves out parameters without a gradient"
    return parameter.grad


def parameter_groups(model: "PreTrainedModel", weight_decay: float) -> list[dict[str, Any]]:
    """The groups of a causal language model: its matrices with weight decay, all other trained parameters without.

    Embeddings, the output layer and GPT-2's table of positions (wpe) are no matrices that map vectors.
    """
    output = model.get_output_embeddings()
    assert output is not None, "a causal language model has one"
    embeddings = {id(model.get_input_embeddings().weight), id(output.weight)}
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim == 2 and id(parameter) not in embeddings and not name.endswith("wpe.weight")
        (matrices if is_matrix else others).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": weight_decay, "orthogonalize": True},
        {"params": others, "weight_decay": 0.0, "orthogonalize": False},
    ]
    return [group for group in groups if group["params"]]


class MuonFactory:
    """Builds Muon from a model: what Trainer's `optimizer_cls_and_kwargs` calls, after the model is sharded."""

    def __call__(self, model: "PreTrainedModel", *, weight_decay: float, **options: Any) -> Muon:
        return Muon(parameter_groups(model, weight_decay), **options)
