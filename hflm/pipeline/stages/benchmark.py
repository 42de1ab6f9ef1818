"""The benchmark: each task is measured, its predictions and scores are written to `benchmark/`."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hflm.core import logger
from hflm.core.arithmetic import inference_dtype
from hflm.evaluation import Results, read_results, write_results
from hflm.inference import Endpoint
from hflm.pipeline import provenance
from hflm.pipeline.console import phase
from hflm.pipeline.stage_keys import dependencies_key
from hflm.pipeline.stages.base import Run
from hflm.pipeline.stages.fitting import check_prompts

if TYPE_CHECKING:
    from hflm.evaluation import Overlap
    from hflm.inference import LocalModel


class Benchmark:
    name = "benchmark"
    inputs: tuple[str, ...] = ("model",)

    def due(self, run: Run) -> bool:
        return bool(self._tasks(run))

    def run(self, run: Run) -> None:
        from hflm.evaluation import BenchmarkSettings, check_contamination, run_benchmark
        from hflm.inference import LocalModel

        recipe, folder, tasks = run.recipe, run.folder, self._tasks(run)
        assert recipe.benchmark is not None
        asked, context_length, revision = _asked(run)
        if isinstance(asked, LocalModel) and context_length is not None:
            check_prompts(run, asked.tokenizer, context_length)
        run.begin()
        path = folder / "benchmark" / "results.json"
        kept = read_results(path).tasks if path.exists() else {}
        kept = {task: found for task, found in kept.items() if task not in tasks}
        overlaps: dict[str, Overlap] = {}
        if recipe.benchmark.contamination and run.ranks.is_main:
            with phase("comparing the benchmark with the training text"):
                overlaps = check_contamination(recipe, tasks, run.rows, run.corpus)
        # Every process answers a part of the rows, which the main process has read.
        rows = {name: run.rows[name, "test"] for name in tasks} if run.ranks.is_main else {}
        rows, overlaps = run.ranks.broadcast((rows, overlaps))
        if overlaps:
            logger.info(f"compared {', '.join(overlaps)} with the training text")
        model = str(folder) if run.trains else recipe.model.from_
        assert model is not None  # a benchmark without training is of the model that `from` names
        for name in tasks:
            started, stage = time.monotonic(), f"benchmark/{name}"
            run.forget(stage)
            settings = BenchmarkSettings(
                context_length=context_length,
                resamples=recipe.benchmark.resamples,
                seed=recipe.seed,
                key=dependencies_key(run.dependencies[stage]),
                model_revision=revision,
                overlap=overlaps.get(name),
            )
            predictions = folder / "benchmark" / "predictions" / f"{name}.jsonl"
            found = run_benchmark(asked, name, rows[name], settings, predictions)
            if run.ranks.is_main:
                spent: dict[str, Any] = {"seconds": time.monotonic() - started}
                if isinstance(asked, LocalModel):
                    spent["dtype"] = str(asked.model.dtype).removeprefix("torch.")
                provenance.note(folder, stages={stage: spent})
                kept = {**kept, name: found}
                write_results(Results(model, kept), path)
            run.record(stage)

    def finish(self, run: Run) -> None:
        """Every task was recorded as it ended."""

    def _tasks(self, run: Run) -> Sequence[str]:
        tasks = run.recipe.benchmark.tasks if run.recipe.benchmark else ()
        return [name for name in tasks if f"benchmark/{name}" in run.todo]


def _asked(run: Run) -> "tuple[LocalModel | Endpoint, int | None, str | None]":
    """What is measured, its context in tokens and its revision."""
    if run.endpoint is not None:
        return run.endpoint, None, None
    from hflm.inference import LocalModel
    from hflm.models import context_length, load_model, model_revision

    recipe = run.recipe
    assert recipe.benchmark is not None
    path, revision = (str(run.folder), None) if run.trains else (recipe.model.from_, recipe.model.revision)
    assert path is not None, "the run has checked it"
    dtype, reason = inference_dtype(run.ranks.device, recipe.benchmark.dtype or recipe.model.dtype)
    logger.info(f"benchmark: arithmetic: {dtype} on {run.ranks.device.type} ({reason})")
    model, tokenizer = load_model(path, revision, dtype)
    model.to(run.ranks.device)  # type: ignore[arg-type]  # transformers wraps it without its signature
    asked = LocalModel(model.eval(), tokenizer, recipe.benchmark.batch_tokens)
    return asked, context_length(model), model_revision(path, revision)
