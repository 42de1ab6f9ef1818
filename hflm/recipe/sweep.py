"""The section `sweep` of a recipe: the values that `hflm sweep` searches, by which scores, and where it records them.

    sweep:
      space:
        finetune.args.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
        finetune.args.per_device_train_batch_size: [2, 4, 8]
      metric: benchmark.sentiment.accuracy
      trials: 24
      pruner: median

Optuna searches; the options of its samplers and pruners keep their names. `hflm run` leaves the section out.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from hflm.recipe import library_options as names
from hflm.recipe.evaluation import greater_is_better
from hflm.recipe.library_options import show, suggest
from hflm.recipe.section import KeyProblem, Positive, Section, matching
from hflm.recipe.sweep_space import MAX_GRID, Choices, Range, dimension_of, dimension_problems, flat_space

# The options of Optuna's classes that a recipe may set, with their types.
SAMPLERS: dict[str, dict[str, str]] = {
    "tpe": {"n_startup_trials": "int", "n_ei_candidates": "int", "multivariate": "bool", "constant_liar": "bool"},
    "random": {},
    "grid": {},
    "cmaes": {"n_startup_trials": "int", "popsize": "int"},
    "nsgaii": {
        "population_size": "int",
        "mutation_prob": "float",
        "crossover_prob": "float",
        "swapping_prob": "float",
    },
}
PRUNERS: dict[str, dict[str, str]] = {
    "median": {"n_startup_trials": "int", "n_warmup_steps": "int", "interval_steps": "int", "n_min_trials": "int"},
    "hyperband": {"min_resource": "int", "max_resource": "int", "reduction_factor": "int", "bootstrap_count": "int"},
}
SEED = "hflm derives it from the recipe's `seed`. Set that"


def _typed(value: Any) -> Any:
    """`tpe` is short for `{type: tpe}`."""
    return {"type": value} if isinstance(value, str) else value


def _choice_of(options: Mapping[str, Mapping[str, str]]) -> WithJsonSchema:
    properties = {"type": {"enum": list(options)}}
    for each in options.values():
        properties |= names.schema(dict(each))
    keys = {"type": "object", "properties": properties, "required": ["type"], "additionalProperties": False}
    return WithJsonSchema({"anyOf": [{"enum": list(options)}, keys]})


Typed = Annotated[dict[str, Any], BeforeValidator(_typed)]


Direction = Literal["minimize", "maximize"]


def _names(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(each, str) for each in value):
        return tuple(value)
    raise ValueError(f"expected a name, or a list of two, got {show(value)}")


def _directions(value: Any) -> str | tuple[str, ...] | None:
    found = None if value is None else _names(value)
    for each in (found,) if isinstance(found, str) else found or ():
        if text := names.mismatch("minimize|maximize", each):
            raise ValueError(text)
    return found


class Confirm(Section):
    best: Positive = 3
    """How many of the best trials."""
    seeds: Annotated[int, Field(ge=2)] = 3
    """With how many new seeds each."""


class SweepRecipe(Section):
    space: Annotated[dict[str, Any], WithJsonSchema({"type": "object"})]
    """By key path, a list of values or a range: `{low: 1.0e-4, high: 1.0e-2, log: true}`, `{low: 2, high: 8, step: 2}`."""
    metric: Annotated[str | tuple[str, ...], PlainValidator(_names, json_schema_input_type=str | list[str])]
    """What is optimised, or a list of two: `eval_loss`, any other score of the evaluations, or `benchmark.TASK.METRIC`."""
    direction: Annotated[
        str | tuple[str, ...] | None,
        PlainValidator(_directions, json_schema_input_type=Direction | list[Direction] | None),
    ] = None
    """By default the metric's own."""
    trials: Positive | None = None
    """How many of them end, pruned ones included; 20 by default, all points of a grid."""
    sampler: Annotated[Typed, _choice_of(SAMPLERS)] = Field(default_factory=lambda: {"type": "tpe"})
    """Optuna's: tpe, random, grid, cmaes or nsgaii; `{type: tpe, n_startup_trials: 5}` sets its options."""
    pruner: Annotated[Typed, _choice_of(PRUNERS)] | None = None
    """Ends trials that are behind the others at an evaluation: median or hyperband; none by default."""
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds after which a worker begins no further trial."""
    storage: str | None = None
    """A database's URL or a journal file on a shared disk, for many machines; by default a file in the sweep's folder."""
    study: Annotated[str, matching(r"\S(.*\S)?", "text without spaces around it")] | None = None
    """The study's name in the storage; the recipe's by default."""
    confirm: Confirm | None = Confirm()
    """Train the best trials again with new seeds, since the best of many is optimistic; null leaves it out."""

    @property
    def dimensions(self) -> dict[str, Choices | Range]:
        """The space by key path."""
        return {key: dimension_of(value) for _, key, value in flat_space(self.space)}

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric,) if isinstance(self.metric, str) else self.metric

    @property
    def directions(self) -> tuple[Direction, ...]:
        """'minimize' or 'maximize' for each metric."""
        if self.direction is not None:
            return cast(tuple[Direction, ...], (self.direction,) if isinstance(self.direction, str) else self.direction)
        return tuple(
            "maximize" if greater_is_better(metric.replace(".", "_")) else "minimize" for metric in self.metrics
        )

    @property
    def grid_size(self) -> int:
        """The number of points of a grid."""
        size = 1
        for dimension in self.dimensions.values():
            size *= len(dimension.values if isinstance(dimension, Choices) else dimension.grid or ())
        return size

    @property
    def trial_count(self) -> int:
        whole = self.grid_size if self.sampler["type"] == "grid" else 20
        return self.trials or whole

    @classmethod
    def rules(cls, raw: dict[str, Any]) -> Iterator[KeyProblem]:
        space = raw.get("space")
        if isinstance(space, dict):
            if not space:
                yield ("space",), "it is empty. Name a key path and its values"
            for path, _, value in flat_space(space):
                for key, text in dimension_problems(value):
                    yield ("space", *path, *key), text
        yield from _metric_problems(raw)
        yield from _class_problems(raw, "sampler", SAMPLERS)
        yield from _class_problems(raw, "pruner", PRUNERS)
        yield from _sampler_problems(raw)


def _metric_problems(raw: Mapping[str, Any]) -> Iterator[KeyProblem]:
    metric, direction = raw.get("metric"), raw.get("direction")
    count = len(metric) if isinstance(metric, list | tuple) else 1
    if isinstance(metric, list | tuple) and count != 2:
        yield ("metric",), f"one metric, or a list of two; got {count}"
    elif isinstance(metric, list | tuple) and metric[0] == metric[1]:
        yield ("metric", 1), f"{show(metric[1])} is listed twice. Remove one"
    if direction is not None and (len(direction) if isinstance(direction, list | tuple) else 1) != count:
        text = "two metrics have a list of two directions" if count == 2 else "one metric has one direction"
        yield ("direction",), f"{text}; without the key each has its own"
    if count == 2 and raw.get("pruner") is not None:
        yield ("pruner",), "Optuna prunes by one metric only. Remove it, or one of the metrics"


def _class_problems(raw: Mapping[str, Any], key: str, known: Mapping[str, Mapping[str, str]]) -> Iterator[KeyProblem]:
    """Yields what is wrong in the choice of a sampler or pruner and in its options."""
    chosen = _typed(raw.get(key))
    if not isinstance(chosen, dict):
        return  # reported by its type
    if "type" not in chosen:
        yield (key,), f"which one? Add type: one of {', '.join(known)}"
        return
    kind = chosen["type"]
    if kind not in known:
        where = (key,) if isinstance(raw[key], str) else (key, "type")
        yield where, f"there is no {key} {show(kind)}.{suggest(kind, known)}"
        return
    for name, value in chosen.items():
        if name == "type":
            continue
        if name == "seed":
            yield (key, name), SEED
        elif name not in known[kind]:
            hint = suggest(name, known[kind]) or f" {kind} has no options"
            yield (key, name), f"unknown key.{hint}"
        elif text := names.mismatch(known[kind][name], value):
            yield (key, name), text


def _sampler_problems(raw: Mapping[str, Any]) -> Iterator[KeyProblem]:
    """Yields what does not go together with the sampler."""
    sampler, space = _typed(raw.get("sampler")), raw.get("space")
    kind = sampler.get("type") if isinstance(sampler, dict) else None
    found = list(flat_space(space)) if isinstance(space, dict) else []
    if any(problem for *_, value in found for problem in dimension_problems(value)):
        return
    dimensions = {key: (path, dimension_of(value)) for path, key, value in found}
    if kind == "nsgaii" and not isinstance(raw.get("metric"), list | tuple):
        yield ("sampler",), "nsgaii is for two metrics. Use tpe, or list two metrics"
    if kind == "cmaes":
        if isinstance(raw.get("metric"), list | tuple):
            yield ("sampler",), "cmaes is for one metric. Use nsgaii or tpe"
        for path, dimension in dimensions.values():
            if isinstance(dimension, Choices):
                yield ("space", *path), "cmaes searches ranges, and this is a list. Use tpe, or write a range"
        if len(dimensions) < 2:
            yield ("space",), "cmaes searches two ranges or more. Use tpe, or add one"
    if kind == "grid":
        size = 1
        for path, dimension in dimensions.values():
            values = dimension.values if isinstance(dimension, Choices) else dimension.grid
            if values is None:
                yield ("space", *path), "a grid needs a step, or a list of values. Add step, or use another sampler"
            size *= len(values or ())
        if size > MAX_GRID:
            yield ("space",), f"a grid of more than {MAX_GRID:,} points. Use another sampler"
        elif isinstance(raw.get("trials"), int) and 0 < size < raw["trials"]:
            yield ("trials",), f"the grid has {size} points. Remove it, or set at most {size}"
