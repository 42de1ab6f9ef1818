"""The first steps of shipped recipes as they are, beside the same with bf16 forced on and off.

    MODEL=FOLDER DATA=FOLDER python tests/bench/recipe_formats.py [RECIPE...] [--steps 5]

MODEL is a folder of SmolLM2-135M-Instruct; DATA holds sentiment_sst2, qa_squad, summarization_dialogsum,
translation_multi30k and lm_wikitext2. A forced format that has not trained its steps in twice the seconds of the
recipe's own is stopped and counts as slower. Prints one JSON line: `ratio` is the seconds of a step as shipped over
those of the faster forced format, for each recipe.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOME = Path(__file__).parents[2]
SETTINGS = {  # recipe: (stage, where its data is)
    "sst2": ("finetune", {"tasks.sentiment.data.path": "sentiment_sst2"}),
    "squad": ("finetune", {"tasks.qa.data.path": "qa_squad"}),
    "dialogsum": ("finetune", {"tasks.summarization.data.path": "summarization_dialogsum"}),
    "multi30k": ("finetune", {"tasks.translation.data.path": "translation_multi30k/en-de"}),
    "wikitext2": ("pretrain", {"pretrain.data.path": "lm_wikitext2", "tasks.wikitext2.data.path": "lm_wikitext2"}),
}
PRETRAINED = ("sst2", "squad", "dialogsum")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=list(SETTINGS))
    parser.add_argument("--steps", type=int, default=5)
    given = parser.parse_args()
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for recipe in given.recipes:
            own = seconds(Path(folder), recipe, given.steps, [], None)
            assert own is not None
            forced = {
                value: seconds(Path(folder), recipe, given.steps, [f"args.bf16={value}"], 2 * own[0])
                for value in ("true", "false")
            }
            per_step = {value: each and round(each[1], 3) for value, each in forced.items()}
            fastest = min((each for each in per_step.values() if each), default=None)
            measured[recipe] = {
                "ratio": fastest and round(own[1] / fastest, 3),
                "seconds_a_step": {"shipped": round(own[1], 3), "bf16": per_step["true"], "fp32": per_step["false"]},
            }
    print(json.dumps(measured))


def seconds(
    folder: Path, recipe: str, steps: int, changes: list[str], limit: float | None
) -> tuple[float, float] | None:
    """(seconds of the whole command, median seconds of a step) of the first steps; None where `limit` ran out."""
    stage, data = SETTINGS[recipe]
    name = f"{recipe}-{len(list(folder.iterdir()))}"
    command = [sys.executable, "-m", "hflm", "run", recipe, "--output", name]
    sets = {key: str(Path(os.environ["DATA"]).resolve() / value) for key, value in data.items()}
    if recipe in PRETRAINED:
        sets["model.from"] = os.environ["MODEL"]
    sets |= {f"{stage}.args.max_steps": steps, f"{stage}.args.logging_steps": 1, f"{stage}.args.eval_strategy": "no"}
    sets |= {f"{stage}.args.lr_scheduler_type": "constant", f"{stage}.args.save_strategy": "no"}
    for change in changes:
        key, value = change.split("=")
        sets[f"{stage}.{key}"] = value
    for key, value in sets.items():
        command += ["--set", f"{key}={value}"]
    command += ["--set", "benchmark=null"]
    started = time.monotonic()
    try:
        environment = {**os.environ, "PYTHONPATH": str(HOME)}
        subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return None
    whole = time.monotonic() - started
    lines = [json.loads(line) for line in (folder / name / stage / "metrics.jsonl").read_text().splitlines()]
    speeds = sorted(line["tokens_per_second"] for line in lines if "tokens_per_second" in line)
    tokens = max(line["tokens"] for line in lines if "tokens" in line) / steps
    return whole, tokens / speeds[len(speeds) // 2]


if __name__ == "__main__":
    main()
