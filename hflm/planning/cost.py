"""What a training step costs: bytes of memory by part, and floating-point operations. No torch.

Memory is what torch's allocator holds in eager mode; the counts of saved tensors were found by listing what autograd
keeps for transformers' GPT-2 and Llama, and tests/bench/plan_accuracy.py measures them. `torch_compile` needs less.
FLOPs are those of the matrix products, a multiply-add counting two, as torch.utils.flop_counter counts them.
"""

from dataclasses import dataclass
from typing import Any

from hflm.models import architecture
from hflm.models.architecture import Linear, Shape

# Tensors as wide as the MLP that autograd keeps: the activation's own, and its output for the next matrix.
KEPT_BY_ACTIVATION = {"gelu_new": 4, "gelu_pytorch_tanh": 1, "gelu": 1, "silu": 1, "swish": 1, "relu": 0}
LOSS_ROWS, LOSS_ROWS_ON_GPU = 256, 2048  # hflm.models.loss's
# Bytes of optimizer state per trained parameter, by the beginning of `args.optim`; the first that fits counts.
STATE_BYTES = {
    "adamw_8bit": 2, "adamw_bnb_8bit": 2, "paged_adamw_8bit": 2, "ademamix_8bit": 3, "paged_ademamix_8bit": 3,
    "lion_8bit": 1, "paged_lion_8bit": 1, "rmsprop_bnb_8bit": 1, "lion": 4, "paged_lion": 4, "ademamix": 12,
    "paged_ademamix": 12, "rmsprop": 4, "adagrad": 4, "sgd": 0, "adam": 8, "paged_adam": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Load:
    """How one process trains: rows of `length` tokens, `batch` of them at once."""

    batch: int
    length: int
    labelled: float = 1.0  # fraction of the tokens that are labels: only they reach the head
    accumulation: int = 1
    processes: int = 1
    sharded: bool = False  # FSDP: weights, gradients and optimizer divided by the processes
    weight_bytes: int = 4
    mixed: bool = False  # args.bf16 or fp16: products in 2 bytes, weights and the residual stream in 4
    checkpointing: bool = False
    optim: str = "adamw_torch_fused"
    orthogonalization: str = "fp32"  # the format of Muon's products
    adapter: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    masked: bool = True  # rows hold several documents, so attention gets a mask
    gpu: bool = False

    @property
    def rows(self) -> int:
        """Tokens at once in one process."""
        return self.batch * self.length

    @property
    def compute_bytes(self) -> int:
        """Bytes of a number inside a block."""
        return 2 if self.mixed else self.weight_bytes

    @property
    def unfused_attention(self) -> bool:
        """A CPU has no attention with dropout that does not build the (T, T) matrix."""
        return not self.gpu


@dataclass(frozen=True)
class Peak:
    """The largest memory of a step, and the moment at which it is held."""

    bytes: int
    moment: str


def memory(shape: Shape, load: Load) -> tuple[dict[str, int], dict[str, int]]:
    """(parts, moments): bytes of each part in one process, and of all that is held at each moment of a step.

    The largest moment is the peak. The parts are not all there at once: gradients grow while activations go.
    """
    total, base = architecture.total_parameters(shape), load.adapter is None
    trained = total if load.adapter is None else architecture.adapter_parameters(shape, load.adapter)
    each = load.processes if load.sharded else 1
    weights = weight_bytes(shape, load) / each + (0 if base else 4 * trained / each)
    gradients = trained * (load.weight_bytes if base else 4) / each
    optimizer = optimizer_bytes(shape, load, trained) / each
    kept, block = activation_bytes(shape, load)
    logits = logits_bytes(shape, load)
    copies = copy_bytes(shape, load)
    # The gradient of the output layer is there with the loss; that of the embeddings beside it before they are added.
    embedding = 4 * shape.vocab_size * shape.n_embd if base else 0
    buckets = gradients if load.processes > 1 and not load.sharded else 0  # DDP's
    always = weights + optimizer + copies + buckets
    waiting = gradients if load.accumulation > 1 else 0
    transient = 3 * load.rows * shape.inner * load.compute_bytes  # of the activation's backward
    moments = {
        "the loss": always + waiting + kept + embedding + logits,
        "the backward pass of the last block": always
        + waiting
        + embedding
        + kept
        + transient
        + (block if load.checkpointing else 0),
        "the end of the backward pass": always + gradients + embedding + (block if load.checkpointing else 0),
    }
    parts = {
        "weights": weights,
        "gradients": gradients + buckets,
        "optimizer": optimizer,
        "activations": kept + copies,
        "logits": logits,
    }
    return {name: round(size) for name, size in parts.items()}, {name: round(size) for name, size in moments.items()}


def peak(shape: Shape, load: Load) -> Peak:
    """The largest memory of a step in one process."""
    moments = memory(shape, load)[1]
    moment = max(moments, key=lambda name: moments[name])
    return Peak(moments[moment], moment)


def trained_parameters(shape: Shape, load: Load) -> int:
    """Parameters that get a gradient: all, or those of the adapter."""
    if load.adapter is not None:
        return architecture.adapter_parameters(shape, load.adapter)
    return architecture.total_parameters(shape)


def weight_bytes(shape: Shape, load: Load) -> float:
    """Bytes of the model's own weights; with a quantization the blocks' matrices take 4 or 8 bits."""
    total = architecture.total_parameters(shape)
    if load.quantization is None:
        return load.weight_bytes * total
    matrices = shape.n_layer * sum(linear.inputs * linear.outputs for linear in shape.linears)
    if load.quantization.get("load_in_8bit"):
        packed = matrices * 1.0
    else:
        # QLoRA (arXiv 2305.14314): a scale in fp32 each 64 weights; quantized twice it takes 0.127 bits a weight.
        scale = 0.127 / 8 if load.quantization.get("bnb_4bit_use_double_quant") else 4 / 64
        packed = matrices * (0.5 + scale)
    return packed + load.weight_bytes * (total - matrices)


def optimizer_bytes(shape: Shape, load: Load, trained: int) -> float:
    """Bytes of the optimizer's state for `trained` parameters."""
    if load.optim == "adafactor":  # a row and a column a matrix instead of the matrix
        vectors = sum(linear.inputs + linear.outputs for linear in shape.linears) * shape.n_layer
        return 4 * (vectors + shape.vocab_size + shape.n_embd)
    if load.optim == "muon":
        if load.adapter is not None:
            return 4 * trained
        matrices = shape.n_layer * sum(linear.inputs * linear.outputs for linear in shape.linears)
        return 4 * matrices + 8 * (trained - matrices)
    per = next((size for name, size in STATE_BYTES.items() if load.optim.startswith(name)), 8)
    if "8bit" in load.optim and load.adapter is None:  # Trainer keeps embeddings in 32 bits there
        embedded = shape.vocab_size * shape.n_embd + shape.position_table
        return per * (1 + 1 / 64) * (trained - embedded) + 4 * per * embedded
    # States have their parameter's type; adapters are trained in 4 bytes.
    return per * trained * (load.weight_bytes / 4 if load.adapter is None else 1)


def copy_bytes(shape: Shape, load: Load) -> float:
    """Autocast's 2-byte copies of the matrices, and under FSDP the parts gathered at once: the root and two blocks."""
    matrices = sum(linear.inputs * linear.outputs for linear in shape.linears)
    head = shape.vocab_size * shape.n_embd
    if load.sharded:
        return load.compute_bytes * (2 * shape.block + head + shape.position_table)
    return 2 * (shape.n_layer * matrices + head) if load.mixed and load.weight_bytes == 4 else 0


def logits_bytes(shape: Shape, load: Load) -> float:
    """Bytes around the loss (hflm.models.loss): the logits of some labelled positions at a time, and what they leave
    behind.

    In fp32: the logits and their log softmax, which becomes the gradient. Every labelled position's hidden state is
    copied and leaves a gradient; the gradient of the output layer is counted by `memory`.
    """
    labelled = load.rows * load.labelled
    at_once = min(LOSS_ROWS_ON_GPU if load.gpu else LOSS_ROWS, labelled)
    return at_once * 2 * 4 * shape.vocab_size + 2 * labelled * load.compute_bytes * shape.n_embd


def activation_bytes(shape: Shape, load: Load) -> tuple[float, float]:
    """(all, block): bytes that the forward pass keeps for the backward pass, and those of one block."""
    if load.checkpointing:
        stream = load.weight_bytes * load.rows * shape.n_embd
        mask = load.rows * load.length if load.masked else 0
        return (shape.n_layer + 1) * stream + mask, _block_bytes(shape, load, True)
    trains_all = load.adapter is None
    adapted = architecture.adapted(shape, load.adapter) if load.adapter is not None else ()
    layers = {layer for layer, _, _ in adapted}
    first = min(layers, default=0)
    blocks = sum(_block_bytes(shape, load, layer > first or trains_all) for layer in range(first, shape.n_layer))
    ends = load.rows * shape.n_embd * load.weight_bytes  # the last norm's input
    if shape.dropouts[2] and trains_all:
        ends += load.rows * shape.n_embd * (1 if load.gpu else load.weight_bytes)
    if shape.family != "gpt2":  # the last norm's, as in a block, and the rotary angles
        ends += load.weight_bytes * load.rows * (shape.n_embd * trains_all + 2 * shape.head_dim)
    return blocks + ends, _block_bytes(shape, load, True)


def _block_bytes(shape: Shape, load: Load, below: bool) -> float:
    """Bytes that one block keeps. below: whether anything under it is trained, so that its first norm has a gradient."""
    wide, inner, heads = load.rows * shape.n_embd, load.rows * shape.inner, load.rows * shape.n_head * shape.head_dim
    stream, compute = load.weight_bytes, load.compute_bytes
    names = {linear.name for linear in shape.linears}
    size = 0
    if load.adapter is not None:  # a frozen matrix needs its input for no gradient; an adapter on it does
        found = {linear.name: rank for _, linear, rank in architecture.adapted(shape, load.adapter)}
        names = set(found)
        size += compute * load.rows * sum(found.values())
        if load.adapter.get("use_dora"):  # what it scales: the outputs of the matrix and of the adapter
            size += sum(2 * compute * load.rows * linear.outputs for linear in shape.linears if linear.name in names)
    attention_in = bool(names & {"attn.c_attn", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"})
    mlp_in = bool(names & {"mlp.c_fc", "mlp.gate_proj", "mlp.up_proj"})
    mlp_out = bool(names & {"mlp.c_proj", "mlp.down_proj"})
    size += stream * wide * (1 + below)  # what the two norms read
    size += compute * wide * (attention_in + mlp_in)  # what the matrices after them read
    if shape.family == "gpt2":
        attention_dropout, dropout, _ = shape.dropouts
        if attention_dropout and load.unfused_attention:  # q, k, v and three (T, T) matrices a head, in fp32
            size += 4 * (3 * heads + 3 * load.rows * shape.n_head * load.length)
            size += compute * heads * ("attn.c_proj" in names)
        else:
            size += compute * 4 * heads + _attention_extras(shape, load)
        if dropout:
            size += 2 * wide * (1 if load.gpu else compute)
        size += compute * inner * (KEPT_BY_ACTIVATION.get(shape.activation, 4) + mlp_out)
    else:
        if load.adapter is None:
            size += stream * 2 * wide  # what a norm has normalised, for its own weights
        size += compute * 4 * heads + _attention_extras(shape, load)  # keys and values repeated for each head
        size += compute * inner * (3 + mlp_out)  # the gate before and after its activation, what it multiplies
    return size


def _attention_extras(shape: Shape, load: Load) -> float:
    """The mask as numbers, one a block, and the sums of the softmax."""
    mask = load.compute_bytes * load.rows * load.length if load.masked else 0
    return mask + 4 * load.rows * shape.n_head


def flops_per_token(shape: Shape, load: Load) -> dict[str, float]:
    """{part: FLOPs} of training on one token, forward and backward, over a whole row.

    A matrix of P weights costs 2P forward and 4P backward (2P when it is frozen); attention, which is counted over the
    full square as profilers do, 4 T E forward and 10 T E backward, since the fused kernel computes the scores again.
    A formula, since torch's FlopCounterMode on a model of meta tensors takes 5 s of CPU time before it counts, the whole
    plan 2 s; the tests compare the two.
    """
    adapter, width = load.adapter, shape.n_head * shape.head_dim
    found = list(architecture.adapted(shape, adapter)) if adapter is not None else []
    first = min((layer for layer, _, _ in found), default=0)
    ranks = {(layer, linear.name): rank for layer, linear, rank in found}
    matrices = attention = extra = 0
    # With checkpoints the embeddings' output is made to need a gradient, so that all that follows has one.
    bottom = -1 if load.checkpointing else first
    for layer in range(shape.n_layer):
        reached = adapter is None or layer >= bottom
        for linear in shape.linears:
            weights = linear.inputs * linear.outputs
            reads_embedding = adapter is not None and layer == bottom and linear.inputs == shape.n_embd
            under = reads_embedding and linear.name.split(".")[0] in ("attn", "self_attn") and not _is_output(linear)
            matrices += 2 * weights
            if adapter is None:
                matrices += 4 * weights
            elif reached and not under:
                matrices += 2 * weights
            rank = ranks.get((layer, linear.name))
            if rank is not None:
                extra += 6 * rank * (linear.inputs + linear.outputs) - (2 * rank * linear.inputs if under else 0)
        unfused = shape.dropouts[0] > 0 and load.unfused_attention
        attention += 4 * load.length * width
        if reached:
            attention += (8 if unfused else 10) * load.length * width
    head = 2 * shape.n_embd * shape.vocab_size * load.labelled
    again = 0
    if load.checkpointing:  # each block runs forward again, up to the last tensor that its backward pass needs
        last = shape.linears[-1].inputs * shape.linears[-1].outputs
        block = sum(linear.inputs * linear.outputs for linear in shape.linears) - last
        again = shape.n_layer * (2 * block + 4 * load.length * width)
    return {
        "blocks": matrices,
        "attention": attention,
        "head": head * (3 if adapter is None else 2),
        "adapter": extra,
        "checkpointing": again,
        "optimizer": _muon_flops(shape, load) / (load.rows * load.accumulation) if load.optim == "muon" else 0,
    }


def _muon_flops(shape: Shape, load: Load) -> int:
    """FLOPs of one step of Muon: hflm.training.muon's four steps for each matrix (m, n), m its shorter side.

    On the matrix itself a step is three products; on the Gram matrix, in fp32 where n >= 2 m, all steps are two products
    with n and 13 of (m, m).
    """
    if load.adapter is None:
        sizes = [(linear.inputs, linear.outputs) for linear in shape.linears] * shape.n_layer
    else:
        adapted = architecture.adapted(shape, load.adapter)
        sizes = [(rank, side) for _, linear, rank in adapted for side in (linear.inputs, linear.outputs)]
    total = 0
    for m, n in ((min(size), max(size)) for size in sizes):
        if load.orthogonalization == "fp32" and n >= 2 * m:
            total += 2 * 2 * m * m * n + 13 * 2 * m**3
        else:
            total += 4 * (4 * m * m * n + 2 * m**3)
    return total


def _is_output(linear: Linear) -> bool:
    return linear.name in ("attn.c_proj", "self_attn.o_proj")


def compute_optimal_tokens(parameters: float) -> float:
    """Tokens that a model of so many parameters is best trained on: 20 a parameter.

    Hoffmann et al. 2022 (arXiv 2203.15556), approaches 1 and 2: parameters and tokens grow alike with the compute;
    their Table 3 has 20.0 to 20.5 tokens a parameter up to 10 billion parameters. All parameters count.
    """
    return 20 * parameters


def compute_optimal_parameters(tokens: float) -> float:
    """The other way round: the size of the model for which so many tokens are the right number."""
    return tokens / 20
