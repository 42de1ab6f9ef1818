"""The model card: README.md and plots/, made only from what a run left on disk.

It can be made again at any time, needs neither torch nor transformers, and shows no secret and no folder of the
machine it was made on. Whatever a run did not produce is left out: a benchmark alone has no learning curve.
"""

import json
from pathlib import Path

import yaml

from hflm import card_benchmark, plots, records, results
from hflm.markdown import fenced, inert, table
from hflm.public import hub_id, public, shown, without_tokens
from hflm.recipe import dump

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
    """Write `run`/README.md and `run`/plots/*.png from the rest of the folder `run` and its `recipe`.

    Raises UserError when benchmark/results.json is there but unreadable. Reads environment.json,
    {pretrain,finetune}/metrics.jsonl, benchmark/results.json, benchmark/predictions/*.jsonl, model/config.json.
    """
    run = Path(run)
    environment = records.read_json(run / "environment.json")
    config = records.read_json(run / "model" / "config.json")
    scores = run / "benchmark" / "results.json"
    found = results.read(scores) if scores.exists() else results.Results("", {})
    logs = {stage: records.learning(run / stage / "metrics.jsonl") for stage in ("pretrain", "finetune")}
    logs = {stage: log for stage, log in logs.items() if log["curves"]}
    samples = {name: records.samples(run, name, task) for name, task in found.tasks.items()}

    _picture(run / "plots" / "learning_curve.png", plots.learning_curves, {s: log["curves"] for s, log in logs.items()})
    _picture(run / "plots" / "benchmark.png", plots.benchmark, found if found.tasks else None)
    calibrated = {name: task for name, task in found.tasks.items() if task.calibration}
    _picture(run / "plots" / "reliability.png", plots.reliability, calibrated)

    repo_id = recipe.push.repo_id if recipe.push else run.resolve().name
    sections = [
        f"---\n{_metadata(recipe, found, config)}\n---",
        f"# {inert(recipe.name)}",
        _sentence(recipe, environment, config),
        *card_benchmark.section(found, samples),
        *_learning(logs),
        *_use(repo_id, samples, config),
        *_limits(recipe, found, config),
        *_data(environment),
        *_made(recipe, environment),
    ]
    results.write_text(run / "README.md", "\n\n".join(sections) + "\n")


def _picture(path, draw, what):
    """Draw `what` at `path`; with nothing to draw, take away what an earlier run drew there."""
    if what:
        results.write_bytes(path, draw(what))
    else:
        path.unlink(missing_ok=True)


# What the recipe says.


def _trained_on(recipe):
    """The data sets that training read, in order."""
    names = recipe.finetune.tasks if recipe.finetune else ()
    return [*(recipe.pretrain.data if recipe.pretrain else ()), *(recipe.tasks[name].data for name in names)]


def _called(data):
    name = data.options.get("name")
    return shown(data.path) + (f" ({name})" if name else "")


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
                    dataset_type=shown(asked.data.path) if asked else "unknown",
                    dataset_name=public(task.data),
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
        datasets=list(dict.fromkeys(data.path for data in trained if hub_id(data.path))) or None,
        base_model=base if base and trained and hub_id(base) else None,
        model_name=recipe.name,
        eval_results=scores or None,
    )
    return card.to_yaml()


def _sentence(recipe, environment, config):
    family = "GPT-2-style" if config.get("model_type", "gpt2") == "gpt2" else inert(config["model_type"])
    count = (environment.get("model") or {}).get("parameters")
    what = f"A {family} language model" + (f" with {count:,} parameters" if count else "")
    base = f"`{shown(recipe.model.from_).replace('`', '')}`" if recipe.model.from_ else None
    if not recipe.pretrain and not recipe.finetune:
        return f"{what}{f' ({base})' if base else ''}, benchmarked as it is; nothing was trained."
    steps = []
    if recipe.pretrain:
        texts = ", ".join(inert(_called(data)) for data in recipe.pretrain.data)
        steps.append(f"pretrained further from {base} on {texts}" if base else f"trained from scratch on {texts}")
    if recipe.finetune:
        tasks = ", ".join(
            f"{inert(name)} ({inert(_called(recipe.tasks[name].data))})" for name in recipe.finetune.tasks
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
        last = ", ".join(f"{name} loss {losses[max(losses)]:.3f}" for name, losses in log["curves"].items())
        speed = f", {log['speed']:,.0f} tokens/s (median)" if log["speed"] else ""
        facts.append(f"{stage}: {inert(last)}{speed}")
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
        f'print(generate({without_tokens(prompt)!r}, max_new_tokens=40)[0]["generated_text"])'
    )
    return ["## How to use it", fenced(code, "python")]


def _limits(recipe, found, config):
    limits = []
    if any(data.path == "toy" for data in _trained_on(recipe)):
        limits.append("Trained on generated toy text: it says nothing about real language.")
    toys = [name for name in found.tasks if name in recipe.tasks and recipe.tasks[name].data.path == "toy"]
    if toys:
        limits.append(f"Scores on {', '.join(map(inert, toys))} are on generated toy rows, far easier than real ones.")
    longest = config.get("n_positions") or config.get("max_position_embeddings")
    if longest:
        limits.append(f"It reads at most {longest:,} tokens, prompt and answer together.")
    if found.tasks:
        limits.append("The intervals cover the choice of test rows, not the luck of one training seed.")
    limits.append("It repeats the mistakes and prejudices of its training text, and can state falsehoods fluently.")
    return ["## Limits", "\n".join(f"- {limit}" for limit in limits)]


def _data(environment):
    def count(data, *keys):
        return next((f"{data[key]:,}" for key in keys if data.get(key) is not None), "")

    rows = [
        [
            key,
            shown(data["path"]) if "path" in data else "",
            count(data, "rows", "documents"),
            count(data, "tokens"),
            f"{data['share']:.1%}" if data.get("share") is not None else "",
            count(data, "skipped_rows"),
            data.get("commit") or data.get("fingerprint", ""),
        ]
        for key, data in (environment.get("data") or {}).items()
    ]
    begun = {data["counted_over"] for data in (environment.get("data") or {}).values() if data.get("counted_over")}
    note = [f"Of a stream, rows and tokens are those of {inert(', '.join(begun))}."] if begun else []
    headings = ["used as", "data set", "rows", "tokens", "share", "left out", "commit or fingerprint"]
    return ["## Data", table(headings, rows), *note] if rows else []


def _made(recipe, environment):
    facts = []
    hardware = environment.get("hardware") or {}
    parts = [str(hardware["cpu"])] if hardware.get("cpu") else []
    parts += [f"{hardware['cores']} cores"] if hardware.get("cores") else []
    parts += [f"{hardware['memory_gb']:.0f} GB of memory"] if hardware.get("memory_gb") else []
    parts += [gpu if isinstance(gpu, str) else json.dumps(gpu) for gpu in hardware.get("gpus") or []]
    if parts:
        facts.append(f"Hardware: {inert(', '.join(parts))}")
    if (environment.get("processes") or 1) > 1:
        facts.append(f"Processes: {environment['processes']}")
    for stage, spent in (environment.get("stages") or {}).items():
        said = [_duration(spent["seconds"])] if "seconds" in spent else []
        said += [f"{spent['steps']:,} steps"] if "steps" in spent else []
        said += [f"{spent['tokens']:,} tokens"] if "tokens" in spent else []
        if said:
            facts.append(f"{inert(stage).capitalize()}: {', '.join(said)}")
    if environment.get("command"):
        facts.append(f"Command: {inert(public(environment['command']))}")
    versions = {"hflm": environment.get("hflm"), "Python": environment.get("python")}
    versions |= environment.get("packages") or {}
    if any(versions.values()):
        listed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        facts.append(f"Versions: {inert(listed)}")
    git = environment.get("git") or {}
    if git.get("commit"):
        facts.append(f"Commit: {inert(git['commit'])}{' (with uncommitted changes)' if git.get('dirty') else ''}")
    if environment.get("created"):
        facts.append(f"Made: {inert(environment['created'])}")
    resolved = public(yaml.safe_load(dump(recipe)))
    text = yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True, width=110).rstrip()
    return [
        "## How it was made",
        *(["\n".join(f"- {fact}" for fact in facts)] if facts else []),
        "The whole recipe; `hflm run recipe.yaml` does it again:",
        fenced(text, "yaml"),
    ]


def _duration(seconds):
    """41.23 -> '41 s', 125 -> '2 min 5 s', 7300 -> '2 h 1 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
