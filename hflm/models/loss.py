"""The sum of -log p over labelled tokens, without the logits of a whole batch.

Logits (labels, V) are the largest tensor in the training of a small model: at 2,048 tokens and GPT-2's 50,257 entries
one copy takes 412 MB in fp32, and plain PyTorch holds four. Here some rows at a time are computed, turned into their
gradients at once, and dropped, so that backward has nothing left to recompute (as Liger's fused linear cross entropy
does it, arXiv 2410.10989).

torch.nn.functional.linear_cross_entropy serves the same end, but ignores autocast, sums in bf16 where the weights are
bf16, gives NaN where every label is ignored, and was a fifth slower on a CPU (torch 2.15).
"""

from typing import Any, NamedTuple

import torch

from hflm.core.arithmetic import vocabulary_multiple

# Rows at a time; on a CPU fewer stay closer to the core, and far fewer are slow.
CHUNK_ROWS, CHUNK_ROWS_ON_GPU = 256, 2048


def sum_nll(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    z_loss: float = 0.0,
    pad_to: int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """The sum of -log p(target) over rows, plus `z_loss` * log(Z)^2 each (PaLM, arXiv 2204.02311, section 5).

    With `label_smoothing` e it is (1 - e) * -log p(target) + e * (the mean of -log p over the V entries), as that of
    torch.nn.functional.cross_entropy (arXiv 1512.00567, section 7). hidden: (N, D); weight: (V, D), the output layer's; targets: (N,) int64. Returns a scalar in float32, in nats.
    Under autocast the matrix products run in its dtype, all sums and the softmax in float32. V is rounded up to a
    multiple of `pad_to` (default: of the device) inside the products; the added entries have probability 0 and no
    gradient.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    multiple = vocabulary_multiple(kind) if pad_to is None else pad_to
    options = _Options(z_loss, label_smoothing)
    return _SumNLL.apply(hidden, weight, targets, options, dtype, multiple, torch.is_grad_enabled())  # type: ignore[return-value]


@torch.compiler.disable
def labelled_nll(
    hidden_BTD: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(`sum_nll` against the labels (B, T) of the next position where they are not -100, the number of those)."""
    targets = labels[:, 1:]
    labelled = targets != -100
    hidden = hidden_BTD[:, :-1][labelled]
    return sum_nll(hidden, weight, targets[labelled], z_loss, label_smoothing=label_smoothing), labelled.sum()


class _Options(NamedTuple):
    z_loss: float
    label_smoothing: float


class _SumNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        options: _Options,
        dtype: torch.dtype,
        multiple: int,
        grad_enabled: bool,
    ) -> torch.Tensor:
        needs_hidden, needs_weight = (grad_enabled and needed for needed in ctx.needs_input_grad[:2])
        needs_grad, size = needs_hidden or needs_weight, weight.shape[0]
        with torch.autocast(hidden.device.type, enabled=False):
            rows, matrix = hidden.to(dtype), weight.to(dtype)
            if size % multiple:
                matrix = torch.nn.functional.pad(matrix, (0, 0, 0, -size % multiple))
            loss = torch.zeros((), device=hidden.device)
            grad_hidden = torch.empty_like(rows) if needs_hidden else None
            # In float32 even where the products are not: it sums over the chunks.
            grad_weight = torch.zeros(matrix.shape, device=matrix.device) if needs_weight else None
            count = CHUNK_ROWS if hidden.device.type == "cpu" else CHUNK_ROWS_ON_GPU
            for start in range(0, len(rows), count):
                chunk = slice(start, start + count)
                nll, grad_logits = _chunk(rows[chunk], matrix, targets[chunk, None], size, options, needs_grad)
                loss += nll
                if grad_logits is None:
                    continue
                if grad_hidden is not None:
                    grad_hidden[chunk] = grad_logits @ matrix
                if grad_weight is not None and dtype == torch.float32:
                    grad_weight.addmm_(grad_logits.T, rows[chunk])
                elif grad_weight is not None:
                    grad_weight += grad_logits.T @ rows[chunk]
                del grad_logits  # before the next chunk's logits are computed
        ctx.save_for_backward(
            None if grad_hidden is None else grad_hidden.to(hidden.dtype),
            None if grad_weight is None else grad_weight[:size].to(weight.dtype),
        )
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # In place: a copy of the output layer's gradient would be the next largest tensor.
        grads = [None if grad is None else grad.mul_(upstream[0]) for grad in ctx.saved_tensors]
        return (*grads, *[None] * 5)


def _chunk(
    rows: torch.Tensor, matrix: torch.Tensor, target: torch.Tensor, size: int, options: _Options, needs_grad: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(loss of rows (n, D), its gradient by their logits (n, V) in the rows' dtype); entries from `size` are padding."""
    z_loss, smoothing = options
    logits = (rows @ matrix.T).float()
    logits[:, size:] = -torch.inf
    log_p = torch.log_softmax(logits, 1)
    log_p_target = log_p.gather(1, target)
    log_z = logits.gather(1, target) - log_p_target
    loss = -(1 - smoothing) * log_p_target.sum()
    if smoothing:
        loss += smoothing * (log_z.sum() - logits[:, :size].mean(1).sum())
    del logits
    if z_loss:
        loss += z_loss * log_z.square().sum()
    if not needs_grad:
        return loss, None
    # d/dlogits: softmax - (1 - e) onehot - e / V, and 2 z log(Z) softmax for the z-loss.
    grad = log_p.exp_()
    if z_loss:
        grad *= 1 + 2 * z_loss * log_z
    if smoothing:
        grad[:, :size] -= smoothing / size
    grad.scatter_add_(1, target, grad.new_full(target.shape, smoothing - 1))
    return loss, grad.to(rows.dtype)
