"""A ladder of models of up to 1 M parameters against a model of 4 M that it has not seen, on WikiText-2.

    DATA=FOLDER python tests/bench/scale_prediction.py [--steps 1200] [--output FOLDER]

DATA holds WikiText-2 as train.txt and validation.txt, of which the first 350 kB are measured on. `hflm scale` trains the
ladder of a gpt2-micro with 3,072 entries; then the recipe itself is trained. Prints one JSON line: `ratio` is the
ladder's seconds over the model's own, each from the recipe to the trained model or scale.json, `error` the predicted
validation loss over the measured one, less one, `inside` whether the measured loss is inside of the 95 % interval.
Parameters are those of the blocks and the output layer. --output has to be a new folder.
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
from pathlib import Path

from hflm.core import read_json
from hflm.pipeline import RunOptions, run_recipe, scale_recipe
from hflm.recipe import load_recipe

RECIPE = """\
name: held-out
tokenizer:
  train: {algorithm: bpe, vocab_size: 3072}
model: {preset: gpt2-micro, n_positions: 256, attn_pdrop: 0.0}
pretrain:
  data: {path: TRAIN}
  validation: {path: VALIDATION}
  rows: lines
  args: {max_steps: STEPS, per_device_train_batch_size: 8, eval_steps: STEPS, save_strategy: "no"}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--output", type=Path, help="where the runs stay; else they are removed")
    given = parser.parse_args()
    data = Path(os.environ["DATA"]).resolve()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.output or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        text = RECIPE.replace("STEPS", str(given.steps))
        text = text.replace("TRAIN", str(data / "train.txt")).replace("VALIDATION", "validation.txt")
        lines = (data / "validation.txt").read_bytes()[:350_000].splitlines(keepends=True)
        (folder / "validation.txt").write_bytes(b"".join(lines[:-1]))
        (folder / "held-out.yaml").write_text(text)
        with contextlib.chdir(folder), contextlib.redirect_stdout(None):
            begun = time.perf_counter()
            scale = scale_recipe("held-out.yaml", output="ladder")
            ladder = time.perf_counter() - begun
            run_recipe(load_recipe("held-out.yaml"), "own", RunOptions(last="pretrain", predict=False))
            alone = time.perf_counter() - begun - ladder
            own = read_json(Path("own/environment.json"))["stages"]["pretrain"]
    loss, (low, high) = own["final_eval_loss"], scale.own.loss_ci95
    print(
        json.dumps(
            {
                "ratio": round(ladder / alone, 3),
                "error": round(scale.own.loss / loss - 1, 4),
                "inside": low <= loss <= high,
                "predicted": round(scale.own.loss, 4),
                "interval": [round(low, 4), round(high, 4)],
                "measured": round(loss, 4),
                "parameters": [*sorted({each.parameters for each in scale.runs}), scale.own.parameters],
                "seconds": {"ladder": round(ladder), "own": round(alone)},
                "of_training": {
                    "ladder": round(sum(each.seconds for each in scale.runs)),
                    "own": round(own["seconds"]),
                },
                "points": [
                    [each.parameters, each.tokens, each.rate_factor, round(each.loss, 4)] for each in scale.runs
                ],
            }
        )
    )


if __name__ == "__main__":
    main()
