"""The story of a recipe: tokenizer, pretraining, fine-tuning, benchmark, card, publication.

A stage that ended with the same inputs is skipped, an unfinished one is continued. Everything that a recipe names is
read before anything is trained, so that a bad row is found in the first minute and not after a night.
"""

import re
import shutil
from pathlib import Path

from hflm.core import atomic_io, paths
from hflm.core import run_files as records
from hflm.core.errors import UserError
from hflm.data import source_stats as shares
from hflm.evaluation import results
from hflm.inference import endpoint as endpoints
from hflm.pipeline import inputs as materials
from hflm.pipeline import provenance as environment
from hflm.pipeline import stage_state as stages
from hflm.pipeline import steps
from hflm.pipeline.steps import say
from hflm.recipe import dump_recipe, require_trackers


def run(recipe, output=None, fresh=False, endpoint=None, locked=False):
    """Run `recipe` in `output` (default: runs/<name>); `fresh` sets an earlier run in that folder aside first.

    With an Endpoint its answers are measured, in place of a model that is loaded here. `locked`: only when all data and
    models are those of the folder's environment.json.
    """
    folder = paths.place(output) if output else Path("runs") / recipe.name
    if locked:
        environment.locked(folder, recipe)
    keys = stages.keys(recipe, endpoint)
    finished = {} if fresh else stages.finished(folder)
    todo = {stage for stage, key in keys.items() if finished.get(stage) != key}
    # What no stage depends on (a licence, a task less) changes the record and the card.
    recorded = folder / "recipe.yaml"
    if not todo and recorded.exists() and recorded.read_text(encoding="utf-8") == dump_recipe(recipe):
        say(f"{folder}: finished, and nothing in the recipe or its data has changed.")
        show(folder, recipe)
        return

    if "finetune" in todo and recipe.finetune.quantization is not None:
        from hflm.models import load as models

        models.check_quantization()
    for stage in todo & {"pretrain", "finetune"}:
        require_trackers(getattr(recipe, stage).args.get("report_to"), stage)
    state = _start(recipe)
    if recipe.processes is not None and state.num_processes < recipe.processes:
        raise UserError(
            f"processes: the recipe asks for {recipe.processes}, and {state.num_processes} started. Use `torchrun "
            f"--nproc_per_node {recipe.processes} -m hflm run ...`, or accelerate launch with a configuration of "
            "recipes/launch (with --cpu alone it starts one process)"
        )
    with state.main_process_first():  # the others find what the first one cached
        material = materials.read_tasks(recipe, todo, say)
        corpus = materials.read_corpus(recipe, todo, say, folder / shares.LISTED)
    if state.is_main_process:
        if fresh and folder.exists():
            stages.set_aside(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if records.read_json(folder / "pretrain" / "inputs.json").get("key") != keys.get("pretrain"):
            (folder / shares.LISTED).unlink(missing_ok=True)  # it belongs to other data
        atomic_io.write_text(recorded, dump_recipe(recipe))
        if todo != {"push"}:  # what is pushed again is what the run left
            environment.write(folder, environment.describe(recipe, state.num_processes), keys)
            _tell_cleaning(folder, recipe, corpus)
    state.wait_for_everyone()
    say(f"{folder}: {state.num_processes} process{'es' * (state.num_processes > 1)} on {state.device}")

    if "tokenizer" in todo:
        _begin(state, folder, "tokenizer")
        steps.make_tokenizer(recipe, folder, corpus, material, state)
        _finish(state, folder, "tokenizer", keys)
    if "pretrain" in todo:
        steps.pretrain(recipe, folder, corpus, keys["pretrain"], state)
        _finish(state, folder, "pretrain", keys)
    if "finetune" in todo:
        steps.finetune(recipe, folder, material, keys["finetune"], state)
        _finish(state, folder, "finetune", keys)
    if "model" in todo:
        _begin(state, folder, "model")
        last = "finetune" if recipe.finetune else "pretrain"
        if state.is_main_process:
            with atomic_io.whole_folder(folder / "model") as beside:
                shutil.copytree(folder / last / "model", beside, dirs_exist_ok=True)
        _finish(state, folder, "model", keys)
    measured = [name for name in (recipe.benchmark.tasks if recipe.benchmark else ()) if f"benchmark/{name}" in todo]
    if measured:
        for name in steps.benchmark(recipe, folder, measured, material, corpus, keys, state, endpoint):
            _finish(state, folder, f"benchmark/{name}", keys)
    if state.is_main_process:
        from hflm.publishing import card

        if recipe.benchmark is not None:
            results.keep_only(recipe.benchmark.tasks, folder / "benchmark" / "results.json")
        card.write(folder, recipe)
        show(folder, recipe)
    state.wait_for_everyone()
    if "push" in todo and state.is_main_process:  # the last stage: nobody waits for it, however it ends
        from hflm.publishing import push

        say(f"pushed to {push.push(folder, recipe)}")
        stages.finish(folder, "push", keys["push"])


def bench(model, recipe, output=None, base_url=None, chat=False):
    """Run only the benchmark of `recipe` on `model`: a run, a folder, a .gguf file, a Hub id.

    `openai:NAME` is a model behind the endpoint at `base_url`, asked by completions or by `chat`.
    """
    if recipe.benchmark is None:
        raise UserError(f"the recipe {recipe.name} has no benchmark section")
    endpoint = None
    if model.startswith(endpoints.PREFIX):
        _without_likelihoods(recipe)
        endpoint = endpoints.find(model, base_url, chat)
    elif base_url is not None or chat:
        raise UserError(f"{model}: --base-url and --chat are for a model behind an endpoint, openai:NAME")
    folder = paths.place(output) if output else Path("runs") / f"{recipe.name}-bench-{_short(model)}"
    if any((folder / part).exists() for part in ("pretrain", "finetune", "model")):
        raise UserError(f"--output {folder}: a trained run lies there, which this would overwrite. Name another folder")
    recipe = recipe.model_copy(
        update={
            "processes": None,  # asked for the training
            "model": type(recipe.model).model_validate({"from": model}),
            "tokenizer": None,
            "pretrain": None,
            "finetune": None,
            "push": None,
        }
    )
    run(recipe, folder, endpoint=endpoint)


def _short(model):
    """A model's name as part of a folder's: of a path its end.

    >>> _short("openai-community/gpt2")
    'openai-community--gpt2'
    """
    place = paths.place(model)
    if not place.exists():
        return re.sub("[/:]+", "--", model)
    place = place.resolve()
    if place.is_file():
        return place.stem
    return f"{place.parent.name}-{place.name}" if place.name in ("model", "adapter") else place.name


def _without_likelihoods(recipe):
    """An endpoint writes text and tells no likelihoods. Raises UserError for a task that needs them."""
    for name in recipe.benchmark.tasks:
        if recipe.tasks[name].kind == "language_modeling":
            raise UserError(
                f"benchmark.tasks: {name} needs the likelihood of its text, which an endpoint does not tell. "
                "Leave it out with --set benchmark.tasks=[...]"
            )


def show(folder, recipe):
    """The summary in the terminal: the benchmark's table and where the card is."""
    from rich.console import Console

    if recipe.benchmark is not None:
        Console().print(results.table(results.read(folder / "benchmark" / "results.json")))
    say(f"card: {folder / 'README.md'}")


def _tell_cleaning(folder, recipe, corpus):
    """What cleaning left out of the corpus, in the terminal and in data/cleaning.json."""
    path = folder / "data" / "cleaning.json"
    if corpus is not None and corpus.cleaning is not None:
        from rich.console import Console

        from hflm.data.cleaning import cleaning_table, write_report

        write_report(corpus.cleaning, path)
        Console(stderr=True).print(cleaning_table(corpus.cleaning))
    elif corpus is not None or recipe.pretrain is None or recipe.pretrain.clean is None:
        path.unlink(missing_ok=True)


def _start(recipe):
    """The process group (one process unless a launcher started several), seeded."""
    from logging import ERROR, getLogger

    getLogger("bitsandbytes").setLevel(ERROR)  # a faster kernel that it misses, each product that it casts
    import torch
    from accelerate import PartialState
    from accelerate.utils import set_seed
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    set_seed(recipe.seed)
    return PartialState(cpu=not torch.accelerator.is_available())


def _begin(state, folder, stage):
    if state.is_main_process:
        stages.forget(folder, stage)
    state.wait_for_everyone()


def _finish(state, folder, stage, keys):
    if state.is_main_process:
        stages.finish(folder, stage, keys[stage])
    state.wait_for_everyone()
