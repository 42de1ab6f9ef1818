"""The mean of -log p over labelled tokens, without the logits of a whole batch.

Logits (labels, V) are the largest thing in the training of a small model: at 2,048 tokens and GPT-2's 50,257 entries
one copy takes 412 MB in fp32, and plain PyTorch holds four. Here a few rows at a time are computed, turned into
their gradients at once, and dropped, so that backward has nothing left to recompute (as Liger's fused linear cross
entropy does it, arXiv 2410.10989).
"""

import torch

from hflm.core.arithmetic import vocabulary_multiple

ROWS, ROWS_ON_GPU = 256, 2048  # at a time; on a CPU fewer stay nearer to the core, and far fewer are slow


def sum_nll(hidden, weight, targets, z_loss=0.0, pad_to=None):
    """The sum of -log p(target) over rows, plus `z_loss` * log(Z)^2 each (PaLM, arXiv 2204.02311, section 5).

    hidden: (N, D); weight: (V, D), the output layer's; targets: (N,) int64. Returns a scalar in float32, in nats.
    Under autocast the matrix products run in its dtype, all sums and the softmax in float32. V is
    rounded up to a multiple of `pad_to` (default: of the device) inside the products; the added entries have
    probability 0 and no gradient.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    multiple = vocabulary_multiple(kind) if pad_to is None else pad_to
    return _SumNLL.apply(hidden, weight, targets, z_loss, dtype, multiple, torch.is_grad_enabled())


@torch.compiler.disable
def labelled(hidden, weight, labels, z_loss):
    """`sum_nll` of hidden (B, T, D) against the labels (B, T) of the next position, where they are not -100."""
    targets = labels[:, 1:]
    kept = targets != -100
    return sum_nll(hidden[:, :-1][kept], weight, targets[kept], z_loss), kept.sum()


class _SumNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, z_loss, dtype, multiple, grad_enabled):
        learns = [grad_enabled and needed for needed in ctx.needs_input_grad[:2]]
        size = weight.shape[0]
        with torch.autocast(hidden.device.type, enabled=False):
            rows, matrix = hidden.to(dtype), weight.to(dtype)
            if size % multiple:
                matrix = torch.nn.functional.pad(matrix, (0, 0, 0, -size % multiple))
            loss = torch.zeros((), device=hidden.device)
            grad_hidden = torch.empty_like(rows) if learns[0] else None
            # In float32 even where the products are not: it sums over the chunks.
            grad_weight = torch.zeros(matrix.shape, device=matrix.device) if learns[1] else None
            count = ROWS if hidden.device.type == "cpu" else ROWS_ON_GPU
            for start in range(0, len(rows), count):
                some = slice(start, start + count)
                logits = (rows[some] @ matrix.T).float()
                logits[:, size:] = -torch.inf
                target = targets[some, None]
                log_p = torch.log_softmax(logits, 1)
                of_target = log_p.gather(1, target)
                loss -= of_target.sum()
                if z_loss:
                    log_z = logits.gather(1, target) - of_target
                    loss += z_loss * log_z.square().sum()
                del logits
                if not any(learns):
                    continue
                # d/dlogits: softmax - onehot, and 2 z log(Z) softmax for the z-loss
                grad = log_p.exp_()
                if z_loss:
                    grad *= 1 + 2 * z_loss * log_z
                grad.scatter_add_(1, target, grad.new_full(target.shape, -1.0))
                grad = grad.to(dtype)
                if learns[0]:
                    grad_hidden[some] = grad @ matrix
                if learns[1]:
                    if dtype == torch.float32:
                        grad_weight.addmm_(grad.T, rows[some])
                    else:
                        grad_weight += grad.T @ rows[some]
                del log_p, grad  # before the next rows' logits are there
        ctx.save_for_backward(
            grad_hidden.to(hidden.dtype) if learns[0] else None,
            grad_weight[:size].to(weight.dtype) if learns[1] else None,
        )
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        # In place: a copy of the output layer's gradient would be the next largest thing.
        grads = [None if grad is None else grad.mul_(upstream) for grad in ctx.saved_tensors]
        return (*grads, *[None] * 5)
