"""What each stage of a recipe does: the tokenizer, pretraining, fine-tuning, the benchmark."""

import os
import sys
import time
from functools import partial

from hflm.core.errors import UserError
from hflm.data import source_stats as shares
from hflm.evaluation import results
from hflm.pipeline import inputs as materials
from hflm.pipeline import provenance as environment
from hflm.pipeline import stage_state as stages


def make_tokenizer(recipe, folder, corpus, material, state):
    """Train the tokenizer on the recipe's own text, or take the one that it names; saved in `tokenizer/`."""
    from hflm.models import load as models
    from hflm.preprocessing import tokenizer as tokenizers

    if state.is_main_process:
        training = recipe.tokenizer.train
        if training is None:
            tokenizer = tokenizers.load(recipe.tokenizer.from_, recipe.tokenizer.revision)
        else:
            started = time.monotonic()
            tokenizer = tokenizers.train(
                materials.tokenizer_texts(recipe, corpus, material, folder / shares.LISTED),
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
    from hflm.models import load as models
    from hflm.preprocessing import packing as pack
    from hflm.preprocessing import streaming as stream
    from hflm.preprocessing import token_cache as encoding
    from hflm.preprocessing.tokenizer import encode

    model, tokenizer = _first_model(recipe, folder)
    stage = recipe.pretrain
    block_size = _block_size(stage, model)
    packing = partial(pack.pack_documents, tokenizer=tokenizer, block_size=block_size, rows=stage.rows)
    validation = corpus.held_out and packing(corpus.held_out)
    if isinstance(corpus.texts, list):
        with state.main_process_first():  # the others find what the first one keeps
            packed = packing(corpus.texts, keep=encoding.home())
        if packed.kept:
            say(f"pretrain: the same text and tokenizer were seen before, their tokens are read from {packed.kept}")
        say(f"pretrain: {pack.told(packed.counts())}")
    elif stage.args.get("max_steps", -1) > 0:
        packed = stream.pack_stream(corpus.texts, tokenizer, block_size, stage.shuffle_buffer, recipe.seed)
    else:
        raise UserError("pretrain.args.max_steps: a stream has no known length. Say how many steps to train")
    if state.is_main_process:
        environment.note_sources(folder, corpus.given, partial(encode, tokenizer), corpus.begun, say)
        shares.list_skipped(corpus.skipped, folder / shares.LISTED)
    model = models.mend_loss(model, stage.z_loss)
    _train("pretrain", model, tokenizer, packed, validation, folder, block_size, key, recipe, state)
    if state.is_main_process:
        environment.note_skipped(folder, say)


def finetune(recipe, folder, material, key, state):
    """All listed tasks together, loss on the target only; the result, any adapter merged, is `finetune/model/`."""
    from hflm.models import load as models
    from hflm.preprocessing import packing as pack
    from hflm.preprocessing.truncation import fit
    from hflm.tasks import chat_template as chat

    model, tokenizer = _model_to_finetune(recipe, folder)
    tokenizer.chat_template = chat.template({name: recipe.tasks[name] for name in recipe.finetune.tasks})
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
    say(f"finetune: {pack.told(rows.counts())}")
    model = models.mend_loss(model, stage.z_loss)
    if stage.adapter is not None:
        model = models.add_adapter(model, stage.adapter)
    _train("finetune", model, tokenizer, rows, packed("validation"), folder, block_size, key, recipe, state)


def benchmark(recipe, folder, names, material, corpus, keys, state, endpoint=None):
    """Yield the name of each task of `names` after it was measured and results.json holds it."""
    from hflm.evaluation import benchmark as benchmarks
    from hflm.evaluation import contamination

    trained = recipe.pretrain is not None or recipe.finetune is not None
    if endpoint is None:
        asked, context_length, revision = _loaded(recipe, folder, trained, state)
    else:
        asked, context_length, revision = endpoint, None, None
    path = folder / "benchmark" / "results.json"
    kept = results.read(path).tasks if path.exists() else {}
    kept = {task: found for task, found in kept.items() if task not in names}
    overlaps = contamination.check(recipe, names, material, corpus, state) if recipe.benchmark.contamination else {}
    if overlaps:
        say(f"compared {', '.join(overlaps)} with the training text")
    for name in names:
        started = time.monotonic()
        if state.is_main_process:
            stages.forget(folder, f"benchmark/{name}")
        setting = benchmarks.Setting(
            context_length=context_length,
            resamples=recipe.benchmark.resamples,
            seed=recipe.seed,
            key=keys[f"benchmark/{name}"],
            model_revision=revision,
            overlap=overlaps.get(name),
        )
        predictions = folder / "benchmark" / "predictions" / f"{name}.jsonl"
        found = benchmarks.benchmark(asked, name, material[name, "test"], setting, predictions)
        if state.is_main_process:
            environment.note(folder, **{f"benchmark/{name}": {"seconds": time.monotonic() - started}})
            kept = {**kept, name: found}
            results.write(results.Results(str(folder) if trained else recipe.model.from_, kept), path)
        yield name


def say(text):
    """One line of the story, from the first process only."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(text, file=sys.stderr, flush=True)


def _train(stage, model, tokenizer, packed, validation, folder, block_size, key, recipe, state):
    from hflm.models import load as models
    from hflm.planning import plan
    from hflm.preprocessing import packing as pack
    from hflm.preprocessing import streaming as stream
    from hflm.training import trainer as train

    if state.is_main_process and stages.begin(folder / stage, key):
        say(f"{stage}: its inputs have changed; the earlier {stage} now lies in {folder / stage}.previous")
    state.wait_for_everyone()
    section = getattr(recipe, stage)
    trained = train.train(
        model,
        packed.rows,
        folder / stage,
        section.args,
        stage=stage,
        seed=recipe.seed,
        collate=partial(pack.collate, pad_token_id=tokenizer.pad_token_id),
        eval_rows=validation.rows if validation else None,
        tokens_per_row=packed.tokens_per_row,
        row_tokens=block_size,
        batch_tokens=section.batch_tokens,
        on_spike=section.on_spike,
    )
    counts = packed.counts()
    if isinstance(packed, stream.PackedStream):  # known only now
        say(f"{stage}: {pack.told(counts)}")
    models.gather(model)
    if state.is_main_process:
        if stage == "finetune" and recipe.finetune.adapter is not None:
            model = models.merge(model, folder / stage / "adapter", recipe.finetune.quantization is not None)
        models.save(folder / stage / "model", model, tokenizer)
        beside = plan.beside(model, packed.rows, recipe, stage, state.num_processes, folder)
        if beside is not None:
            say(f"{stage}: {plan.told(beside)}")
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
                    "packing": counts,
                    "skipped_steps": list(trained.skipped),
                    **trained.speed,
                    "plan": beside,
                }
            },
        )
    state.wait_for_everyone()


def _first_model(recipe, folder, quantization=None):
    """What training starts from: a new model of the recipe's size, or the one that it names."""
    from accelerate.utils import set_seed

    from hflm.models import load as models
    from hflm.preprocessing import tokenizer as tokenizers

    set_seed(recipe.seed)
    if recipe.model.from_ is None:
        tokenizer = tokenizers.load(folder / "tokenizer")
        return models.build(recipe.model.config, tokenizer), tokenizer
    dtype = recipe.model.dtype or "float32"
    model, tokenizer = models.load(recipe.model.from_, recipe.model.revision, dtype, quantization)
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

    from hflm.models import load as models

    quantization = recipe.finetune.quantization
    if recipe.pretrain is None:
        return _first_model(recipe, folder, quantization)
    set_seed(recipe.seed)  # the same adapter and dropout, whether or not pretraining ran in this process
    dtype = recipe.model.dtype or "float32"
    return models.load(folder / "pretrain" / "model", dtype=dtype, quantization=quantization)


def _block_size(stage, model):
    """Tokens in a packed row: the recipe's, or the model's context up to 1024."""
    from hflm.models import load as models

    longest = models.context_length(model)
    if stage.block_size is not None and stage.block_size > longest:
        raise UserError(f"block_size {stage.block_size} is more than the model's context of {longest} tokens")
    return stage.block_size or min(longest, 1024)


def _loaded(recipe, folder, trained, state):
    """The model to measure: (answer.Local, its context in tokens, its revision)."""
    from hflm.inference import local as answer
    from hflm.models import load as models

    place, revision = (str(folder), None) if trained else (recipe.model.from_, recipe.model.revision)
    model, tokenizer = models.load(place, revision, recipe.model.dtype or "float32")
    asked = answer.Local(model.to(state.device).eval(), tokenizer, recipe.benchmark.batch_tokens)
    return asked, models.context_length(model), models.revision(place, revision)
