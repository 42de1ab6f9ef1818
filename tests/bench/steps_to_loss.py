"""How many steps, and seconds, a new gpt2-mini needs to reach a validation loss: hflm's defaults against nanoGPT's published AdamW.

    DATA=FOLDER python tests/bench/steps_to_loss.py --steps 200

DATA holds WikiText-2 as train.txt and validation.txt; the same tokenizer, rows, batch (16 x 256 tokens) and seed serve
both. nanoGPT's settings are those of its 6 x 384 model (config/train_shakespeare_char.py: AdamW, learning rate 1e-3
falling to 1e-4 by a cosine, betas 0.9 and 0.99, weight decay 0.1), without its dropout, which only slows a run of less
than two epochs. The fixed loss is what nanoGPT's settings reach at the end of their schedule of `--steps`; hflm's run is
given 0.7 times as many steps and must be there by then.

Prints one JSON line: `ratio` is the step of hflm's first evaluation at or below that loss over `--steps` (null: never);
`seconds_ratio` the same in seconds of training, by the median speed of each run, without its evaluations.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HOME = Path(__file__).parent.parent.parent
RECIPE = """\
name: steps
tokenizer:
  train: {algorithm: bpe, vocab_size: 4096}
model: {preset: gpt2-mini, n_positions: 256, resid_pdrop: 0.0, embd_pdrop: 0.0, attn_pdrop: 0.0}
pretrain:
  data: {path: TRAIN}
  validation: {path: VALIDATION}
  rows: lines
  args: {per_device_train_batch_size: 16, per_device_eval_batch_size: 16, save_strategy: "no"}
"""
NANOGPT = {
    "model.initializer_range": 0.02,
    "pretrain.args.optim": "adamw_torch_fused",
    "pretrain.args.learning_rate": 1e-3,
    "pretrain.args.lr_scheduler_type": "cosine_with_min_lr",
    "pretrain.args.lr_scheduler_kwargs": "{min_lr_rate: 0.1}",
    "pretrain.args.adam_beta2": 0.99,
    "pretrain.args.weight_decay": 0.1,
    "pretrain.args.warmup_steps": 0.05,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("DATA")
    parser.add_argument("--data", type=Path, default=data, required=not data, help="or $DATA")
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        # Enough of the validation text for two decimals of the loss.
        (folder / "validation.txt").write_bytes((given.data / "validation.txt").read_bytes()[:120_000])
        recipe = RECIPE.replace("TRAIN", str((given.data / "train.txt").resolve()))
        recipe = recipe.replace("VALIDATION", str(folder / "validation.txt"))
        (folder / "steps.yaml").write_text(recipe)
        theirs, their_speed = losses(folder, "nanogpt", given.steps, NANOGPT)
        ours, our_speed = losses(folder, "hflm", round(0.7 * given.steps), {})
    target = theirs[max(theirs)]
    reached = next((step for step, loss in sorted(ours.items()) if loss <= target), None)
    print(
        json.dumps(
            {
                "ratio": reached and reached / given.steps,
                "seconds_ratio": reached and round(reached / given.steps * their_speed / our_speed, 4),
                "tokens_per_second": {"nanogpt": their_speed, "hflm": our_speed},
                "loss": target,
                "steps": {"nanogpt": given.steps, "hflm": reached},
                "losses": {"nanogpt": theirs, "hflm": ours},
            }
        )
    )


def losses(folder, name, steps, settings):
    """({step: validation loss in nats per token}, median tokens per second) of a run with these settings."""
    sets = {**settings, "pretrain.args.max_steps": steps, "pretrain.args.eval_steps": 10}
    changes = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "hflm", "run", "steps.yaml", "--output", name, *changes]
    subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(HOME)}, stdout=sys.stderr, check=True)
    lines = [json.loads(line) for line in (folder / name / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    speed = statistics.median(line["tokens_per_second"] for line in lines if "tokens_per_second" in line)
    return {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}, speed


if __name__ == "__main__":
    main()
