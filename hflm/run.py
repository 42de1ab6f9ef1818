"""The story of a recipe: tokenizer, pretraining, fine-tuning, benchmark, card, publication.

A stage that ended with the same inputs is skipped, an unfinished one is continued. Everything that a recipe names is
read before anything is trained, so that a bad row is found in the first minute and not after a night.
"""

import os
import re
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from hflm import endpoint as endpoints
from hflm import environment, results, stages
from hflm import material as materials
from hflm import recipe as recipes
from hflm.errors import UserError


def run(recipe, output=None, fresh=False, endpoint=None):
    """Run `recipe` in `output` (default: runs/<name>); `fresh` sets an earlier run in that folder aside first.

    With an Endpoint its answers are measured, in place of a model that is loaded here.
    """
    folder = Path(output) if output else Path("runs") / recipe.name
    keys = stages.keys(recipe, endpoint)
    finished = {} if fresh else stages.finished(folder)
    todo = {stage for stage, key in keys.items() if finished.get(stage) != key}
    if not todo:
        say(f"{folder}: finished, and nothing in the recipe or its data has changed.")
        show(folder, recipe)
        return

    state = _start(recipe)
    with state.main_process_first():  # the others find what the first one cached
        material = materials.read_tasks(recipe, todo, say)
        corpus = materials.read_corpus(recipe, todo, say)
    if state.is_main_process:
        if fresh and folder.exists():
            stages.set_aside(folder)
        folder.mkdir(parents=True, exist_ok=True)
        results.write_text(folder / "recipe.yaml", recipes.dump(recipe))
        environment.write(folder, environment.describe(recipe, state.num_processes))
    state.wait_for_everyone()
    say(f"{folder}: {state.num_processes} process{'es' * (state.num_processes > 1)} on {state.device}")

    if "tokenizer" in todo:
        make_tokenizer(recipe, folder, corpus, material, state)
        _finish(state, folder, "tokenizer", keys)
    if "pretrain" in todo:
        pretrain(recipe, folder, corpus, keys["pretrain"], state)
        _finish(state, folder, "pretrain", keys)
    if "finetune" in todo:
        finetune(recipe, folder, material, keys["finetune"], state)
        _finish(state, folder, "finetune", keys)
    if todo & {"pretrain", "finetune"}:
        last = "finetune" if recipe.finetune else "pretrain"
        if state.is_main_process:
            _copy_whole(folder / last / "model", folder / "model")
        state.wait_for_everyone()
    measured = [name for name in (recipe.benchmark.tasks if recipe.benchmark else ()) if f"benchmark/{name}" in todo]
    if measured:
        for name in benchmark(recipe, folder, measured, material, keys, state, endpoint):
            _finish(state, folder, f"benchmark/{name}", keys)
    if state.is_main_process:
        from hflm import card

        card.write(folder, recipe)
        show(folder, recipe)
        if "push" in todo:
            from hflm import push

            say(f"pushed to {push.push(folder, recipe)}")
    state.wait_for_everyone()
    if "push" in todo:
        _finish(state, folder, "push", keys)


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
    name = Path(model).stem if Path(model).exists() else re.sub("[/:]+", "--", model)
    folder = Path(output) if output else Path("runs") / f"{recipe.name}-bench-{name}"
    recipe = recipe.model_copy(
        update={
            "model": type(recipe.model).model_validate({"from": model}),
            "tokenizer": None,
            "pretrain": None,
            "finetune": None,
            "push": None,
        }
    )
    run(recipe, folder, endpoint=endpoint)


def _without_likelihoods(recipe):
    """An endpoint writes text and tells no likelihoods. Raises UserError for a task that needs them."""
    for name in recipe.benchmark.tasks:
        if recipe.tasks[name].kind == "language_modeling":
            raise UserError(
                f"benchmark.tasks: {name} needs the likelihood of its text, which an endpoint does not tell. "
                "Leave it out with --set benchmark.tasks=[...]"
            )


def make_tokenizer(recipe, folder, corpus, material, state):
    """Train the tokenizer on the recipe's own text, or take the one that it names; saved in `tokenizer/`."""
    from hflm import model as models
    from hflm import tokenizer as tokenizers

    if state.is_main_process:
        training = recipe.tokenizer.train
        if training is None:
            tokenizer = tokenizers.load(recipe.tokenizer.from_, recipe.tokenizer.revision)
        else:
            started = time.monotonic()
            tokenizer = tokenizers.train(
                materials.tokenizer_texts(recipe, corpus, material),
                training.algorithm,
                training.vocab_size,
                training.min_frequency,
            )
            say(f"tokenizer: {training.algorithm}, {len(tokenizer):,} entries")
            environment.note(folder, tokenizer={"seconds": time.monotonic() - started, "entries": len(tokenizer)})
        models.save(folder / "tokenizer", tokenizer)
    state.wait_for_everyone()


def pretrain(recipe, folder, corpus, key, state):
    """Next-token prediction on the corpus; the result is `pretrain/model/`."""
    from hflm import model as models
    from hflm import pack

    model, tokenizer = _first_model(recipe, folder)
    stage = recipe.pretrain
    block_size = _block_size(stage, model)
    validation = corpus.held_out and pack.pack_documents(corpus.held_out, tokenizer, block_size, stage.rows)
    if isinstance(corpus.texts, list):
        packed = pack.pack_documents(corpus.texts, tokenizer, block_size, stage.rows)
        say(
            f"pretrain: {packed.tokens:,} tokens in {len(packed.rows):,} rows of {block_size}, {packed.cut:,} texts cut"
        )
    elif stage.args.get("max_steps", -1) > 0:
        packed = pack.pack_stream(corpus.texts, tokenizer, block_size)
    else:
        raise UserError("pretrain.args.max_steps: a stream has no known length. Say how many steps to train")
    _train("pretrain", models.mend_loss(model), tokenizer, packed, validation, folder, stage.args, key, recipe, state)


def finetune(recipe, folder, material, key, state):
    """All listed tasks together, loss on the target only; the result, any adapter merged, is `finetune/model/`."""
    from hflm import model as models
    from hflm import pack
    from hflm.tasks.fit import fit

    model, tokenizer = _model_to_finetune(recipe, folder)
    stage = recipe.finetune
    block_size = _block_size(stage, model)

    def packed(use):
        pairs, cut = [], 0
        for name in stage.tasks:
            found = material.get((name, use))
            if found is None:
                continue
            lengths = pack.target_lengths([example.target for example in found.examples], tokenizer)
            rooms = [block_size - length for length in lengths]
            examples, shortened = fit(found.task, found.examples, tokenizer, rooms, found.where)
            cut += shortened
            pairs += [(example.prompt, example.target) for example in examples]
        return pack.pack_examples(pairs, tokenizer, block_size, cut) if pairs else None

    rows = packed("train")
    say(
        f"finetune: {rows.pieces:,} examples, {rows.tokens:,} tokens in {len(rows.rows):,} rows, {rows.cut:,} texts cut"
    )
    model = models.mend_loss(model)
    if stage.adapter is not None:
        model = models.add_adapter(model, stage.adapter)
    _train("finetune", model, tokenizer, rows, packed("validation"), folder, stage.args, key, recipe, state)


def benchmark(recipe, folder, names, material, keys, state, endpoint=None):
    """Yield the name of each task of `names` after it was measured and results.json holds it."""
    from hflm import benchmark as benchmarks

    trained = recipe.pretrain is not None or recipe.finetune is not None
    if endpoint is None:
        asked, context_length, revision = _loaded(recipe, folder, trained, state)
    else:
        asked, context_length, revision = endpoint, None, None
    path = folder / "benchmark" / "results.json"
    kept = results.read(path).tasks if path.exists() else {}
    for name in names:
        started = time.monotonic()
        setting = benchmarks.Setting(
            context_length=context_length,
            resamples=recipe.benchmark.resamples,
            seed=recipe.seed,
            key=keys[f"benchmark/{name}"],
            model_revision=revision,
        )
        predictions = folder / "benchmark" / "predictions" / f"{name}.jsonl"
        found = benchmarks.benchmark(asked, name, material[name, "test"], setting, predictions)
        if state.is_main_process:
            environment.note(folder, **{f"benchmark/{name}": {"seconds": time.monotonic() - started}})
            kept = {**kept, name: found}
            in_order = {task: kept[task] for task in recipe.benchmark.tasks if task in kept}
            results.write(results.Results(str(folder) if trained else recipe.model.from_, in_order), path)
        yield name


def _loaded(recipe, folder, trained, state):
    """The model to measure: (answer.Local, its context in tokens, its revision)."""
    from hflm import answer
    from hflm import model as models

    place, revision = (str(folder), None) if trained else (recipe.model.from_, recipe.model.revision)
    model, tokenizer = models.load(place, revision, recipe.model.dtype or "float32")
    asked = answer.Local(model.to(state.device).eval(), tokenizer, recipe.benchmark.batch_tokens)
    return asked, models.context_length(model), models.revision(place, revision)


def show(folder, recipe):
    """The summary in the terminal: the benchmark's table and where the card is."""
    from rich.console import Console

    if recipe.benchmark is not None:
        Console().print(results.table(results.read(folder / "benchmark" / "results.json")))
    say(f"card: {folder / 'README.md'}")


def say(text):
    """One line of the story, from the first process only."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(text, file=sys.stderr, flush=True)


def _train(stage, model, tokenizer, packed, validation, folder, args, key, recipe, state):
    from hflm import model as models
    from hflm import pack, train

    if state.is_main_process and stages.begin(folder / stage, key):
        say(f"{stage}: its inputs have changed; the earlier {stage} now lies in {folder / stage}.previous")
    state.wait_for_everyone()
    trained = train.train(
        model,
        packed.rows,
        folder / stage,
        args,
        stage=stage,
        seed=recipe.seed,
        collate=partial(pack.collate, pad_token_id=tokenizer.pad_token_id),
        eval_rows=validation.rows if validation else None,
        tokens_per_row=packed.tokens_per_row,
    )
    if state.is_main_process:
        if stage == "finetune" and recipe.finetune.adapter is not None:
            model.save_pretrained(folder / stage / "adapter")
            model = model.merge_and_unload()
        models.save(folder / stage / "model", model, tokenizer)
        environment.note(
            folder,
            parameters=model.num_parameters(),
            **{
                stage: {
                    "seconds": trained.seconds,
                    "steps": trained.steps,
                    "tokens": trained.tokens,
                    "final_loss": trained.loss,
                    "final_eval_loss": trained.eval_loss,
                }
            },
        )
    state.wait_for_everyone()


def _start(recipe):
    """The process group (one process unless a launcher started several), seeded."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import set_seed
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    set_seed(recipe.seed)
    return PartialState(cpu=not torch.accelerator.is_available())


def _finish(state, folder, stage, keys):
    if state.is_main_process:
        stages.finish(folder, stage, keys[stage])
    state.wait_for_everyone()


def _first_model(recipe, folder):
    """What training starts from: a new model of the recipe's size, or the one that it names."""
    from accelerate.utils import set_seed

    from hflm import model as models
    from hflm import tokenizer as tokenizers

    set_seed(recipe.seed)
    if recipe.model.from_ is None:
        tokenizer = tokenizers.load(folder / "tokenizer")
        return models.build(recipe.model.config, tokenizer), tokenizer
    model, tokenizer = models.load(recipe.model.from_, recipe.model.revision, recipe.model.dtype or "float32")
    if recipe.tokenizer is not None:
        tokenizer = tokenizers.load(folder / "tokenizer")
        if len(tokenizer) > model.config.vocab_size:
            raise UserError(
                f"tokenizer: it has {len(tokenizer):,} entries, the model {recipe.model.from_} only "
                f"{model.config.vocab_size:,}. Remove the section: the model brings its own tokenizer"
            )
        if recipe.tokenizer.train is not None:
            say("tokenizer: a new vocabulary on a trained model: its embeddings were learnt with another one")
    return model, tokenizer


def _model_to_finetune(recipe, folder):
    from accelerate.utils import set_seed

    from hflm import model as models

    if recipe.pretrain is None:
        return _first_model(recipe, folder)
    set_seed(recipe.seed)  # the same adapter and dropout, whether or not pretraining ran in this process
    return models.load(folder / "pretrain" / "model", dtype=recipe.model.dtype or "float32")


def _block_size(stage, model):
    """Tokens in a packed row: the recipe's, or the model's context up to 1024."""
    from hflm import model as models

    longest = models.context_length(model)
    if stage.block_size is not None and stage.block_size > longest:
        raise UserError(f"block_size {stage.block_size} is more than the model's context of {longest} tokens")
    return stage.block_size or min(longest, 1024)


def _copy_whole(source, target):
    """Copy a folder so that the copy appears whole or not at all."""
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        shutil.copytree(source, beside, dirs_exist_ok=True)
        if target.exists():
            shutil.rmtree(target)
        os.replace(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
