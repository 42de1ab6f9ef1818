"""`hflm scale`: what a recipe's model will reach, from a ladder of small ones, before it is trained.

    <scale>/points.json                what was chosen to train
    <scale>/points/n920576-steps150/   the run of a point, as far as pretraining
    <scale>/scale.json                 the law, what it says of the recipe, and the points
    <scale>/README.md, plots/

The points are ordinary runs: one that was stopped is continued, one that has ended is not trained again. Tokenizer and
packed text are made once.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hflm.core import (
    UserError,
    atomic_write_text,
    configure_logging,
    fingerprint_checksums,
    format_duration,
    format_quantity,
    logger,
    read_json,
    read_json_lines,
)
from hflm.pipeline.reading import streams_corpus
from hflm.pipeline.run import RunOptions, run_recipe
from hflm.pipeline.run_folder import group_folder, locked_folder
from hflm.pipeline.scale_report import write_report
from hflm.pipeline.shared_stages import reuse_stages
from hflm.planning import Plan, StagePlan, plan_recipe, read_model_config
from hflm.planning.inputs import validation_tokens
from hflm.planning.ladder import Point, Target, design_ladder, target_of
from hflm.planning.scale import FILE, Measured, Scale, conclude, scale_folder
from hflm.recipe import Recipe, dump_recipe, load_recipe, load_varied_recipe

POINTS = "points.json"
# What a point does without: it ends at its last step, is measured there, and trains in one process.
WITHOUT = ("benchmark", "finetune", "push", "processes")
WITHOUT_IN_PRETRAIN = ("tokens", "evaluate", "early_stopping", "average_checkpoints")
WITHOUT_ARGS = (
    *("load_best_model_at_end", "metric_for_best_model", "num_train_epochs", "eval_strategy"),
    *("fsdp", "fsdp_config", "deepspeed"),
)


@dataclass(frozen=True)
class Ladder:
    """The recipe as the command names it and as it is read, its own training, and the folder to write to."""

    recipe: str
    sets: tuple[str, ...]
    loaded: Recipe
    target: Target
    folder: Path

    def run_folder(self, point: Point) -> Path:
        return self.folder / "points" / point.name

    def point_recipe(self, point: Point) -> Recipe:
        """The recipe of a point: the model's size, the steps and the rate in place, measured at its end alone."""
        assert self.loaded.pretrain is not None
        args = self.loaded.pretrain.args
        values: dict[str, Any] = {f"model.{key}": value for key, value in point.model.items()}
        values |= {"name": f"{self.loaded.name}-{point.name}", "pretrain.args.max_steps": point.steps}
        values |= {"pretrain.args.learning_rate": point.learning_rate, "pretrain.args.eval_steps": point.steps}
        if self.loaded.processes is not None and self.loaded.pretrain.batch_tokens is None:
            accumulation = args.get("gradient_accumulation_steps", 1) * self.loaded.processes
            values["pretrain.args.gradient_accumulation_steps"] = accumulation
        share = point.steps / self.target.steps
        if args.get("warmup_steps", 0) >= 1:
            values["pretrain.args.warmup_steps"] = round(args["warmup_steps"] * share)
        for key, value in (args.get("lr_scheduler_kwargs") or {}).items():
            if key.endswith("_steps") and isinstance(value, int):
                values[f"pretrain.args.lr_scheduler_kwargs.{key}"] = round(value * share)
        given = self.loaded.model_dump(mode="json", by_alias=True)
        without = [f"{key}=null" for key in WITHOUT if given.get(key) is not None]
        without += [f"pretrain.{key}=null" for key in WITHOUT_IN_PRETRAIN if given["pretrain"].get(key) is not None]
        without += [f"pretrain.args.{key}=null" for key in WITHOUT_ARGS if key in args]
        return load_varied_recipe(self.recipe, [*self.sets, *without], values)


def scale_recipe(
    recipe: str,
    sets: Sequence[str] = (),
    output: str | Path | None = None,
    flops: float | None = None,
    minutes: float | None = None,
    device: str | None = None,
    price_per_hour: float | None = None,
) -> Scale:
    """Train the ladder of a recipe (a path or a shipped name, changed by `sets`) and write what it says.

    flops, minutes: what the ladder may take; by default about a third of what the recipe's own training takes. device,
    price_per_hour: of the recipe's own training, for what it costs. Raises UserError, Stopped.
    """
    configure_logging()
    loaded = load_recipe(recipe, sets)
    _check(loaded)
    folder = _folder(loaded, output)
    plan = plan_recipe(loaded, device, price_per_hour=price_per_hour)
    own = next(stage for stage in plan.stages if stage.stage == "pretrain")
    target = _target(loaded, plan, own)
    ladder = Ladder(recipe, tuple(sets), loaded, target, folder)
    points = _chosen_points(ladder, flops, minutes)
    spent = sum(each.flops for each in points)
    logger.info(
        f"{loaded.name}: {folder}: {len(points)} small runs with {format_quantity(spent, 'FLOP')}, "
        f"{spent / target.flops:.0%} of the recipe's own {format_quantity(target.flops, 'FLOP')}"
    )
    runs: list[Measured] = []
    for number, point in enumerate(points):
        left = _time_left(runs, points)
        logger.info(
            f"point {number + 1} of {len(points)}: {format_quantity(point.parameters)} parameters, {point.steps:,} steps, "
            f"learning rate {point.learning_rate:.3g}{left}"
        )
        _run_point(ladder, point)
        runs.append(_measured(ladder.run_folder(point), point))
    first = ladder.run_folder(points[0])
    assert loaded.pretrain is not None
    tokens = own.corpus_tokens if streams_corpus(loaded.pretrain) else _packed_tokens(first)
    scale = conclude(loaded, runs, target.parameters, target.tokens, tokens, _bits_per_nat(first))
    write_report(scale, own, plan.device.name, folder)
    return scale


def _chosen_points(ladder: Ladder, flops: float | None, minutes: float | None) -> tuple[Point, ...]:
    """The points of the ladder: those that the same command has chosen before, since a measured speed varies."""
    path = ladder.folder / POINTS
    asked = fingerprint_checksums([], [dump_recipe(ladder.loaded), flops, minutes])
    known = read_json(path)
    if known.get("asked") == asked:
        return tuple(Point(**each) for each in known["points"])
    points = design_ladder(ladder.loaded, ladder.target, flops, minutes)
    content = {"asked": asked, "points": [asdict(each) for each in points]}
    atomic_write_text(path, json.dumps(content, indent=2) + "\n")
    return points


def _run_point(ladder: Ladder, point: Point) -> None:
    """Run a point in its folder, continued where it was stopped."""
    recipe, run = ladder.point_recipe(point), ladder.run_folder(point)
    with locked_folder(run):
        reuse_stages(recipe, run, [path.parent for path in sorted(ladder.folder.glob("points/*/stages.json"))])
    run_recipe(recipe, run, RunOptions(yes=True, last="pretrain", predict=False))


def _check(recipe: Recipe) -> None:
    problems = []
    if recipe.pretrain is None or recipe.model.from_ is not None:
        problems.append("it pretrains no new model, and a ladder is of those")
    elif recipe.pretrain.validation is None:
        problems.append("pretrain.validation is missing: the law is of the loss on text that is not trained on")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        problems.append("several processes were started: the points train in one, one after the other")
    if problems:
        raise UserError("\n".join(f"hflm scale {recipe.name}: {each}" for each in problems))


def _target(recipe: Recipe, plan: Plan, own: StagePlan) -> Target:
    """The recipe's own training, whose steps the plan counts."""
    if own.steps is None:
        raise UserError(
            f"hflm scale {recipe.name}: how many tokens it trains on is not known before it runs. Say pretrain.tokens or "
            "pretrain.args.max_steps"
        )
    for note in plan.notes:
        logger.info(f"note: {note}")
    assert recipe.pretrain is not None
    model = read_model_config(recipe, [])
    assert model is not None, "a new model's configuration is known"
    return target_of(recipe, model, own.steps, validation_tokens(recipe.pretrain, model.shape, own.corpus_tokens))


def _folder(recipe: Recipe, output: str | Path | None) -> Path:
    begun = {"points", POINTS}
    return group_folder(scale_folder(recipe), output, FILE, begun.__contains__, "is no ladder of hflm's")


def _time_left(runs: Sequence[Measured], points: Sequence[Point]) -> str:
    """', about 8 min left', by the FLOPs that are done; '' before the first point has ended."""
    done, spent = sum(each.flops for each in points[: len(runs)]), sum(each.flops for each in points)
    seconds = sum(each.seconds for each in runs)
    return f", about {format_duration(seconds * (spent - done) / done)} left" if done else ""


def _measured(run: Path, point: Point) -> Measured:
    record = read_json(run / "environment.json")["stages"]["pretrain"]
    return Measured(
        parameters=point.parameters,
        tokens=record["tokens"],
        loss=record["final_eval_loss"],
        learning_rate=point.learning_rate,
        rate_factor=point.rate_factor,
        seconds=record["seconds"],
    )


def _packed_tokens(run: Path) -> int:
    return read_json(run / "environment.json")["stages"]["pretrain"]["packing"]["tokens"]


def _bits_per_nat(run: Path) -> float | None:
    """Bits per byte of the validation text for a loss of one nat per token; None for several sets."""
    lines = [line for line in read_json_lines(run / "pretrain" / "metrics.jsonl") if "eval_bits_per_byte" in line]
    return lines[-1]["eval_bits_per_byte"] / lines[-1]["eval_loss"] if lines else None
