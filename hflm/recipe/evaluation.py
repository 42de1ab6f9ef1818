"""What a training stage measures at each evaluation, which of it chooses the kept checkpoint, and when it stops early.

    args: {eval_steps: 50, save_steps: 50, load_best_model_at_end: true, metric_for_best_model: sentiment_accuracy}
    evaluate: {tasks: [sentiment], limit: 200}
    early_stopping: {patience: 3, min_delta: 0.001}

The names of the metrics follow from the recipe alone, so that a name is checked when the recipe is read.
"""

from collections.abc import Callable, Iterator
from typing import Annotated, Any

from pydantic import Field

from hflm.recipe.kinds import kind_metrics
from hflm.recipe.library_options import show, suggest
from hflm.recipe.section import KeyProblem, Positive, Section, Words, count

VALIDATION = "Set `pretrain.validation`, `splits.validation` of a fine-tuned task, or `evaluate`"
LOWER_IS_BETTER = ("loss", "bits_per_byte", "perplexity", "ter")
RESERVED = ("runtime", *LOWER_IS_BETTER)  # no name of a validation set
# Looks up a key path in the YAML: None where a key is missing.
Lookup = Callable[..., Any]


class EvaluateRecipe(Section):
    tasks: Annotated[Words, count(1)]
    """Names under `tasks:`, measured on their validation split as the benchmark measures its test split."""
    limit: Positive = 200
    """Only the first rows of each task."""


class EarlyStopping(Section):
    patience: Positive
    """Stop after so many evaluations in a row that are not better than the best one."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """What is better by no more than this is not better."""


def greater_is_better(metric: str) -> bool:
    """Whether a metric of an evaluation is better when it is greater.

    >>> greater_is_better("eval_loss"), greater_is_better("qa_f1"), greater_is_better("wiki_bits_per_byte")
    (False, True, False)
    """
    return not any(metric == name or metric.endswith(f"_{name}") for name in LOWER_IS_BETTER)


def evaluation_metrics(at: Lookup, stage: str) -> list[str]:
    """The metrics of each evaluation of a stage, without the `eval_` before them in logs; at: the recipe's YAML."""
    names = []
    if has_validation_loss(at, stage):
        names.append("loss")
        if stage == "pretrain":
            sets = validation_set_names(at("pretrain", "validation"))
            names += ["bits_per_byte", *(f"{name}_{each}" for name in sets for each in ("loss", "bits_per_byte"))]
    for task in _names(at(stage, "evaluate", "tasks")):
        metrics = _names(at("tasks", task, "metrics")) or kind_metrics(str(at("tasks", task, "kind") or task))
        names += [f"{task}_{metric}" for metric in metrics]
    return names


def metric_task(metric: str, tasks: tuple[str, ...]) -> str | None:
    """The task whose score `metric` is, None for a loss.

    >>> metric_task("eval_qa_f1", ("qa", "sentiment"))
    'qa'
    """
    name = metric.removeprefix("eval_")
    return next((task for task in sorted(tasks, key=len, reverse=True) if name.startswith(f"{task}_")), None)


def has_validation_loss(at: Lookup, stage: str) -> bool:
    """Whether a training stage has data whose loss is evaluated."""
    if stage == "pretrain":
        return at("pretrain", "validation") is not None
    return any(at("tasks", name, "splits", "validation") is not None for name in _names(at("finetune", "tasks")))


def validation_set_names(validation: Any) -> list[str]:
    """The names of several validation sets, [] for one without a name. validation: the YAML of `pretrain.validation`."""
    return [str(name) for name in validation] if has_named_sets(validation) else []


def has_named_sets(validation: Any) -> bool:
    """Whether `pretrain.validation` is `{name: {path: ...}, ...}`: a single data set has a path, or its files."""
    if not isinstance(validation, dict) or isinstance(validation.get("path"), str) or "data_files" in validation:
        return False
    return any(isinstance(each, dict | Section) for each in validation.values())


def evaluation_problems(at: Lookup, stage: str) -> Iterator[KeyProblem]:
    """Yields what is wrong with evaluation, the choice of the best checkpoint and early stopping, by path."""
    section = at(stage)
    if not isinstance(section, dict):
        return
    yield from _validation_set_problems(at, stage)
    args: Any = section.get("args") or {}
    if not isinstance(args, dict):
        return
    metrics = evaluation_metrics(at, stage)
    strategy = args.get("eval_strategy", "steps" if metrics else "no")
    if strategy not in ("no", "steps", "epoch"):
        return  # reported by its type
    if not metrics and strategy != "no":
        yield (stage, "args", "eval_strategy"), f"there is no validation data to evaluate on. {VALIDATION}"
        return
    yield from _metric_problems(stage, args, section, metrics or ["loss"], at("tasks"))
    if section.get("early_stopping") is not None and strategy == "no":
        yield (stage, "early_stopping"), f"nothing is evaluated, so nothing says when to stop. {VALIDATION}"
    if section.get("evaluate") is not None and args.get("eval_strategy") == "no":
        yield (stage, "evaluate"), "eval_strategy is no, so nothing is evaluated. Remove one of the two"
    if args.get("load_best_model_at_end"):
        for key, text in _best_problems(args, strategy):
            yield (stage, "args", key), text


def _validation_set_problems(at: Lookup, stage: str) -> Iterator[KeyProblem]:
    """Yields names of validation sets that stand for something else in the logs."""
    tasks = _names(at(stage, "evaluate", "tasks"))
    for name in validation_set_names(at("pretrain", "validation")) if stage == "pretrain" else ():
        where = (stage, "validation", name)
        if not name.replace("-", "_").isidentifier():
            yield where, "a validation set's name is letters, digits, `_` and `-`"
        elif name in RESERVED:
            yield where, f"{name} is the name of a metric. Choose another"
        elif name in tasks:
            yield where, f"{name} is also a task of evaluate.tasks. Choose another name"


def _metric_problems(
    stage: str, args: dict[str, Any], section: dict[str, Any], metrics: list[str], tasks: Any
) -> Iterator[KeyProblem]:
    """Yields a metric that no evaluation computes, or whose direction is wrong."""
    metric = args.get("metric_for_best_model")
    plateau = args.get("lr_scheduler_type") == "reduce_lr_on_plateau"
    chooses = args.get("load_best_model_at_end") or section.get("early_stopping") is not None or plateau
    if metric is None and chooses and "loss" not in metrics:
        where = "early_stopping" if section.get("early_stopping") is not None else "args"
        yield (stage, where), f"which metric chooses? Set args.metric_for_best_model to one of {', '.join(metrics)}"
        return
    if isinstance(metric, str) and metric.removeprefix("eval_") not in metrics:
        yield (stage, "args", "metric_for_best_model"), _unknown_metric(metric, metrics, tasks)
        return
    greater, best = args.get("greater_is_better"), greater_is_better(metric if isinstance(metric, str) else "loss")
    if isinstance(greater, bool) and greater != best:
        text = f"the best {metric or 'loss'} is the {'highest' if best else 'lowest'}. Remove it"
        yield (stage, "args", "greater_is_better"), text


def _unknown_metric(metric: str, metrics: list[str], tasks: Any) -> str:
    text, name = f"evaluation computes no {show(metric)}.", metric.removeprefix("eval_")
    task = metric_task(name, tuple(map(str, tasks)) if isinstance(tasks, dict) else ())
    if task is not None and not any(each.startswith(f"{task}_") for each in metrics):
        return f"{text} Add {task} to `evaluate.tasks`"
    hint = suggest(name, metrics)
    return text + (
        hint if "Did" in hint else f" Its metrics: {', '.join(metrics)}. `evaluate.tasks` adds those of tasks"
    )


def _best_problems(args: dict[str, Any], strategy: str) -> Iterator[tuple[str, str]]:
    """Yields (argument, message) of what keeps the best model from being saved."""
    saves = args.get("save_strategy", "steps")
    if strategy == "no":
        yield "load_best_model_at_end", f"nothing is evaluated, so no checkpoint is the best. {VALIDATION}"
    elif saves not in ("best", strategy):
        text = f"eval_strategy is {strategy} and save_strategy {saves}. Set save_strategy: {strategy}"
        yield "load_best_model_at_end", f"{text}, so that each evaluated model is saved"
    elif strategy == saves == "steps":
        yield from _interval_problems(args.get("save_steps"), args.get("eval_steps"))


def _interval_problems(save: Any, evaluate: Any) -> Iterator[tuple[str, str]]:
    """Yields an interval of saving that is no multiple of the interval of evaluation."""
    if not all(isinstance(each, int | float) and each > 0 for each in (save, evaluate)):
        missing = "eval_steps" if save else "save_steps"
        both = "both, such as eval_steps: 100 and save_steps: 100"
        other = f"{missing}: {save or evaluate}" if save or evaluate else both
        yield "load_best_model_at_end", f"each evaluated model must be saved. Set {other}"
    elif (save < 1) != (evaluate < 1):
        text = (
            f"save_steps {save:g} and eval_steps {evaluate:g}: one is a number of steps, the other a fraction of them"
        )
        yield "save_steps", f"{text}. Set save_steps: {evaluate:g}"
    elif round(save * 10**6) % round(evaluate * 10**6):
        near = max(1, round(save / evaluate)) * evaluate
        text = f"with load_best_model_at_end it must be a multiple of eval_steps {evaluate:g}"
        yield "save_steps", f"{text}, so that the best model is saved. Set save_steps: {near:g}"


def _names(value: Any) -> list[str]:
    """The texts of a list in the YAML; what is wrong with its type is reported elsewhere."""
    return [each for each in value if isinstance(each, str)] if isinstance(value, list | tuple) else []
