"""What a training stage measures at each evaluation: the loss of validation sets, bits per byte, scores of tasks.

An evaluation leaves the weights, the random states and the mode of the model as they were, so that a run ends in the
same weights however often it evaluates.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class ValidationSet:
    """Packed rows to evaluate on, and the UTF-8 bytes that their labelled tokens spell, where these are of interest."""

    rows: Sequence[Any]
    bytes: int | None = None


class TaskScorer(Protocol):
    """Measures tasks with a model in training (hflm.evaluation.TrainingScores is one).

    `rows` is how many examples it answers, `main` the best known metric of each task.
    """

    @property
    def rows(self) -> int: ...
    @property
    def main(self) -> tuple[str, ...]: ...

    def __call__(self, model: Any) -> dict[str, float]:
        """{"sentiment_accuracy": 0.83, ...}; every process calls it and gets the same."""
        ...


def loss_metrics(sums: Mapping[str, tuple[float, float]], sets: Mapping[str, ValidationSet]) -> dict[str, float]:
    """The losses (nats per label) and bits per byte of validation sets, and of all of them together.

    sums: by the name of a set, "" where it has none, the sum of -log p and the number of labels.

    >>> loss_metrics({"": (20.0, 10)}, {"": ValidationSet([], bytes=30)})
    {'eval_loss': 2.0, 'eval_bits_per_byte': 0.9617966939259758}
    """
    metrics = {}
    total = [sum(each) for each in zip(*sums.values(), strict=True)]
    sizes = {name: each.bytes for name, each in sets.items()}
    known = [size for size in sizes.values() if size]
    whole = sum(known) if len(known) == len(sizes) else None
    entries = {"": (*total, whole), **{name: (*sums[name], sizes[name]) for name in sums if name}}
    for name, (nll, labels, size) in entries.items():
        prefix = f"eval_{name}_" if name else "eval_"
        metrics[f"{prefix}loss"] = nll / max(labels, 1)
        if size:
            metrics[f"{prefix}bits_per_byte"] = nll / math.log(2) / size
    return metrics


@contextlib.contextmanager
def plain_model(model: Any) -> Iterator[Any]:
    """The model as `from_pretrained` would load it: in eval mode, complete on each process, without autocast.

    Under autocast a likelihood would depend on the other rows of its batch. Where FSDP2 divides the model, all of it is
    gathered first, in the number format of its mixed precision: the processes answer different rows, so that none may
    wait for the others in a forward pass.
    """
    training = model.training
    model.eval()
    # accelerate's autocast is an attribute of the instance, in front of the class's forward.
    autocast = model.__dict__.pop("forward", None)
    try:
        with _gathered(model):
            yield model
    finally:
        if autocast is not None:
            model.forward = autocast
        model.train(training)


@contextlib.contextmanager
def _gathered(model: Any) -> Iterator[None]:
    """All parameters of an FSDP2 model unsharded on each process; afterwards each module shards as it did."""
    if not isinstance(model, FSDPModule):
        yield
        return
    # Which modules shard again after their forward pass is no public attribute: a pass of one token shows it.
    whole = cast(Any, model)
    with torch.no_grad():
        whole(input_ids=torch.zeros((1, 1), dtype=torch.int64, device=whole.device))
    modules = [each for each in whole.modules() if isinstance(each, FSDPModule)]
    resharding = [each for each in modules if _is_sharded(cast(torch.nn.Module, each))]
    for module in resharding:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in resharding:
            module.reshard()
            module.set_reshard_after_forward(True, recurse=False)


def _is_sharded(module: torch.nn.Module) -> bool:
    """Whether an FSDP2 module's own parameters, without those of FSDP2 modules inside it, are sharded."""
    nested = [child for child in module.modules() if child is not module and isinstance(child, FSDPModule)]
    inner = {id(each) for child in nested for each in child.parameters()}
    return any(isinstance(each, DTensor) for each in module.parameters() if id(each) not in inner)
