"""The model card: README.md, plots/ and .eval_results/, made only from what a run left on disk.

It can be made again at any time, needs neither torch nor transformers, and shows no secret and no folder of the
machine it was made on. Whatever a run did not produce is left out: a benchmark alone has no learning curve.
"""

import json
from pathlib import Path

import yaml

from hflm.core import (
    atomic_write_bytes,
    atomic_write_text,
    code_block,
    display_name,
    escape_markdown,
    is_hub_id,
    mask_tokens,
    read_json,
    read_loss_curves,
    redact,
)
from hflm.evaluation import Results, format_interval, plots, read_results
from hflm.publishing import card_benchmark
from hflm.publishing import card_provenance as card_made

# The Hub's names for what a task and a metric are; everything else goes under our own name.
HUB_TASKS = {
    "translation": "translation",
    "summarization": "summarization",
    "sentiment": "text-classification",
    "choice": "text-classification",
    "qa": "question-answering",
}
HUB_METRICS = {"macro_f1": "f1", "mcc": "matthews_correlation"}


def write(run, recipe):
    """Write `run`/README.md, plots/*.png and .eval_results/hflm.yaml from the rest of the folder and its `recipe`.

    Raises UserError when benchmark/results.json is there but unreadable. Reads environment.json,
    {pretrain,finetune}/metrics.jsonl, benchmark/results.json, benchmark/predictions/*.jsonl, model/config.json.
    """
    run = Path(run)
    environment = read_json(run / "environment.json")
    config = read_json(run / "model" / "config.json")
    scores = run / "benchmark" / "results.json"
    found = read_results(scores) if scores.exists() else Results("", {})
    logs = {
        stage: read_loss_curves(run / stage / "metrics.jsonl")
        for stage in ("pretrain", "finetune")
        if getattr(recipe, stage)
    }
    logs = {stage: log for stage, log in logs.items() if log.curves}
    samples = {name: card_benchmark.samples(run, name, task) for name, task in found.tasks.items()}

    _picture(run / "plots" / "learning_curve.png", plots.learning_curves, {s: log.curves for s, log in logs.items()})
    _picture(run / "plots" / "benchmark.png", plots.benchmark, found if found.tasks else None)
    calibrated = {name: task for name, task in found.tasks.items() if task.calibration}
    _picture(run / "plots" / "reliability.png", plots.reliability, calibrated)

    repo_id = recipe.push.repo_id if recipe.push else run.resolve().name
    sections = [
        f"---\n{_metadata(recipe, found, config)}\n---",
        f"# {escape_markdown(recipe.name)}",
        _sentence(recipe, environment, config),
        *_purpose(recipe, config),
        *card_benchmark.section(found, samples),
        *_learning(logs),
        *_use(repo_id, samples, config),
        *_limits(recipe, found, config),
        *card_made.data(recipe, environment),
        *card_made.cleaning(read_json(run / "data" / "cleaning.json")),
        *card_made.made(recipe, environment),
    ]
    atomic_write_text(run / "README.md", "\n\n".join(sections) + "\n")
    _leaderboard(run / ".eval_results" / "hflm.yaml", recipe, found, environment)


def _picture(path, draw, what):
    """Draw `what` at `path`; with nothing to draw, take away what an earlier run drew there."""
    if what:
        atomic_write_bytes(path, draw(what))
    else:
        path.unlink(missing_ok=True)


# What the recipe says.


def _trained_on(recipe):
    """The data sets that training read, in order."""
    names = recipe.finetune.tasks if recipe.finetune else ()
    return [*(recipe.pretrain.data if recipe.pretrain else ()), *(recipe.tasks[name].data for name in names)]


def _called(data):
    name = data.options.get("name")
    return display_name(data.path) + (f" ({name})" if name else "")


def _metadata(recipe, found, config):
    from huggingface_hub import EvalResult, ModelCardData

    trained = _trained_on(recipe)
    scores = []
    for name, task in found.tasks.items():
        asked = recipe.tasks.get(name)
        options = asked.data.options if asked else {}
        for metric, score in task.metrics.items():
            scores.append(
                EvalResult(
                    task_type=HUB_TASKS.get(task.kind, "text-generation"),
                    task_name=name,
                    dataset_type=display_name(asked.data.path) if asked else "unknown",
                    dataset_name=redact(task.data),
                    dataset_config=options.get("name"),
                    dataset_split=asked.splits.test if asked else None,
                    dataset_revision=options.get("revision"),
                    metric_type="rouge" if metric.startswith("rouge") else HUB_METRICS.get(metric, metric),
                    metric_name=metric,
                    metric_value=score.value,
                )
            )
    base = recipe.model.from_
    card = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["hflm", config.get("model_type", "gpt2")],
        datasets=list(dict.fromkeys(data.path for data in trained if is_hub_id(data.path))) or None,
        base_model=base if base and trained and is_hub_id(base) else None,
        license=recipe.push.license if recipe.push else None,
        model_name=recipe.name if scores else None,
        eval_results=scores or None,
    )
    return card.to_yaml()


def _leaderboard(path, recipe, found, environment):
    """Write each task's main metric in the form that the Hub's leaderboards read: scores on data sets of the Hub only.

    The form (huggingface.co/docs/hub/eval-results) knows a data set, a task in it and a value; what kind of value it
    is, and how sure, stands in the notes.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries = []
    for name, task in found.tasks.items():
        asked = recipe.tasks.get(name)
        if asked is None or not is_hub_id(asked.data.path):
            continue
        metric, options = task.main()[0], asked.data.options
        score = task.metrics[metric]
        entries.append(
            EvalResultEntry(
                dataset_id=asked.data.path,
                task_id=options.get("name") or "default",
                value=score.value,
                dataset_revision=options.get("revision"),
                date=environment.get("created"),
                notes=(
                    f"{metric} on {task.n} rows of {asked.splits.test}, 95 % interval "
                    f"{format_interval(metric, score)}; {task.shots} shots, {task.decoding}"
                ),
            )
        )
    if entries:
        atomic_write_text(path, yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False))
    else:
        path.unlink(missing_ok=True)


def _purpose(recipe, config):
    """What the model is for and what not."""
    if not config:  # no model/ in this run: a benchmark of somebody else's model
        return []
    uses = []
    if recipe.finetune:
        tasks = ", ".join(map(escape_markdown, recipe.finetune.tasks))
        uses.append(f"For {tasks}, asked in the form of its training's prompts (the samples show it).")
    elif recipe.pretrain:
        uses.append("For continuing text of the kind that it was trained on. It follows no instructions.")
    uses.append("For studying how such models are made: its recipe, data and scores stand below.")
    uses.append(
        "Not for facts, advice, or decisions about people, and not for other tasks, languages or kinds of text than "
        "its training's."
    )
    return ["## What it is for, and what not", "\n".join(f"- {use}" for use in uses)]


def _sentence(recipe, environment, config):
    family = "GPT-2-style" if config.get("model_type", "gpt2") == "gpt2" else escape_markdown(config["model_type"])
    count = (environment.get("model") or {}).get("parameters")
    what = f"A {family} language model" + (f" with {count:,} parameters" if count else "")
    base = f"`{display_name(recipe.model.from_).replace('`', '')}`" if recipe.model.from_ else None
    if not recipe.pretrain and not recipe.finetune:
        return f"{what}{f' ({base})' if base else ''}, benchmarked as it is; nothing was trained."
    steps = []
    if recipe.pretrain:
        texts = ", ".join(escape_markdown(_called(data)) for data in recipe.pretrain.data)
        steps.append(f"pretrained further from {base} on {texts}" if base else f"trained from scratch on {texts}")
    if recipe.finetune:
        tasks = ", ".join(
            f"{escape_markdown(name)} ({escape_markdown(_called(recipe.tasks[name].data))})"
            for name in recipe.finetune.tasks
        )
        how = "fine-tuned with an adapter" if recipe.finetune.adapter else "fine-tuned"
        start = f" from {base}" if base and not recipe.pretrain else ""
        steps.append(f"{how}{start} on {tasks}")
    return f"{what}, {', then '.join(steps)}."


# The sections: each a list of markdown blocks, empty when there is nothing to say.


def _learning(logs):
    if not logs:
        return []
    facts = []
    for stage, log in logs.items():
        last = ", ".join(f"{name} loss {losses[max(losses)]:.3f}" for name, losses in log.curves.items())
        speed = f", {log.tokens_per_second:,.0f} tokens/s (median)" if log.tokens_per_second else ""
        facts.append(f"{stage}: {escape_markdown(last)}{speed}")
    return [
        "## Learning curve",
        "![Loss by optimizer step](plots/learning_curve.png)",
        f"At the end of {'; of '.join(facts)}.",
    ]


def _use(repo_id, samples, config):
    if not config:  # no model/ in this run: a benchmark of somebody else's model
        return []
    prompts = [row["prompt"] for rows in samples.values() for _, row in rows[:1] if row.get("prompt")]
    prompt = prompts[0] if prompts and len(prompts[0]) <= 200 else "Once upon a time"
    code = (
        "from transformers import pipeline\n"
        f'generate = pipeline("text-generation", model={json.dumps(repo_id)})\n'
        f'print(generate({mask_tokens(prompt)!r}, max_new_tokens=40)[0]["generated_text"])'
    )
    return ["## How to use it", code_block(code, "python")]


def _limits(recipe, found, config):
    limits = []
    if any(data.path == "toy" for data in _trained_on(recipe)):
        limits.append("Trained on generated toy text: it says nothing about real language.")
    toys = [name for name in found.tasks if name in recipe.tasks and recipe.tasks[name].data.path == "toy"]
    if toys:
        limits.append(
            f"Scores on {', '.join(map(escape_markdown, toys))} are on generated toy rows, far easier than real ones; "
            "their few sentence patterns recur, in training text too."
        )
    longest = config.get("n_positions") or config.get("max_position_embeddings")
    if longest:
        limits.append(f"It reads at most {longest:,} tokens, prompt and answer together.")
    limits += _unread(recipe, found)
    if found.tasks:
        limits.append("The intervals cover the choice of test rows, not the luck of one training seed.")
    limits.append("It repeats the mistakes and prejudices of its training text, and can state falsehoods fluently.")
    return ["## Limits", "\n".join(f"- {limit}" for limit in limits)]


def _unread(recipe, found):
    """What was trained on and not compared with the benchmark."""
    if not found.tasks or recipe.benchmark is None or not (recipe.pretrain or recipe.finetune):
        return []
    if not recipe.benchmark.contamination:
        return ["Whether the benchmark's examples stand in the training text was not checked."]
    unread = []
    if recipe.pretrain and any(data.options.get("streaming") for data in recipe.pretrain.data):
        unread.append("The pretraining text was a stream and was not read again to look for the benchmark's examples.")
    if recipe.model.from_:
        unread.append("What its base model was trained on was not compared with the benchmark's examples.")
    return unread
