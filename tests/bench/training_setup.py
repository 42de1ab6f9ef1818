"""What the measurements of training share: a tokenizer of any size, a corpus, a recipe; no measurement itself."""

import json
import random
import subprocess
import sys

RECIPE = """
name: measured
tokenizer: {{from: {folder}/tokenizer}}
model: {{preset: gpt2-mini, n_positions: {length}, attn_pdrop: 0, embd_pdrop: 0, resid_pdrop: 0}}
pretrain:
  data: {{path: {folder}/corpus.txt}}
  rows: lines
  args:
    max_steps: {steps}
    per_device_train_batch_size: {batch}
    logging_steps: {every}
    save_strategy: "no"
    optim: adamw_torch_fused  # as the other side's
    torch_compile: {compiled}
"""
BATCH, LENGTH = 8, 256


def prepare(folder, vocab_size, steps, every=5, compiled=False, name="recipe.yaml"):
    """Write tokenizer/, corpus.txt and a recipe of gpt2-mini into `folder`."""
    write_inputs(folder, vocab_size, BATCH * LENGTH * 60)
    text = RECIPE.format(
        folder=folder, length=LENGTH, steps=steps, batch=BATCH, every=every, compiled=str(compiled).lower()
    )
    (folder / name).write_text(text)


def write_inputs(folder, vocab_size, characters):
    """Write tokenizer/ and corpus.txt, a token a character, into `folder`.

    The tokenizer knows the 256 bytes and fills up with entries that no text has: the speed does not depend on which
    ids stand in a row.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import GPT2Tokenizer

    if not (folder / "tokenizer").is_dir():
        entries = ["<|endoftext|>", *sorted(ByteLevel.alphabet())]
        entries += [f"unused{number}" for number in range(vocab_size - len(entries))]
        vocab = {entry: number for number, entry in enumerate(entries)}
        GPT2Tokenizer(vocab=vocab, merges=[]).save_pretrained(folder / "tokenizer")
        draw = random.Random(0)
        letters = "abcdefghijklmnopqrstuvwxyz     "
        lines = ["".join(draw.choices(letters, k=80)) for _ in range(characters // 80)]
        (folder / "corpus.txt").write_text("\n".join(lines) + "\n")


def start(arguments, folder, log):
    """A Python process in `folder` whose standard error goes to the file `log`."""
    with open(folder / log, "w") as written:
        return subprocess.Popen([sys.executable, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=written)


def output(process, folder, log):
    """What it printed, when it ended well."""
    printed, _ = process.communicate()
    assert process.returncode == 0, (folder / log).read_text()
    return printed.decode()


def stage(folder, run="run"):
    """environment.json's record of the pretraining."""
    return json.loads((folder / run / "environment.json").read_text())["stages"]["pretrain"]
