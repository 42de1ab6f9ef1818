"""Which metrics a recipe produces, and which of them a sweep optimises."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hflm.recipe.evaluation import evaluation_metrics, greater_is_better
from hflm.recipe.kinds import kind_metrics
from hflm.recipe.library_options import show, suggest
from hflm.recipe.section import KeyProblem
from hflm.recipe.sweep_space import flat_space

# Looks up a key path in the YAML: None where a key is missing.
Lookup = Callable[..., Any]
# Sections that a trial cannot have of its own.
FIXED = {
    "name": "the folders of trials are named by hflm",
    "extends": "a recipe says itself what it extends",
    "sweep": "a sweep does not search its own settings",
    "push": "trials are not published",
    "processes": "a trial has one process",
}
STAGES = ("pretrain", "finetune")


@dataclass(frozen=True)
class Metric:
    """A score of a run: of the evaluations of `stage` ("pretrain", "finetune"), or of `task` in the benchmark.

    `name` is "eval_loss", "eval_qa_f1" in an evaluation, "f1" in the benchmark.
    """

    stage: str
    task: str | None
    name: str

    @property
    def evaluated(self) -> str | None:
        """The name that evaluations of the training stage give to the same score."""
        return self.name if self.task is None else f"eval_{self.task}_{self.name}"


def find_metric(at: Lookup, written: str) -> Metric | None:
    """The metric that a recipe names, None where no stage produces it.

    `at` looks a key path up. `eval_loss` is the last stage's that computes it, `pretrain.eval_loss` is that stage's;
    the `eval_` may be left out.
    """
    head, _, rest = written.partition(".")
    if head == "benchmark":
        task, _, name = rest.rpartition(".")
        return Metric("benchmark", task, name) if name in benchmark_metrics(at).get(task, ()) else None
    stages, name = ((head,), rest) if head in STAGES else (reversed(STAGES), written)
    for stage in stages:
        if name.removeprefix("eval_") in evaluation_metrics(at, stage):
            return Metric(stage, None, f"eval_{name.removeprefix('eval_')}")
    return None


def benchmark_metrics(at: Lookup) -> dict[str, tuple[str, ...]]:
    """The metrics of each task of the benchmark."""
    return {name: task_metrics(at, name) for name in _names(at("benchmark", "tasks"))}


def task_metrics(at: Lookup, task: str) -> tuple[str, ...]:
    """The metrics of a task: the recipe's, or its kind's own."""
    kind, chosen = at("tasks", task, "kind") or task, _names(at("tasks", task, "metrics"))
    return tuple(chosen) or kind_metrics(str(kind))


def _names(value: Any) -> list[str]:
    """The texts of a list in the YAML; what is wrong with its type is reported elsewhere."""
    return [each for each in value if isinstance(each, str)] if isinstance(value, list | tuple) else []


def sweep_problems(at: Lookup) -> Iterator[KeyProblem]:
    """Yields what of the section `sweep` does not go together with the rest of the recipe."""
    if not isinstance(at("sweep"), dict):
        return
    space = at("sweep", "space")
    for path, key, _ in flat_space(space) if isinstance(space, dict) else ():
        section = key.split(".")[0]
        if section in FIXED:
            yield ("sweep", "space", *path), f"{section} cannot be searched: {FIXED[section]}. Remove it"
    if isinstance(at("processes"), int) and at("processes") > 1:
        yield ("sweep",), "a trial has one process, and `processes` asks for more. Start one worker for each device"
    written = at("sweep", "metric")
    several = isinstance(written, list | tuple)
    for number, name in enumerate(written if several else [written]):
        if isinstance(name, str):
            where = ("sweep", "metric", number) if several else ("sweep", "metric")
            yield from _metric_problems(at, name, where, number)


def _metric_problems(at: Lookup, name: str, where: tuple[str | int, ...], number: int) -> Iterator[KeyProblem]:
    found = find_metric(at, name)
    if found is None:
        known = [f"eval_{each}" for stage in STAGES for each in evaluation_metrics(at, stage)]
        known += [f"benchmark.{task}.{each}" for task, metrics in benchmark_metrics(at).items() for each in metrics]
        hint = suggest(name, dict.fromkeys(known)) or f" Among them: {', '.join(known[:8])}"
        yield (
            where,
            f"no stage produces the metric {show(name)}.{hint if known else ' Add validation data or a benchmark'}",
        )
        return
    direction = at("sweep", "direction")
    own = direction[number] if isinstance(direction, list | tuple) and number < len(direction) else direction
    best = "maximize" if greater_is_better(name.replace(".", "_")) else "minimize"
    if own in ("minimize", "maximize") and own != best:
        wrong = ("sweep", "direction", number) if isinstance(direction, list | tuple) else ("sweep", "direction")
        yield wrong, f"the best {name} is the {'highest' if best == 'maximize' else 'lowest'}. Set {best}, or remove it"
    stage = found.stage if found.task is None else STAGES[at("finetune") is not None]
    if at("sweep", "pruner") is not None and not evaluation_metrics(at, stage):
        text = f"nothing is evaluated in `{stage}`, so that no trial can be compared before its end"
        yield ("sweep", "pruner"), f"{text}. Add validation data, or remove it"
