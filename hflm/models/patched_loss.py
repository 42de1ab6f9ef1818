"""The loss of a causal language model under Trainer: exact, and without the logits of a whole batch.

transformers computes logits for every position and, for GPT-2 under Trainer, divides by one label too many a row. Here
only positions with a label reach the output layer, some rows at a time (hflm.models.loss), and the sum of -log p is
divided by the number of labels of the whole optimizer step.

The model becomes an instance of a subclass of its class, as FSDP2's `fully_shard` does it, so that hooks, deepcopy,
pickle, DDP, FSDP2 and torch.compile see an ordinary module. Trainer's `compute_loss` would be too late: outside of the
forward pass FSDP2 has sharded the output layer again.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_outputs import CausalLMOutput

from hflm.models import loss as losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LossOptions:
    """`z_loss` and `label_smoothing` are hflm.models.loss's; `in_chunks` where the logits are one matrix product and nothing more."""

    z_loss: float
    label_smoothing: float
    in_chunks: bool


def patch_loss(model: "PreTrainedModel", z_loss: float = 0.0, label_smoothing: float = 0.0) -> "PreTrainedModel":
    """Give `model(labels=...)` the exact mean of -log p over labelled tokens; changes the model and returns it.

    `labels` (B, T) are -100 where there is none. The sum is divided by `num_items_in_batch`, the labels of the whole
    optimizer step, or without it by the labels of the batch. `z_loss` is added, and labels are smoothed, in training only. A model that does more
    to its logits than one matrix product (scaled, capped) computes them in its own forward. Calls without labels are
    unchanged.
    """
    model.loss_options = LossOptions(z_loss, label_smoothing, _is_one_product(model))  # type: ignore[assignment]
    model.__class__ = _with_loss(type(model))
    # Trainer counts labels from the second token on only for this loss type.
    model.loss_type = "ForCausalLM"  # type: ignore[assignment]
    return model


@functools.cache
def _with_loss(base: Any) -> Any:
    """The subclass of a model's class with the loss in its forward. It keeps the name, which config.json records."""

    # transformers and Trainer read the signature of a model's forward to see what it takes.
    @functools.wraps(base.forward)
    def forward(
        self: Any,
        input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **inputs: Any,
    ) -> Any:
        own_forward = functools.partial(base.forward, self)
        if labels is None:
            return own_forward(input_ids=input_ids, **inputs)
        # The cache is off: with it on, transformers ignores the boundaries that position_ids mark.
        inputs |= {"input_ids": input_ids, "use_cache": False}
        options: LossOptions = self.loss_options
        added = {"z_loss": options.z_loss, "label_smoothing": options.label_smoothing} if self.training else {}
        if options.in_chunks:
            hidden_BTD = self.base_model(**inputs).last_hidden_state
            weight = self.get_output_embeddings().weight
            total, count = losses.labelled_nll(hidden_BTD, weight, labels, **added)  # type: ignore[call-arg]
        else:
            total, count = _nll_of_own_logits(own_forward, self.get_output_embeddings(), labels, inputs, **added)
        return CausalLMOutput(loss=total / (count.clamp(min=1) if num_items_in_batch is None else num_items_in_batch))

    def reduce(self: Any) -> tuple[Callable[[Any], Any], tuple[Any], dict[str, Any]]:
        return _restore, (base,), self.__dict__

    members = {"forward": forward, "__reduce__": reduce, "__module__": base.__module__, "__doc__": base.__doc__}
    return type(base.__name__, (base,), members)


def _restore(base: Any) -> Any:
    """An empty instance, which pickle and deepcopy fill: the subclass cannot be found by its name."""
    cls = _with_loss(base)
    return cls.__new__(cls)


def _nll_of_own_logits(
    own_forward: Callable[..., Any],
    output_layer: torch.nn.Module,
    labels: torch.Tensor,
    inputs: dict[str, Any],
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    targets = labels[:, 1:]
    labelled = targets != -100
    hook = output_layer.register_forward_pre_hook(lambda _, args: (args[0][:, :-1][labelled],))
    try:
        logits_NV = own_forward(**inputs).logits.float()
    finally:
        hook.remove()
    total = torch.nn.functional.cross_entropy(
        logits_NV, targets[labelled], reduction="sum", label_smoothing=label_smoothing
    )
    if z_loss:
        total = total + z_loss * logits_NV.logsumexp(-1).square().sum()
    return total, labelled.sum()


def _is_one_product(model: "PreTrainedModel") -> bool:
    """Whether the logits are the last hidden state times the output layer's weight, and nothing more: it is tried."""
    output_layer = model.get_output_embeddings()
    if type(output_layer) is not torch.nn.Linear or output_layer.bias is not None:
        return False
    was_training = model.training
    model.eval()
    ids = torch.arange(4, device=model.device)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    with torch.no_grad():
        logits = model(**inputs).logits
        product = output_layer(model.base_model(**inputs).last_hidden_state)
    model.train(was_training)
    return torch.allclose(logits, product, rtol=1e-3, atol=1e-4)
