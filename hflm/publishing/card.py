"""The model card: README.md, plots/ and .eval_results/, made only from what a run left on disk.

It can be made again at any time, needs neither torch nor transformers, and shows no secret and no folder of the
machine it was made on. Whatever a run did not produce is left out: a benchmark alone has no learning curve.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hflm.core import atomic_write_bytes, atomic_write_text, code_block, escape_markdown, mask_tokens, read_json
from hflm.evaluation import UNITS, TaskResult, main_metrics, plots
from hflm.publishing import card_benchmark, card_metadata, card_provenance
from hflm.publishing.run_record import RunRecord, read_run
from hflm.recipe import Data, Recipe, metric_task

TEMPLATE = Path(__file__).with_name("card.md")
LONGEST_PROMPT = 4000  # characters of the example's prompt


def write_card(run: str | Path, recipe: Recipe) -> None:
    """Write `run`/README.md, plots/*.png and .eval_results/hflm.yaml from the rest of the folder and its `recipe`.

    Does nothing when they are there and were made from the same files. Raises UserError when benchmark/results.json
    cannot be read. Reads environment.json, {pretrain,finetune}/metrics.jsonl, benchmark/, data/cleaning.json and
    model/.
    """
    record = read_run(run, recipe)
    readme = record.run / "README.md"
    marker = _marker(record)
    pictures = _pictures(record)
    current = readme.is_file() and marker in readme.read_text(encoding="utf-8", errors="replace")
    if current and all(path.is_file() for path, draw in pictures.items() if draw):
        return
    for path, draw in pictures.items():
        if draw is None:
            path.unlink(missing_ok=True)  # drawn by an earlier run
        else:
            atomic_write_bytes(path, draw())
    card_metadata.write_leaderboard(record)
    atomic_write_text(readme, _render(record, marker))


def _marker(record: RunRecord) -> str:
    """A line that names what the card was made from."""
    digest = hashlib.sha256(TEMPLATE.read_bytes())
    digest.update(json.dumps([record.recipe.model_dump(mode="json"), record.stale_tasks], sort_keys=True).encode())
    for file in record.files():
        digest.update(f"\0{file.relative_to(record.run).as_posix()}\0".encode())
        digest.update(file.read_bytes())
    return f"made by hflm from sha256:{digest.hexdigest()}"


def _pictures(record: RunRecord) -> dict[Path, Callable[[], bytes] | None]:
    """Each picture's path and what draws it, None where there is nothing to draw."""
    folder, found = record.run / "plots", record.results
    curves = {stage: each.curves for stage, each in record.loss_curves.items() if each.curves}
    scores = _training_scores(record)
    calibrated = {name: task for name, task in found.tasks.items() if task.calibration}
    return {
        folder / "learning_curve.png": (lambda: plots.learning_curves(curves, scores)) if curves else None,
        folder / "benchmark.png": (lambda: plots.benchmark(found)) if found.tasks else None,
        folder / "reliability.png": (lambda: plots.reliability(calibrated)) if calibrated else None,
    }


def _training_scores(record: RunRecord) -> dict[tuple[str, str], dict[str, dict[int, float]]]:
    """{(stage, unit): {"sentiment accuracy": {step: value}}}: the main metrics of tasks that training measured."""
    scores: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for stage, log in record.loss_curves.items():
        for name, task in record.recipe.tasks.items():
            measured = [each.removeprefix(f"{name}_") for each in log.scores if metric_task(each, (name,))]
            for metric in main_metrics(task.kind, measured):
                unit = UNITS.get(metric, "0 to 100")
                scores.setdefault((stage, unit), {})[f"{name} {metric}"] = log.scores[f"{name}_{metric}"]
    return scores


def _render(record: RunRecord, marker: str) -> str:
    from huggingface_hub import ModelCard

    recipe, found = record.recipe, record.results
    samples = {name: card_benchmark.samples(record.run, name, task) for name, task in found.tasks.items()}
    example_note, example = _example(record) if record.config else ("", "")
    listed = [data.get("fingerprint") for data in (record.environment.get("data") or {}).values()]
    recipe_note, recipe_block = card_provenance.recipe_block(record)
    card = ModelCard.from_template(
        card_metadata.card_data(record),
        template_path=str(TEMPLATE),
        name=escape_markdown(recipe.name),
        description=_description(record),
        uses=_uses(record) if record.config else [],
        tasks=[card_benchmark.task_section(name, task, samples[name], listed) for name, task in found.tasks.items()],
        measured_models=", ".join(
            escape_markdown(each)
            for each in dict.fromkeys(task.model_revision for task in found.tasks.values())
            if each
        ),
        stale_tasks=", ".join(map(escape_markdown, record.stale_tasks)),
        calibrated=any(task.calibration for task in found.tasks.values()),
        contamination_rule=card_benchmark.contamination_rule(found),
        losses=_losses(record),
        example=example,
        example_note=example_note,
        limits=_limits(record),
        data=[
            *card_provenance.data_section(record),
            *card_provenance.tokenizer_section(record),
            *card_provenance.cleaning_section(read_json(record.run / "data" / "cleaning.json")),
        ],
        facts=card_provenance.facts(record),
        recipe_note=recipe_note,
        recipe=recipe_block,
        marker=marker,
    )
    return f"{card.content.rstrip()}\n"


def _description(record: RunRecord) -> str:
    recipe, model_type = record.recipe, record.config.get("model_type", "gpt2")
    family = "GPT-2-style" if model_type == "gpt2" else escape_markdown(model_type)
    count = (record.environment.get("model") or {}).get("parameters")
    model = f"A {family} language model" + (f" with {count:,} parameters" if count else "")
    base = f"`{record.display_name(recipe.model.from_).replace('`', '')}`" if recipe.model.from_ else None
    if not recipe.pretrain and not recipe.finetune:
        return f"{model}{f' ({base})' if base else ''}, benchmarked as it is; nothing was trained."
    steps = []
    if recipe.pretrain:
        texts = ", ".join(_data_name(record, data) for data in recipe.pretrain.data)
        steps.append(f"pretrained further from {base} on {texts}" if base else f"trained from scratch on {texts}")
    if recipe.finetune:
        tasks = ", ".join(
            f"{escape_markdown(name)} ({_data_name(record, recipe.tasks[name].data)})" for name in recipe.finetune.tasks
        )
        how = "fine-tuned with an adapter" if recipe.finetune.adapter else "fine-tuned"
        start = f" from {base}" if base and not recipe.pretrain else ""
        steps.append(f"{how}{start} on {tasks}")
    return f"{model}, {', then '.join(steps)}."


def _data_name(record: RunRecord, data: Data) -> str:
    name = data.options.get("name")
    return escape_markdown(record.display_name(data.path) + (f" ({name})" if name else ""))


def _uses(record: RunRecord) -> list[str]:
    """What the model is for and what not."""
    recipe, uses = record.recipe, []
    if recipe.finetune:
        tasks = ", ".join(map(escape_markdown, recipe.finetune.tasks))
        uses.append(f"For {tasks}, with prompts of the form it was trained on (see the samples).")
    elif recipe.pretrain:
        uses.append("For continuing text of the kind that it was trained on. It follows no instructions.")
    return [
        *uses,
        "For studying how such models are made: its recipe, data and scores are below.",
        (
            "Not for facts, advice, or decisions about people, and not for other tasks, languages or kinds of text than "
            "those of its training."
        ),
    ]


def _losses(record: RunRecord) -> str:
    """The losses of the model that each stage kept: its last, or its best with load_best_model_at_end."""
    parts, measured = [], _training_scores(record)
    for stage, log in record.loss_curves.items():
        spent = (record.environment.get("stages") or {}).get(stage) or {}
        kept = spent.get("kept_step")
        losses = []
        scores = {name: curve for (of, _), curves in measured.items() if of == stage for name, curve in curves.items()}
        for name, by_step in {**{f"{name} loss": curve for name, curve in log.curves.items()}, **scores}.items():
            steps = [step for step in by_step if kept is None or step <= kept]
            if steps:
                losses.append(f"{name} {by_step[max(steps)]:.3f}")
        speed = f", {log.tokens_per_second:,.0f} tokens/s (median)" if log.tokens_per_second else ""
        best = kept is not None and (kept < spent.get("steps", kept) or spent.get("kept"))
        where = (
            f"At step {kept:,} of {stage}, whose model was kept{_why_kept(spent)}" if best else f"At the end of {stage}"
        )
        parts.append(f"{where}: {escape_markdown(', '.join(losses))}{speed}.")
        if averaged := spent.get("averaged_steps"):
            loss = spent.get("final_eval_loss")
            its_loss = "" if loss is None else f", with a validation loss of {loss:.3f}"
            steps = ", ".join(f"{step:,}" for step in averaged)
            parts.append(f"The model of {stage} is the mean of the weights after steps {steps}{its_loss}.")
    return " ".join(parts)


def _why_kept(spent: Mapping[str, Any]) -> str:
    """Which metric chose the step, and whether training went on: of a stage's entry in environment.json."""
    kept = spent.get("kept")
    if not kept:
        return ""
    metric = kept["metric"].removeprefix("eval_")
    stopped = f"; training stopped early, at step {spent['steps']:,}" if spent.get("stopped_early") else ""
    return f" because its {metric} of {kept['value']:.4g} was the best of the evaluations{stopped}"


def _example(record: RunRecord) -> tuple[str, str]:
    """(where the example runs, a code block): the answer to a task's prompt, or a text that goes on."""
    recipe = record.recipe
    model = recipe.push.repo_id if recipe.push else "./model"
    note = "" if recipe.push else "In the folder of this file, which holds the model in `model/`:"
    prompt, options = "Once upon a time", "max_new_tokens=40"
    if recipe.finetune and (found := _example_prompt(record)):
        prompt, options = found, "max_new_tokens=100, return_full_text=False"
    code = (
        "from transformers import pipeline\n"
        f'generate = pipeline("text-generation", model={json.dumps(model)})\n'
        f'print(generate({mask_tokens(prompt)!r}, {options})[0]["generated_text"])'
    )
    return note, code_block(code, "python")


def _example_prompt(record: RunRecord) -> str | None:
    """The shortest prompt of the first fine-tuned task whose benchmark asked with prompts."""
    for name in record.recipe.finetune.tasks if record.recipe.finetune else ():
        task: TaskResult | None = record.results.tasks.get(name)
        prompts = card_benchmark.prompts(record.run, name) if task else []
        if prompts and len(shortest := min(prompts, key=len)) <= LONGEST_PROMPT:
            return shortest
    return None


def _limits(record: RunRecord) -> list[str]:
    recipe, found, limits = record.recipe, record.results, []
    if any(data.path == "toy" for data in record.training_data()):
        limits.append("Trained on generated toy text: it says nothing about real language.")
    toys = [name for name in found.tasks if name in recipe.tasks and recipe.tasks[name].data.path == "toy"]
    if toys:
        limits.append(
            f"Scores on {', '.join(map(escape_markdown, toys))} are on generated toy rows, far easier than real ones; "
            "their few sentence patterns recur, in training text too."
        )
    longest = record.config.get("n_positions") or record.config.get("max_position_embeddings")
    if longest:
        limits.append(f"It reads at most {longest:,} tokens, prompt and answer together.")
    limits += [*_unchecked(record), *_chosen_by_test_rows(recipe)]
    if found.tasks:
        limits.append("The intervals cover the choice of test rows, not the variation between training seeds.")
    return [*limits, "It repeats the mistakes and prejudices of its training text, and can state falsehoods fluently."]


def _chosen_by_test_rows(recipe: Recipe) -> list[str]:
    """A warning where the kept checkpoint was chosen by the rows that the benchmark measures."""
    limits = []
    for stage in (recipe.pretrain, recipe.finetune):
        chooses = stage is not None and (stage.args.get("load_best_model_at_end") or stage.early_stopping)
        if stage is None or stage.evaluate is None or not chooses:
            continue
        task = metric_task(str(stage.args.get("metric_for_best_model")), stage.evaluate.tasks)
        if task is not None and recipe.tasks[task].splits.validation == recipe.tasks[task].splits.test:
            limits.append(f"Its weights were chosen by their score on the test rows of {escape_markdown(task)}.")
    return limits


def _unchecked(record: RunRecord) -> list[str]:
    """What was trained on and not compared with the benchmark."""
    recipe, unchecked = record.recipe, []
    if not record.results.tasks or recipe.benchmark is None or not (recipe.pretrain or recipe.finetune):
        return []
    if not recipe.benchmark.contamination:
        return ["Whether the benchmark's examples occur in the training text was not checked."]
    if recipe.pretrain and any(data.options.get("streaming") for data in recipe.pretrain.data):
        unchecked.append("The pretraining text was a stream and was not searched for the benchmark's examples.")
    if recipe.model.from_:
        unchecked.append("What its base model was trained on was not compared with the benchmark's examples.")
    return unchecked
