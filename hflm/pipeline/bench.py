"""`hflm bench`: the benchmark of a recipe alone, on any model."""

import re
from pathlib import Path

from hflm.core import UserError, expand_path
from hflm.inference import ENDPOINT_PREFIX, find_endpoint, request_options
from hflm.pipeline.run import run_recipe
from hflm.pipeline.run_folder import run_folder
from hflm.recipe import Recipe
from hflm.tasks import task_settings


def benchmark_model(
    model: str,
    recipe: Recipe,
    output: str | Path | None = None,
    base_url: str | None = None,
    chat: bool = False,
    dtype: str | None = None,
) -> None:
    """Run only the benchmark of `recipe` on `model`: a run, a folder, a .gguf file, a Hub id.

    `openai:NAME` is a model behind the endpoint at `base_url`, asked by completions or by `chat`. `dtype` takes the place
    of the recipe's `benchmark.dtype`.
    """
    if recipe.benchmark is None:
        raise UserError(f"the recipe {recipe.name} has no benchmark section")
    endpoint = None
    if model.startswith(ENDPOINT_PREFIX):
        if dtype is not None:
            raise UserError(f"{model}: --dtype is for a model on this machine. Leave it out")
        _check_endpoint_tasks(recipe, chat)
        endpoint = find_endpoint(model, base_url, chat)
    elif base_url is not None or chat:
        raise UserError(f"{model}: --base-url and --chat are for a model behind an endpoint, openai:NAME")
    folder = run_folder(
        recipe, Path("runs") / f"{recipe.name}-bench-{_short_name(model)}" if output is None else output
    )
    if any((folder / part).exists() for part in ("pretrain", "finetune", "model")):
        raise UserError(f"--output {folder}: it holds a trained run, which this would overwrite. Name another folder")
    benchmarked = {
        "processes": None,  # asked for the training
        "model": type(recipe.model).model_validate({"from": model}),
        "tokenizer": None,
        "pretrain": None,
        "finetune": None,
        "push": None,
    }
    if dtype is not None:
        benchmarked["benchmark"] = recipe.benchmark.model_copy(update={"dtype": dtype})
    run_recipe(recipe.model_copy(update=benchmarked), folder, endpoint=endpoint)


def _short_name(model: str) -> str:
    """A model's name as part of a folder's name: the last part of a path.

    >>> _short_name("openai-community/gpt2")
    'openai-community--gpt2'
    """
    place = expand_path(model)
    if not place.exists():
        return re.sub("[/:]+", "--", model)
    place = place.resolve()
    if place.is_file():
        return place.stem
    return f"{place.parent.name}-{place.name}" if place.name in ("model", "adapter") else place.name


def _check_endpoint_tasks(recipe: Recipe, chat: bool) -> None:
    """Raise UserError for a task that needs what an endpoint does not have: likelihoods, beam search."""
    for name in recipe.benchmark.tasks if recipe.benchmark else ():
        if recipe.tasks[name].kind == "language_modeling":
            raise UserError(
                f"benchmark.tasks: {name} needs the likelihood of its text, which an endpoint does not give. "
                "Leave it out with --set benchmark.tasks=[...]"
            )
        if recipe.tasks[name].kind == "chat" and not chat:
            raise UserError(f"benchmark.tasks: {name} are conversations, which an endpoint takes by chat. Add --chat")
        if scores := set(task_settings(recipe.tasks[name]).metrics) & {"perplexity", "bits_per_byte"}:
            raise UserError(
                f"tasks.{name}.metrics: {' and '.join(sorted(scores))} need likelihoods, which an endpoint does not give. "
                f"Leave them out with --set tasks.{name}.metrics=[rougeL,f1]"
            )
        try:
            request_options(getattr(recipe.tasks[name], "generation", None) or {})
        except UserError as error:
            raise UserError(
                f"tasks.{name}.generation: {error}, or answer greedily with --set tasks.{name}.generation=null"
            ) from None
