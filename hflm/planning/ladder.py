"""Which small models to train, on how many tokens, to learn what a recipe's own model will reach.

    sizes    about 1/16, 1/8 and 1/4 of the recipe's N (hflm.planning.scaling_law)
    tokens   the smallest on 1/8, 1/4, 1/2 and all of the recipe's; the next on 1/8 to 1/2, the largest on 1/8 and 1/4

So the small ones say how the loss falls with the tokens, and the short ones how it falls with the size, for about a third
of what the recipe's own training costs. With less to spend sizes and tokens shrink alike.

Each size is the recipe's model, narrower: with its number of blocks and heads, an MLP in proportion, and its batch. Models
of one depth are one family, in which the learning rate can follow the width: in inverse proportion for Adam (Yang et al.
2022, arXiv 2203.03466, table 8), with its square root for Muon, which is scaled to the same root mean square in a matrix of
any width, so that its spectral norm grows with the root (Yang et al. 2023, arXiv 2310.17813: that norm should not depend on
the width). A ladder of models with fewer blocks than the recipe's predicted badly (docs/scale.md). At the smallest point
half and twice that rate are tried, too, to see whether the rule holds.

Each point is a training of its own, since the loss at the end of a learning rate's schedule is what the law is about: at
a point along a longer schedule it is higher (Hoffmann et al. 2022, arXiv 2203.15556, appendix B).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hflm.core import UserError, format_duration, format_quantity, hardware
from hflm.models import architecture
from hflm.models.architecture import Shape
from hflm.planning import cost, speed
from hflm.planning.inputs import ModelConfig
from hflm.planning.scaling_law import weights_of
from hflm.recipe import Recipe

SIZES, TOKENS = (1 / 16, 1 / 8, 1 / 4), (1 / 8, 1 / 4, 1 / 2, 1.0)
RATES = (0.5, 2.0)  # of the learning rate that the rule gives, at the smallest point
MIN_STEPS = 20
MOST = 0.5  # of the recipe's own FLOPs, where no budget is given
START_SECONDS = 5.0  # of a run: reading the data, building the model
HALVINGS = 20


@dataclass(frozen=True)
class Point:
    """One training of the ladder: the model's keys, N, optimizer steps and tokens, the learning rate and what it costs.

    `rate_factor` is 1 for a point of the law, another for a trial of the learning rate.
    """

    model: dict[str, Any]
    parameters: int
    steps: int
    tokens: int
    learning_rate: float
    flops: float
    rate_factor: float = 1.0

    @property
    def name(self) -> str:
        """The folder of its run.

        >>> Point({}, 1_200_000, 150, 614_400, 5e-3, 4e12).name
        'n1200000-steps150'
        """
        trial = "" if self.rate_factor == 1 else f"-rate{self.rate_factor:g}x"
        return f"n{self.parameters}-steps{self.steps}{trial}"


@dataclass(frozen=True)
class Target:
    """The recipe's own training: its model's config.json, shape and N, the steps, tokens and FLOPs.

    `validation_tokens` are those of an evaluation.
    """

    config: dict[str, Any]
    shape: Shape
    parameters: int
    steps: int
    tokens: int
    flops: float
    validation_tokens: int


def target_of(recipe: Recipe, model: ModelConfig, steps: int, validation_tokens: int = 0) -> Target:
    """The Target of a recipe that trains so many steps."""
    tokens = steps * _step_tokens(recipe, model.shape)
    flops = tokens * _flops_per_token(recipe, model.shape)
    return Target(model.config, model.shape, weights_of(model.shape), steps, tokens, flops, validation_tokens)


def design_ladder(
    recipe: Recipe, target: Target, flops: float | None = None, minutes: float | None = None
) -> tuple[Point, ...]:
    """The points for a budget, cheapest first. Raises UserError for one that is too small, with what is needed.

    Without a budget they take about a third of the recipe's own FLOPs; where rows are long and models narrow, attention
    takes more, and half is the limit if there is so small a ladder. minutes: on the machine at hand, by a short measurement of three sizes.
    """
    measured: Callable[[Point], float] | None = None
    if minutes is not None:
        measured = _seconds_by_size(recipe, target)
    limit = 60 * minutes if minutes is not None else MOST * target.flops if flops is None else flops
    cheapest: tuple[Point, ...] = ()
    least = 0.0
    for halving in range(HALVINGS):
        points = _points(recipe, target, 0.5 ** (halving / 2))
        if points is None:
            break
        cheapest = tuple(sorted(points, key=lambda each: each.flops))
        least = sum(measured(each) if measured else each.flops for each in points)
        if least <= limit:
            return cheapest
    if not cheapest:
        raise UserError(
            f"the model of {format_quantity(target.parameters)} parameters and {target.steps:,} steps is too small for a "
            f"ladder: it needs three smaller sizes, and {round(MIN_STEPS / TOKENS[0])} steps or more. Train the recipe itself"
        )
    if flops is None and minutes is None:
        return cheapest
    needed = format_duration(least) if measured else format_quantity(least, "FLOP")
    raise UserError(f"the budget is too small: the smallest ladder of this recipe takes about {needed}. Raise it")


def _points(recipe: Recipe, target: Target, scale: float) -> list[Point] | None:
    """The points where sizes and tokens are `scale` of the full ladder's; None where they would be too small."""
    models = [model for fraction in SIZES if (model := smaller_model(target, fraction * scale)) is not None]
    steps = [round(fraction * scale * target.steps) for fraction in TOKENS]
    if steps[0] < MIN_STEPS or len({tuple(model.items()) for model in models}) < len(SIZES):
        return None
    made = [
        [_point(recipe, target, model, count) for count in steps[: len(steps) - number]]
        for number, model in enumerate(models)
    ]
    smallest = made[0][0]
    trials = [replace(smallest, learning_rate=smallest.learning_rate * factor, rate_factor=factor) for factor in RATES]
    return [*(point for group in made for point in group), *trials]


def _point(recipe: Recipe, target: Target, model: dict[str, Any], steps: int) -> Point:
    shape = architecture.of({**target.config, **model})
    assert shape is not None and recipe.pretrain is not None
    args = recipe.pretrain.args
    rate = args.get("learning_rate", 5e-5)  # TrainingArguments' default
    narrower = target.shape.n_embd / shape.n_embd
    rate *= math.sqrt(narrower) if args.get("optim") == "muon" else narrower
    tokens = steps * _step_tokens(recipe, shape)
    flops = tokens * _flops_per_token(recipe, shape)
    return Point(model, weights_of(shape), steps, tokens, rate, flops)


def smaller_model(target: Target, fraction: float) -> dict[str, Any] | None:
    """The configuration's keys of the narrower model nearest to `fraction` of the target's N.

    Heads have an even width, for rotary positions. None where no model is within a third of that N.
    """
    shape, wanted = target.shape, fraction * target.parameters
    found = []
    for width in range(2 * shape.n_head, shape.n_embd, 2 * shape.n_head):
        model = _narrower(target, width)
        made = architecture.of({**target.config, **model})
        assert made is not None
        found.append((abs(math.log(weights_of(made) / wanted)), width, model))
    distance, _, model = min(found, key=lambda each: each[:2], default=(math.inf, 0, {}))
    return model if distance <= math.log(4 / 3) else None


def _narrower(target: Target, width: int) -> dict[str, Any]:
    """The configuration's keys of the target's model with this width."""
    shape = target.shape
    inner = max(8, round(shape.inner * width / shape.n_embd / 8) * 8)
    if shape.family == "gpt2":
        return {"n_embd": width} | ({"n_inner": inner} if target.config.get("n_inner") else {})
    return {"hidden_size": width, "head_dim": width // shape.n_head, "intermediate_size": inner}


def _step_tokens(recipe: Recipe, shape: Shape) -> int:
    """Tokens of an optimizer step over all processes that the recipe asks for."""
    load = speed.step_load(recipe, "pretrain", shape, recipe.processes or 1, hardware.here())
    return load.rows * load.accumulation * load.processes


def _flops_per_token(recipe: Recipe, shape: Shape) -> float:
    return sum(cost.flops_per_token(shape, speed.step_load(recipe, "pretrain", shape, 1, hardware.here())).values())


def _seconds_by_size(recipe: Recipe, target: Target) -> Callable[[Point], float]:
    """How long a point takes here: the seconds of a token grow linearly with N, by a measurement of each size."""
    from numpy.polynomial import Polynomial

    seconds: dict[int, float] = {}
    device = hardware.here()
    for point in _points(recipe, target, 1.0) or ():
        if point.parameters in seconds:
            continue
        config = {**target.config, **point.model}
        shape = architecture.of(config)
        assert shape is not None
        load = speed.step_load(recipe, "pretrain", shape, 1, device)
        rate = speed.tokens_per_second(recipe, "pretrain", shape, load, device, config, earlier_run=False)
        if rate.tokens_per_second is None:
            raise UserError("--minutes: how fast this machine trains is not known before it does. Use --flops")
        seconds[point.parameters] = 1 / rate.tokens_per_second
    if not seconds:
        return lambda point: 0.0
    line = Polynomial.fit(list(seconds), list(seconds.values()), 1)
    least = min(seconds.values()) / 2
    evaluation = target.validation_tokens / 3  # a forward pass has a third of the FLOPs

    def seconds_of(point: Point) -> float:
        return START_SECONDS + (point.tokens + evaluation) * max(float(line(point.parameters)), least)

    return seconds_of
