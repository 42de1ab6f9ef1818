"""How fast this machine trains a model: timed on a few optimizer steps of the same model with fewer blocks.

The steps are those of training: forward pass, the loss, backward pass, clipping and the optimizer, on rows of the same
length, in the same number formats. The blocks that are left out are extrapolated, since all blocks are alike.
"""

import statistics
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from hflm.core import arithmetic
from hflm.models import architecture
from hflm.planning import cost

DEPTHS = (2, 4)  # blocks of the models that stand for a deeper one
STEP_SECONDS = 1.0  # of one timed step at the most, if a single row does not take longer
SECONDS = 1.5  # of timed steps for each model
STEPS = 3  # at least: one that another program slows down leaves the median as it is


def step_seconds(
    config: Mapping[str, Any], shape: architecture.Shape, load: cost.Load, chosen: arithmetic.Arithmetic
) -> float:
    """Seconds of one optimizer step of one process on this machine's CPU, by measurement; takes 1 to 10 s.

    config: the content of the model's config.json; shape: its Shape.
    """
    import torch

    depths = (shape.n_layer,) if shape.n_layer <= DEPTHS[-1] else DEPTHS
    with torch.random.fork_rng(devices=[]):  # training draws the same numbers with and without this measurement
        torch.manual_seed(0)
        row_seconds = sum(map(min, time_steps(config, depths[-1], 1, load, chosen, steps=2)))
        rows = max(1, min(load.batch, int(STEP_SECONDS / row_seconds)))
        timed = [time_steps(config, depth, rows, load, chosen) for depth in depths]
    both_passes, update = (
        _extrapolate(tuple(statistics.median(seconds) for seconds in each), depths, shape.n_layer)
        for each in zip(*timed, strict=True)
    )
    return load.accumulation * both_passes * load.batch / rows + update


def _extrapolate(seconds: tuple[float, ...], depths: tuple[int, ...], layers: int) -> float:
    """Seconds of `layers` blocks from those of `depths` blocks.

    >>> _extrapolate((0.3, 0.5), (2, 4), 12)
    1.3
    """
    if len(depths) == 1:
        return seconds[0]
    block = max(0.0, (seconds[1] - seconds[0]) / (depths[1] - depths[0]))
    return seconds[1] + (layers - depths[1]) * block


def time_steps(
    config: Mapping[str, Any],
    depth: int,
    rows: int,
    load: cost.Load,
    chosen: arithmetic.Arithmetic,
    steps: int | None = None,
) -> tuple[list[float], list[float]]:
    """(seconds of forward and backward pass, seconds of the optimizer) of each timed step of a model of `depth` blocks.

    steps: how many, after one that is not timed; by default as many as take SECONDS, at least STEPS.
    """
    import torch

    model = _model(config, depth, load)
    optimizer = _optimizer(model, load, chosen)
    batch = _batch(model.config.vocab_size, rows, load)
    autocast = torch.autocast("cpu", arithmetic.dtype_of(chosen.autocast)) if load.mixed else nullcontext()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    passes: list[float] = []
    updates: list[float] = []
    ends = float("inf")
    while len(passes) <= (steps or STEPS) or (steps is None and time.perf_counter() < ends):
        started = time.perf_counter()
        with autocast:
            loss = model(**batch).loss
        loss.backward()
        between = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        finished = time.perf_counter()
        if not passes:
            ends = finished + SECONDS
        passes.append(between - started)
        updates.append(finished - between)
    return passes[1:], updates[1:]  # the first step loads kernels and allocates memory


def _model(config: Mapping[str, Any], depth: int, load: cost.Load) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from hflm.models import add_adapter, patch_loss

    kept = {key: value for key, value in config.items() if key not in ("model_type", "layer_types")}
    kept |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    kept["n_layer" if "n_layer" in kept or config.get("model_type", "gpt2") == "gpt2" else "num_hidden_layers"] = depth
    dtype = torch.float32 if load.weight_bytes == 4 else torch.bfloat16
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(config.get("model_type", "gpt2"), **kept), dtype=dtype
    )
    model = patch_loss(model)
    if load.adapter is not None:
        options = {key: value for key, value in load.adapter.items() if key != "layers_to_transform"}
        model = add_adapter(model, options)
    if load.checkpointing:
        model.activation_checkpointing_enable()
    return model.train()


def _optimizer(model: Any, load: cost.Load, chosen: arithmetic.Arithmetic) -> Any:
    """Muon, or AdamW, which stands for all others."""
    import torch

    from hflm.training.muon import MuonFactory

    if load.optim == "muon":
        return MuonFactory()(
            model, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1,
            dtype=arithmetic.dtype_of(chosen.orthogonalization),
        )  # fmt: skip
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=1e-3, fused=True)


def _batch(vocab_size: int, rows: int, load: cost.Load) -> dict[str, Any]:
    """Rows of two documents with `load.labelled` of their tokens labelled; a single document where nothing is masked."""
    import torch

    ids = torch.randint(0, vocab_size, (rows, load.length))
    labels = ids.masked_fill(torch.rand(rows, load.length) >= load.labelled, -100)
    batch = {"input_ids": ids, "labels": labels}
    if load.masked:
        half = load.length // 2
        positions = torch.cat([torch.arange(half), torch.arange(load.length - half)])
        batch["position_ids"] = positions.expand(rows, -1)
    return batch
