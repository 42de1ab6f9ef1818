import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from hflm import recipe
from hflm.core import RecipeError
from hflm.recipe import PRESETS, Recipe, shipped
from hflm.recipe import library_options as names
from hflm.recipe.yaml_reader import dump_yaml, parse_yaml

GOOD = """\
# hflm run good.yaml
name: good
tokenizer:
  train: {algorithm: bpe, vocab_size: 512}
model:
  preset: gpt2-nano
  n_positions: 256
pretrain:
  data:
    path: toy
    name: stories
  block_size: 128
  args: {max_steps: 400, learning_rate: 5e-4}
tasks:
  sentiment:
    data: {path: org/reviews}
    labels: [negative, positive]
    prompt: "Review: {{ text }}\\nSentiment:"
  nmt:
    kind: translation
    data: {path: org/pairs}
    source: en
    target: de
    metrics: [bleu, chrf]
  lm: {kind: language_modeling, data: {path: org/corpus}}
  corpus:
    kind: language_modeling
    data: {path: org/corpus}
    splits: {train: null, test: "test[:100]"}
finetune:
  tasks: [sentiment, nmt]
  adapter: {type: lora, r: 8}
  args: {eval_strategy: no}
benchmark:
  tasks: [sentiment, nmt, corpus]
push: {repo_id: you/good}
"""
CORPUS = GOOD[GOOD.index("  corpus:") : GOOD.index("finetune:")]
SHOTS = "  corpus:\n    kind: qa\n    data: {path: x}\n    shots: 2\n    splits: {train: null}\n"
MODEL_FROM = "  from: org/base\n  dtype: bfloat16\n"


def problems(folder, text, sets=(), name="r.yaml"):
    """Every problem of a recipe's text as (line, key, message)."""
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        recipe.load_recipe(str(folder / name), sets)
    return [(problem.line, problem.key, problem.text) for problem in caught.value.problems]


def load(folder, text, sets=()):
    (folder / "r.yaml").write_text(text, encoding="utf-8")
    return recipe.load_recipe(str(folder / "r.yaml"), sets)


def changed(old, new):
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


# (what is replaced in GOOD, by what, line, key, the beginning of the message): each has exactly one problem.
# fmt: off
WRONG = [
    # keys, at every level
    ("name: good", "nmae: good\nname: good", 2, "nmae", "unknown key. Did you mean name?"),
    ("name: good", "extend: a\nname: good", 2, "extend", "unknown key. Did you mean extends?"),
    ("vocab_size: 512", "vocab_size: 512, min_freq: 2",
     4, "tokenizer.train.min_freq", "unknown key. Did you mean min_"),
    ("  n_positions: 256", "  n_layr: 2", 7, "model.n_layr", "unknown key. Did you mean n_layer?"),
    ("  n_positions: 256", "  zzz: 2", 7, "model.zzz", "unknown key of transformers.GPT2Config."),
    ("    name: stories", "    name: stories\n    sized: 3",
     12, "pretrain.data.sized", "unknown key. Did you mean size?"),
    ("  block_size: 128", "  blok_size: 128", 12, "pretrain.blok_size", "unknown key. Did you mean block_size?"),
    ("max_steps: 400", "max_step: 400", 13, "pretrain.args.max_step", "unknown key. Did you mean max_steps?"),
    ("max_steps: 400", "batch_size: 4",
     13, "pretrain.args.batch_size", "unknown key. Did you mean per_device_train_ba"),
    ("{path: org/reviews}", "{path: org/reviews, nam: x}", 16, "tasks.sentiment.data.nam", "unknown key. Did you mean"),
    ("{path: org/reviews}", "{path: csv, keep_linebreaks: true}",
     16, "tasks.sentiment.data.keep_linebreaks", "unknown "),
    ("    source: en", "    source: en\n    txt: 1", 23, "tasks.nmt.txt", "unknown key. Allowed: kind, data, splits, "),
    ("{train: null, ", "{trian: null, ", 29, "tasks.corpus.splits.trian", "unknown key. Did you mean train?"),
    ("type: lora, r: 8", "type: lora, rank: 8", 32, "finetune.adapter.rank", "unknown key. Did you mean rank_pattern?"),
    ("  tasks: [sentiment, nmt, corpus]", "  tasks: [nmt]\n  limit: 3",
     36, "benchmark.limit", "unknown key. Allowed: "),
    ("{repo_id: you/good}", "{repo_id: you/good, privat: true}",
     36, "push.privat", "unknown key. Did you mean private?"),
    # the batch of a step, guards, trackers
    ("  block_size: 128", "  block_size: 128\n  batch_tokens: 1000",
     13, "pretrain.batch_tokens", "1,000 is no multiple of the row of 128 tokens. Take 896 or 1,024"),
    ("  block_size: 128", "  batch_tokens: 100", 12, "pretrain.batch_tokens", "100 is no multiple of the row of 256 tokens."),
    ("  block_size: 128", "  batch_tokens: 0", 12, "pretrain.batch_tokens", "must be above 0"),
    ("  block_size: 128\n  args: {max_steps: 400", "  batch_tokens: 512\n  args: {gradient_accumulation_steps: 2",
     13, "pretrain.args.gradient_accumulation_steps", "it follows from batch_tokens. Keep one of the two"),
    ("  block_size: 128\n  args: {max_steps: 400", "  batch_tokens: 512\n  args: {train_sampling_strategy: group_by_length",
     13, "pretrain.args.train_sampling_strategy", "with batch_tokens a step holds any rows"),
    ("  block_size: 128", "  on_spike: rolback", 12, "pretrain.on_spike", "expected one of stop, rollback, ignore; got 'ro"),
    ("  block_size: 128\n  args: {max_steps: 400", "  on_spike: rollback\n  args: {fp16: true",
     12, "pretrain.on_spike", "a rollback leaves steps out"),
    ("  block_size: 128", "  z_loss: -1", 12, "pretrain.z_loss", "must be at least 0, got -1"),
    ("max_steps: 400", "report_to: [wandb, tensorbord]",
     13, "pretrain.args.report_to", "no such tracker: 'tensorbord'. Did you mean tensorboard?"),
    # required keys
    ("name: good\n", "", 2, "name", "required key is missing"),
    ("  train: {algorithm: bpe, vocab_size: 512}", "  train: {}", 4, "tokenizer.train.vocab_size", "required key is m"),
    ("    path: toy\n    name: stories", "    split: train", 9, "pretrain.data.path", "required key is missing"),
    ("    labels: [negative, positive]\n", "", 15, "tasks.sentiment.labels", "required key is missing"),
    ("    target: de\n", "", 19, "tasks.nmt.target", "required key is missing"),
    ("  tasks: [sentiment, nmt, corpus]", "  resamples: 9", 34, "benchmark.tasks", "required key is missing"),
    # types
    ("name: good", "name: 7", 2, "name", "expected text, got 7. Put it in quotes"),
    ("name: good", "name: a/b",
     2, "name", "expected letters, digits, `.`, `_` and `-`, as in a folder's name, got 'a/b'"),
    ("name: good", "name: ..", 2, "name", "expected letters, digits"),
    ("name: good", "name: good\nseed: abc", 3, "seed", "expected a whole number, got 'abc'"),
    ("name: good", "name: good\nseed: 4.5", 3, "seed", "expected a whole number, got 4.5"),
    ("name: good", "name: good\nseed: -1", 3, "seed", "must be at least 0, got -1"),
    ("name: good", "name: good\nseed: true", 3, "seed", "expected a whole number, got true"),
    ("  block_size: 128", "  block_size: big", 12, "pretrain.block_size", "expected a whole number, got 'big'"),
    ("  n_positions: 256", "  n_layer: four", 7, "model.n_layer", "expected a whole number, got 'four'"),
    ("  n_positions: 256", "  n_layer: null", 7, "model.n_layer", "expected a whole number, got null"),
    ("max_steps: 400", "max_steps: 4e2", 13, "pretrain.args.max_steps", "expected a whole number, got 400.0"),
    ("max_steps: 400", "bf16: yes", 13, "pretrain.args.bf16", "expected true or false, got 'yes'"),
    ("learning_rate: 5e-4", "learning_rate: fast", 13, "pretrain.args.learning_rate", "expected a number, got 'fast'"),
    ("learning_rate: 5e-4", "learning_rate: .nan",
     13, "pretrain.args.learning_rate", "expected a finite number, got nan"),
    ("eval_strategy: no", "eval_strategy: step",
     33, "finetune.args.eval_strategy", "expected one of no, steps, epoch; got"),
    ("eval_strategy: no", "optim: adamw",
     33, "finetune.args.optim", "no such value: 'adamw'. Did you mean adamw_torch"),
    ("  args: {max_steps: 400, learning_rate: 5e-4}", "  args: [1]",
     13, "pretrain.args", "expected keys and values, got a l"),
    ("    path: toy\n    name: stories", "    7",
     9, "pretrain.data", "expected keys and values such as {path: text}, or a "),
    ("[negative, positive]", "[0, bad]", 17, "tasks.sentiment.labels.0", "expected text, got 0. Put it in quotes"),
    ("[negative, positive]", "negative", 17, "tasks.sentiment.labels", "expected a list, got 'negative'"),
    ("[negative, positive]", "[negative]", 17, "tasks.sentiment.labels", "expected at least 2 items, got 1"),
    ("[negative, positive]", "[good, good]", 17, "tasks.sentiment.labels", "'good' is listed twice. Remove one"),
    ("[negative, positive]", "[caf\u00e9, cafe\u0301]", 17, "tasks.sentiment.labels", "'caf\u00e9' is listed twice."),
    ("[negative, positive]", "[' good', bad]",
     17, "tasks.sentiment.labels.0", "expected a word without spaces around it"),
    (CORPUS, "  corpus: 7\n", 26, "tasks.corpus", "expected keys and values, got 7"),
    ("    target: de", "    target: de\n    limit: 0", 24, "tasks.nmt.limit", "must be above 0, got 0"),
    ("    target: de", "    target: de\n    stop: ['']", 24, "tasks.nmt.stop.0", "must not be empty"),
    ("    target: de", "    target: de\n    languages: [en]",
     24, "tasks.nmt.languages", "expected at least 2 items, got 1"),
    ("    target: de", "    target: de\n    languages: [a, b, c]",
     24, "tasks.nmt.languages", "expected 2 items, got 3"),
    ("    target: de", "    target: de\n    too_long: cut",
     24, "tasks.nmt.too_long", "expected one of truncate, refuse; got"),
    ("[bleu, chrf]", "[blue]",
     24, "tasks.nmt.metrics.0", "expected one of bleu, chrf, ter, rouge1, rouge2, rougeL, roug"),
    ("[bleu, chrf]", "[bertscore]", 24, "tasks.nmt.metrics", "bertscore compares the vectors of an encoder. Set"),
    ("[bleu, chrf]", "[bleu]\n    bertscore_model: m", 25, "tasks.nmt.bertscore_model", "only the metric bertscore reads it"),
    ("[bleu, chrf]", "[]", 24, "tasks.nmt.metrics", "expected at least 1 item, got 0"),
    # conversations
    *[("  lm: {kind: language_modeling, data: {path: org/corpus}}", f"  lm: {{kind: chat, data: {{path: x}}, {options}}}",
       25, f"tasks.lm.{key}", text)
      for options, key, text in (
        ("prompt: hi", "prompt", "the chat template of the tokenizer makes the prompt. Remove it"),
        ("shots: 2", "shots", "a conversation has earlier turns of its own. Remove it"),
        ("messages: [text]", "messages", "a list has at least two columns: the user's text, and the answer"),
        ("metrics: [accuracy]", "metrics.0", "expected one of bleu, chrf, ter, rouge1, rouge2, rougeL, rougeLsum, exact_m"),
      )],
    # label smoothing and averaging
    ("max_steps: 400", "label_smoothing_factor: 1.0",
     13, "pretrain.args.label_smoothing_factor", "must be at least 0 and below 1, got 1.0"),
    ("  block_size: 128", "  average_checkpoints: 1", 12, "pretrain.average_checkpoints", "must be at least 2, got 1"),
    ("  block_size: 128\n  args: {max_steps: 400", "  average_checkpoints: 3\n  args: {save_strategy: no",
     13, "pretrain.args.save_strategy", "average_checkpoints needs regular checkpoints. Set steps or epoch"),
    ("  adapter: {type: lora, r: 8}", "  adapter: {type: lora, r: 8}\n  average_checkpoints: 3",
     33, "finetune.average_checkpoints", "the mean of two adapters' factors is not the mean of their products"),
    # how answers are chosen
    *[("    target: de", f"    target: de\n    generation: {{{options}}}", 24, f"tasks.nmt.generation.{key}", text)
      for options, key, text in (
        ("num_beam: 5", "num_beam", "unknown key. Did you mean num_beams?"),
        ("streamer: 5", "streamer", "unknown key. Allowed: num_beams, length_penalty, "),
        ("num_beams: 0", "num_beams", "must be above 0, got 0"),
        ("num_beams: five", "num_beams", "expected a whole number, got 'five'"),
        ("num_beams: 5, length_penalty: high", "length_penalty", "expected a number, got 'high'"),
        ("num_beams: 5, early_stopping: often", "early_stopping", "must be true, false or never, got 'often'"),
        ("length_penalty: 0.6", "length_penalty", "without effect, there is one beam. Set num_beams above 1"),
        ("num_beams: 5, do_sample: true", "do_sample", "beams are searched, not sampled"),
        ("temperature: 0.7", "temperature", "without effect, the most likely token is taken. Add do_sample: true"),
        ("do_sample: true, top_p: 0", "top_p", "must be above 0 and at most 1, got 0"),
        ("no_repeat_ngram_size: 1", "no_repeat_ngram_size", "must be 0, or at least 2, got 1"),
        ("max_new_tokens: 9", "max_new_tokens", "a task has its own key for it. Write `max_new_tokens:` beside"),
        ("stop_strings: x", "stop_strings", "a task has its own key for it. Write `stop:` beside"),
        ("max_length: 9", "max_length", "it counts the prompt too"),
        ("max_time: 9", "max_time", "the answers would depend on the machine's speed"),
        ("num_return_sequences: 2", "num_return_sequences", "a benchmark scores one text a row"),
        ("output_scores: true", "output_scores", "a benchmark scores one text a row, and has no use for it"),
      )],
    ("    target: de", "    target: de\n    max_new_tokens: 9\n    generation: {min_new_tokens: 10}",
     25, "tasks.nmt.generation.min_new_tokens", "10 is more than the task's max_new_tokens 9"),
    ("    target: de", "    target: de\n    generation: 5", 24, "tasks.nmt.generation", "expected keys and values, got 5"),
    ('"test[:100]"', '"test[100]"',
     29, "tasks.corpus.splits.test", "expected a split such as train or train[:2000], got"),
    ("type: lora, r: 8", "type: lora, r: x", 32, "finetune.adapter.r", "expected a whole number, got 'x'"),
    ("type: lora, r: 8", "type: loha", 32, "finetune.adapter.type", "expected lora, got 'loha'"),
    ("type: lora, r: 8", "type: dora",
     32, "finetune.adapter.type", "expected lora, got 'dora'. Use type: lora with use_dora: true"),
    ("r: 8", "init_lora_weights: olora", 32, "finetune.adapter.init_lora_weights", "peft's OLoRA cannot read GPT-2's"),
    ("r: 8", "init_lora_weights: eva", 32, "finetune.adapter.init_lora_weights", "eva needs a pass of its own over data"),
    ("r: 8", "trainable_token_indices: [1]",
     32, "finetune.adapter.trainable_token_indices", "it is for the tied embeddings"),
    ("r: 8", "alora_invocation_tokens: [1]",
     32, "finetune.adapter.alora_invocation_tokens", "such an adapter cannot be merged"),
    ("  adapter: {type: lora, r: 8}", "  quantization: {load_in_4bit: true}",
     32, "finetune.quantization", "a quantized model is trained by an adapter only"),
    ("r: 8}", "r: 8}\n  quantization: {bnb_4bit_quant_type: nf4}",
     33, "finetune.quantization", "to how many bits? Set either"),
    ("r: 8}", "r: 8}\n  quantization: {load_in_4bit: true, load_in_8bit: true}",
     33, "finetune.quantization", "to how many bits? Set either"),
    ("r: 8}", "r: 8}\n  quantization: {load_in_4bits: true, load_in_8bit: true}",
     33, "finetune.quantization.load_in_4bits", "unknown key. Did you mean load_in_4bit?"),
    ("r: 8}", "r: 8}\n  quantization: {load_in_4bit: true, bnb_4bit_quant_type: nf5}",
     33, "finetune.quantization.bnb_4bit_quant_type", "expected one of fp4, nf4; got 'nf5'"),
    ("r: 8}", "r: 8, use_dora: true}\n  quantization: {load_in_4bit: true}",
     32, "finetune.adapter.use_dora", "peft's DoRA is not the same merged as trained on a quantized model"),
    ("name: good", "name: good\nprocesses: 0", 3, "processes", "must be above 0, got 0"),
    ("type: lora, r: 8", "r: 8", 32, "finetune.adapter", "which kind of adapter? Add `type: lora`"),
    ("you/good", "good", 36, "push.repo_id", "expected namespace/name, as on the Hub, got 'good'"),
    ("you/good", "you/a--b", 36, "push.repo_id", "expected namespace/name"),
    ("you/good", "you/good, license: Apache 2", 36, "push.license", "expected a licence as the Hub names it"),
    ("you/good}", "you/good, checkpoints: always}", 36, "push.checkpoints", "expected true or false, got 'always'"),
    ("  args: {eval_strategy: no}\nbenchmark:\n  tasks: [sentiment, nmt, corpus]\npush: {repo_id: you/good}",
     "  args: {save_strategy: no}\npush: {repo_id: you/good, checkpoints: true}",
     34, "push.checkpoints", "finetune.args.save_strategy is no: it writes no checkpoints. Set steps or epoch"),
    # one thing or the other
    ("  train: {algorithm: bpe, vocab_size: 512}", "  from: gpt2\n  train: {vocab_size: 512}",
     4, "tokenizer.from", "train and"),
    ("  train: {algorithm: bpe, vocab_size: 512}", "  from: null", 3, "tokenizer", "needs either train or"),
    ("  preset: gpt2-nano", "  from: gpt2\n  preset: gpt2-nano", 6, "model.from", "preset and from exclude each other"),
    ("  preset: gpt2-nano\n  n_positions: 256", "  from: gpt2\n  n_layer: 2",
     7, "model.n_layer", "belongs to a `preset:`"),
    ("  preset: gpt2-nano\n  n_positions: 256", "  from: gpt2\n  revison: a",
     7, "model.revison", "unknown key. Did you mean r"),
    ("  n_positions: 256", "  revision: main", 7, "model.revision", "belongs to a `from:`. Remove it"),
    ("gpt2-nano", "gpt2-tiny", 6, "model.preset", "no such preset: 'gpt2-tiny'. Did you mean gpt2-mini?"),
    ("tokenizer:\n  train: {algorithm: bpe, vocab_size: 512}\n", "",
     4, "model.preset", "a new model needs a tokenizer."),
    # values that cannot work
    ("vocab_size: 512", "vocab_size: 256", 4, "tokenizer.train.vocab_size", "must be at least 257 for bpe"),
    ("  n_positions: 256", "  n_head: 3", 7, "model.n_head", "n_embd 128 is not divisible by n_head 3"),
    ("  n_positions: 256", "  n_embd: 130", 7, "model.n_embd", "n_embd 130 is not divisible by n_head 4"),
    ("  n_positions: 256", "  n_layer: 0", 7, "model.n_layer", "must be above 0, got 0"),
    ("  n_positions: 256", "  attn_pdrop: 1.5",
     7, "model.attn_pdrop", "a dropout probability is at least 0 and below 1"),
    ("  n_positions: 256", "  vocab_size: 512", 7, "model.vocab_size", "it comes from the tokenizer"),
    ("  block_size: 128", "  block_size: 512",
     12, "pretrain.block_size", "512 is more than the model's n_positions 256"),
    ("  block_size: 128", "  shuffle_buffer: 1000", 12, "pretrain.shuffle_buffer", "is for a stream; rows in memory are"),
    ("  block_size: 128", "  validation: 0.7", 12, "pretrain.validation", "must be at most 0.5, got 0.7"),
    ("  block_size: 128", "  validation: {nam: 1, path: a}",
     12, "pretrain.validation.nam", "unknown key. Did you mean n"),
    ("  block_size: 128", "  validation: many", 12, "pretrain.validation", "expected a number, got 'many'"),
    ("    name: stories", "    name: storys",
     11, "pretrain.data.name", "expected one of stories, translation, summarization,"),
    ("    name: stories", "    size: 10", 9, "pretrain.data", "the toy world has several data sets. Set `name`"),
    ("    name: stories", "    name: stories\n    size: 0", 12, "pretrain.data.size", "must be above 0, got 0"),
    ("    name: stories", "    name: stories\n    weight: 0", 12, "pretrain.data.weight", "must be above 0, got 0"),
    ("    path: toy\n    name: stories", "    path: a/b\n    size: 9",
     11, "pretrain.data.size", "only `path: toy` is made to"),
    ("    path: toy\n    name: stories", "    - {path: a, weight: 1}\n    - path: b",
     11, "pretrain.data.1", "has no weight,"),
    ("    path: toy\n    name: stories", "    []", 9, "pretrain.data", "expected at least 1 item, got 0"),
    ("{path: org/reviews}", "{path: a/b, token: hf_x}",
     16, "tasks.sentiment.data.token", "secrets don't belong in a recipe"),
    *((old, new.replace("SECRET", secret), line, key, "this looks like an access token or a key")
      for secret in ("hf_aB3dE5gH7jK9", "sk-proj-q7q7q7q7q7q7")
      for old, new, line, key in [
          ("Review: {{ text }}", "SECRET {{ text }}", 18, "tasks.sentiment.prompt"),
          ("{path: org/reviews}", "{path: 'https://SECRET@host/a.csv'}", 16, "tasks.sentiment.data.path"),
          ("[negative, positive]", "[negative, SECRET]", 17, "tasks.sentiment.labels.1"),
          ("name: good", "name: SECRET", 2, "name"),
      ]),
    ("{path: org/reviews}", "{path: a, trust_remote_code: true}",
     16, "tasks.sentiment.data.trust_remote_code", "hflm never"),
    ("{path: org/reviews}", "{path: a, split: test}",
     16, "tasks.sentiment.data.split", "a task names its splits next to its data"),
    ("{path: org/reviews}", "{path: a, weight: 2}", 16, "tasks.sentiment.data.weight", "only pretrain.data and tokeni"),
    ("Review: {{ text }}", "Review: {{ text }",
     18, "tasks.sentiment.prompt", "not a jinja template: unexpected '}' (line 1 of"),
    ("Review: {{ text }}", "{{ text | shout }}",
     18, "tasks.sentiment.prompt", "not a jinja template: No filter named 'shout'"),
    ("    kind: translation\n", "",
     19, "tasks.nmt", "which kind of task is it? Add `kind:`, one of chat, choice, generation"),
    ("    kind: translation", "    kind: translate",
     20, "tasks.nmt.kind", "there is no kind 'translate'. Did you mean translation?"),
    (CORPUS, SHOTS, 29, "tasks.corpus.shots", "the examples come from splits.train, which is null"),
    # evaluation, the best checkpoint, and stages without a step
    ("max_steps: 400", "metric_for_best_model: accuracy",
     13, "pretrain.args.metric_for_best_model", "evaluation computes no 'accuracy'. Its metrics: loss"),
    ("max_steps: 400", "metric_for_best_model: eval_loss, greater_is_better: true",
     13, "pretrain.args.greater_is_better", "the best eval_loss is the lowest"),
    ("max_steps: 400", "eval_strategy: steps", 13, "pretrain.args.eval_strategy", "there is no validation data"),
    ("max_steps: 400", "load_best_model_at_end: true",
     13, "pretrain.args.load_best_model_at_end", "nothing is evaluated, so no checkpoint is the best"),
    *(("  block_size: 128\n  args: {max_steps: 400, learning_rate: 5e-4}",
       f"  validation: 0.1\n  args: {{load_best_model_at_end: true, {options}}}", 13, f"pretrain.args.{key}", text)
      for options, key, text in [
          ("max_steps: 4", "load_best_model_at_end", "each evaluated model must be saved. Set both, such as eval_steps"),
          ("eval_steps: 50", "load_best_model_at_end", "each evaluated model must be saved. Set save_steps: 50"),
          ("eval_steps: 50, save_steps: 120", "save_steps",
           "with load_best_model_at_end it must be a multiple of eval_steps 50, so that the best model is saved. Set"),
          ("eval_steps: 0.1, save_steps: 500", "save_steps", "save_steps 500 and eval_steps 0.1: one is a number of"),
          ("eval_steps: 0.1, save_steps: 0.25", "save_steps", "with load_best_model_at_end it must be a multiple"),
          ("eval_strategy: epoch", "load_best_model_at_end", "eval_strategy is epoch and save_strategy steps. Set"),
          ("eval_strategy: no", "load_best_model_at_end", "nothing is evaluated, so no checkpoint is the best"),
      ]),
    # tasks and several sets at each evaluation, early stopping
    *(("  block_size: 128\n  args: {max_steps: 400, learning_rate: 5e-4}", f"  validation: {validation}\n  args: {{{options}}}",
       line, f"pretrain.{key}", text)
      for validation, options, line, key, text in [
          ("{web: {path: b, pth: c}, qa: {path: c}}", "", 12, "validation.web.pth", "unknown key. Did you mean path?"),
          ("{web: {path: b}, qa: 3}", "", 12, "validation.qa", "expected keys and values, got 3"),
          ("{web: {name: b}}", "", 12, "validation.web.path", "required key is missing"),
          ("{loss: {path: b}}", "", 12, "validation.loss", "loss is the name of a metric. Choose another"),
          ("{a.b: {path: b}}", "", 12, "validation.a.b", "a validation set's name is letters, digits, `_` and `-`"),
          ("{web: {path: b}}", "metric_for_best_model: wb_loss",
           13, "args.metric_for_best_model", "evaluation computes no 'wb_loss'. Did you mean web_loss?"),
          ("0.1", "metric_for_best_model: sentiment_accuracy",
           13, "args.metric_for_best_model", "evaluation computes no 'sentiment_accuracy'. Add sentiment to `evaluate.tas"),
          ("0.1", "metric_for_best_model: bits_per_byte, greater_is_better: true",
           13, "args.greater_is_better", "the best bits_per_byte is the lowest. Remove it"),
          ("0.1\n  evaluate: {tasks: [sentiment]}", "", 13, "evaluate.tasks.0", "sentiment has no validation split, and"),
          ("0.1\n  evaluate: {tasks: [sentimant]}", "", 13, "evaluate.tasks.0", "there is no task sentimant under `tasks:`."),
          ("0.1\n  early_stopping: {patience: 0}", "", 13, "early_stopping.patience", "must be above 0, got 0"),
          ("0.1\n  early_stopping: {patience: 2, delta: 1}", "", 13, "early_stopping.delta", "unknown key. Did you mean min_d"),
          ("0.1\n  early_stopping: {patience: 2}\n  average_checkpoints: 2", "",
           14, "average_checkpoints", "early_stopping ends a stage before its last checkpoints"),
          ("null\n  early_stopping: {patience: 2}", "", 13, "early_stopping", "nothing is evaluated, so nothing says when to"),
      ]),
    ("max_steps: 400", "max_steps: 0", 13, "pretrain.args.max_steps", "0 leaves no step to train"),
    ("max_steps: 400", "num_train_epochs: 0", 13, "pretrain.args.num_train_epochs", "0 leaves no step to train"),
    ("  block_size: 128", "  tokens: 1e6", 13, "pretrain.args.max_steps", "`tokens` already says how long to train"),
    *(("  block_size: 128\n  args: {max_steps: 400, learning_rate: 5e-4}", f"  tokens: {value}", 12, "pretrain.tokens",
       "expected a number of tokens such as 2.5e9, or a multiple of the parameters such as 20x")
      for value in ("20 x", "0x", "many", "-5", "0", "true", ".inf", "[1]")),
    ("bpe, vocab_size: 512", "unigram, vocab_size: 257", 4, "tokenizer.train.vocab_size", "must be at least 258 for unigram"),
    ("bpe, vocab_size: 512", "wordpiece, vocab_size: 512",
     4, "tokenizer.train.vocab_size", "must be at least 513 for wordpiece"),
    # what hflm sets itself, and what libraries renamed
    ("max_steps: 400", "output_dir: x", 13, "pretrain.args.output_dir", "hflm sets it: a run's folder is runs/<name>"),
    ("max_steps: 400", "seed: 1", 13, "pretrain.args.seed", "hflm sets it from the recipe's `seed`."),
    ("max_steps: 400", "hub_model_id: a", 13, "pretrain.args.hub_model_id", "hflm publishes at the end of a run."),
    ("max_steps: 400", "do_train: true", 13, "pretrain.args.do_train", "hflm sets it from the recipe's sections."),
    ("max_steps: 400", "evaluation_strategy: no",
     13, "pretrain.args.evaluation_strategy", "transformers renamed it. Use ev"),
    ("max_steps: 400", "warmup_ratio: 0.1",
     13, "pretrain.args.warmup_ratio", "transformers removed it. Use warmup_steps"),
    ("max_steps: 400", "no_cuda: true", 13, "pretrain.args.no_cuda", "transformers renamed it. Use use_cpu"),
    ("type: lora, r: 8", "type: lora, task_type: CAUSAL_LM",
     32, "finetune.adapter.task_type", "hflm sets it. Remove it"),
    ("r: 8", "target_modules: [c_attn, transformer.wte]",
     32, "finetune.adapter.target_modules", "transformer.wte belongs to"),
    ("r: 8", "target_modules: 'c_attn('",
     32, "finetune.adapter.target_modules", "'c_attn(' is no regular expression"),
    ("max_steps: 400", "per_device_train_batch_size: 0",
     13, "pretrain.args.per_device_train_batch_size", "a batch has at least one row, not 0"),
    ("r: 8", "modules_to_save: [lm_head]",
     32, "finetune.adapter.modules_to_save", "lm_head belongs to the tied embeddings"),
    # between sections
    ("[sentiment, nmt]", "[sentimant, nmt]",
     31, "finetune.tasks.0", "there is no task sentimant under `tasks:`. Did you mean se"),
    ("[sentiment, nmt]", "[nmt, nmt]", 31, "finetune.tasks.1", "nmt is listed twice. Remove one"),
    ("[sentiment, nmt]", "[]", 31, "finetune.tasks", "expected at least 1 item, got 0"),
    ("[sentiment, nmt]\n", "[nmt, 3]\n", 31, "finetune.tasks.1", "expected text, got 3. Put it in quotes"),
    ("    source: en", "    source: en\n    splits: {train: null}",
     32, "finetune.tasks.1", "tasks.nmt.splits.train is null"),
    ("    source: en", "    source: en\n    splits: {test: null}",
     36, "benchmark.tasks.1", "tasks.nmt.splits.test is null"),
    ("[sentiment, nmt]\n", "[lm]\n", 31, "finetune.tasks.0", "lm is language_modeling, which has no target"),
    ("[bleu, chrf]", "[bleu]\n  a.b: {kind: qa, data: {path: x}}",
     25, "tasks.a.b", "a task's name is letters, digits, `_` and `-`"),
    # YAML itself
    ("name: good", "name: good\nname: other", 3, "name", "duplicate key, first on line 2. Remove one"),
    ("  n_positions: 256", "\tn_positions: 256", 7, "", "a tab character. YAML is indented with spaces"),
    ("name: good", "name: good: better", 2, "", "a colon where none may stand. Put text that holds `: ` in quotes"),
    ("{repo_id: you/good}", "{repo_id: you/good", 37, "", "not YAML: while parsing a flow mapping, expected"),
    ("name: good", "name: *nobody", 2, "", "not YAML: found undefined alias"),
    ("push: {repo_id: you/good}", "push: {repo_id: you/good}\n---\na: 1", 37, "", "a second document begins here."),
    ("name: good", "name: !!python/object:os.system x",
     2, "", "the tag !!python/object:os.system is not allowed in a re"),
    ("name: good", "name: !secret x", 2, "", "the tag !secret is not allowed in a recipe. Remove it"),
    ("name: good", "name: !!int abc", 2, "", "'abc' cannot be read as !!int"),
    ("name: good", "name: good\n2.5: x", 3, "", "the key '2.5' is not text. Put it in quotes"),
    ("name: good", "name: good\n7: x", 3, "7", "unknown key."),
    ('"Review: {{ text }}\\nSentiment:"', "{{ text }}",
     18, "", "a key that is a mapping or a list. Put text that holds {{ }}"),
    ("name: good", "name: &a [*a]", 2, "", "an alias inside the value that it names. Remove it"),
    ("name: good", "name: good\n<<: 7", 3, "", "<< merges keys and values"),
    ("name: good", "name: go\x07od", 2, "", "the character '\\x07' is not allowed in YAML"),
]
# fmt: on


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "text"), WRONG, ids=[f"{row[3]}: {row[1][:30]!r}" for row in WRONG]
)
def test_wrong_recipes(tmp_path, old, new, line, key, text):
    found = problems(tmp_path, changed(old, new))
    assert [problem[:2] for problem in found] == [(line, key)], found
    assert found[0][2].startswith(text)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "the file is empty"),
        ("# only a comment\n", None, "the file is empty"),
        ("- name: a\n", 1, "a recipe is keys and values"),
        ("just text\n", 1, "a recipe is keys and values"),
        ("a: [" * 2000, None, "nested too deeply"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, text, line, message):
    [(found_line, _, found)] = problems(tmp_path, text)
    assert (found_line, found.startswith(message)) == (line, True)


def test_an_alias_bomb_is_refused(tmp_path):
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    [(_, _, text)] = problems(tmp_path, "\n".join(levels))
    assert text.startswith("more than 100000 values")


def test_bytes_that_are_not_utf8(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"name: a\nmodel: \xff\n")
    with pytest.raises(RecipeError, match=r"r\.yaml:2  not UTF-8 text"):
        recipe.load_recipe(str(tmp_path / "r.yaml"))


def test_all_problems_at_once_in_the_order_of_lines(tmp_path):
    text = GOOD.replace("n_positions", "n_pos").replace("max_steps: 400", "max_steps: x").replace("you/good", "good")
    text = text.replace("source: en", "sauce: en").replace("name: good", "name: good\nname: twice")
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        recipe.load_recipe(str(tmp_path / "r.yaml"))
    file = tmp_path / "r.yaml"
    assert str(caught.value).splitlines() == [
        f"{file}:3  name: duplicate key, first on line 2. Remove one",
        f"{file}:8  model.n_pos: unknown key. Did you mean n_positions?",
        f"{file}:14  pretrain.args.max_steps: expected a whole number, got 'x'",
        f"{file}:20  tasks.nmt.source: required key is missing",
        f"{file}:23  tasks.nmt.sauce: unknown key. Did you mean source?",
        f"{file}:37  push.repo_id: expected namespace/name, as on the Hub, got 'good'",
        "6 problems; nothing was run.",
    ]


def test_unknown_keys_of_one_line_are_in_the_order_of_the_file(tmp_path):
    text = "name: a\nmodel: {preset: gpt2-nano}\npretrain: {zc: 1, ya: 1, xb: 1, wd: 1, data: {path: a.txt, vf: 1, ue: 1, tg: 1}}\n"
    keys = [key for _, key, message in problems(tmp_path, text) if "unknown key" in message]
    assert keys == [
        *(f"pretrain.{key}" for key in ("zc", "ya", "xb", "wd")),
        *(f"pretrain.data.{key}" for key in ("vf", "ue", "tg")),
    ]


def test_nothing_to_do(tmp_path):
    [(line, key, text)] = problems(tmp_path, "name: a\nmodel: {from: gpt2}\n")
    assert (line, key) == (1, "")
    assert text.startswith("nothing to do")


def test_a_tokenizer_needs_text(tmp_path):
    text = "name: a\nmodel: {preset: gpt2-nano}\ntokenizer: {train: {vocab_size: 300}}\nbenchmark: {tasks: [lm]}\n"
    text += "tasks: {lm: {kind: language_modeling, data: {path: text}}}\n"
    [(line, key, message)] = problems(tmp_path, text)
    assert (line, key, message[:20]) == (3, "tokenizer.train", "no text to train on:")
    assert load(tmp_path, text, ["tokenizer.train.data.path=text"]).tokenizer.train.data[0].path == "text"


@pytest.mark.parametrize(
    ("preset", "args", "expected"),
    [
        ("gpt2-nano", {}, {"optim": "muon", "learning_rate": 5e-3}),
        ("gpt2-mini", {"learning_rate": 1e-3}, {"optim": "muon", "learning_rate": 1e-3}),
        ("gpt2-mini", {"optim": "adamw_torch_fused"}, {"optim": "adamw_torch_fused"}),
        ("gpt2-micro", {"fsdp": True}, {"optim": "muon", "learning_rate": 5e-3, "fsdp": True}),
        ("gpt2-small", {}, {}),
    ],
)
def test_a_small_preset_brings_its_optimizer(tmp_path, preset, args, expected):
    text = GOOD.replace("preset: gpt2-nano", f"preset: {preset}").replace(
        "{max_steps: 400, learning_rate: 5e-4}", json.dumps(args)
    )
    loaded = load(tmp_path, text)
    assert loaded.pretrain.args == expected
    (tmp_path / "again.yaml").write_text(recipe.dump_recipe(loaded))
    assert recipe.load_recipe(str(tmp_path / "again.yaml")).pretrain.args == expected


def test_a_good_recipe(tmp_path):
    good = load(tmp_path, GOOD)
    assert good.name == "good"
    assert good.seed == 42
    assert good.model.config == {**PRESETS["gpt2-nano"], "n_positions": 256}
    assert [data.options for data in good.pretrain.data] == [{"name": "stories"}]
    assert good.pretrain.args == {"max_steps": 400, "learning_rate": 5e-4, "optim": "muon"}
    assert {name: task.kind for name, task in good.tasks.items()} == {
        "sentiment": "sentiment",
        "nmt": "translation",
        "lm": "language_modeling",
        "corpus": "language_modeling",
    }
    assert good.tasks["nmt"].metrics == ("bleu", "chrf")
    assert good.tasks["corpus"].splits.model_dump() == {"train": None, "validation": None, "test": "test[:100]"}
    assert good.tasks["nmt"].splits.model_dump() == {"train": "train", "validation": None, "test": "test"}
    assert good.finetune.args == {"eval_strategy": "no"}
    assert good.push.private is True


@pytest.mark.parametrize(
    "args",
    [
        {"eval_steps": 50, "save_steps": 150, "metric_for_best_model": "eval_loss"},
        {"eval_steps": 0.1, "save_steps": 0.2},
        {"eval_strategy": "epoch", "save_strategy": "epoch"},
        {"save_strategy": "best"},
    ],
)
def test_the_best_checkpoint_of_a_stage_with_validation(tmp_path, args):
    text = changed("  block_size: 128", "  validation: 0.1").replace("{max_steps: 400, learning_rate: 5e-4}", "{}")
    args = {"load_best_model_at_end": True, "optim": "sgd", **args}
    assert load(tmp_path, text, [f"pretrain.args={json.dumps(args)}"]).pretrain.args == args


SPLIT = ("{path: org/reviews}", "{path: org/reviews}\n    splits: {validation: validation}")
ARGS = "  adapter: {type: lora, r: 8}\n  args: {eval_strategy: no}"


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("evaluate: {tasks: [sentiment], limit: 5}", None, None),
        ("evaluate: {tasks: [sentiment]}, args: {metric_for_best_model: eval_sentiment_mcc}", None, None),
        ("evaluate: {tasks: [sentiment]}, early_stopping: {patience: 3, min_delta: 0.001}", None, None),
        ("evaluate: {tasks: [sentiment]}, args: {metric_for_best_model: sentiment_acuracy}", "args.metric_for_best_model",
         "evaluation computes no 'sentiment_acuracy'. Did you mean sentiment_accuracy?"),
        ("evaluate: {tasks: [nmt]}, args: {metric_for_best_model: sentiment_mcc}", "args.metric_for_best_model",
         "evaluation computes no 'sentiment_mcc'. Add sentiment to `evaluate.tasks`"),
        ("evaluate: {tasks: [sentiment]}, args: {metric_for_best_model: sentiment_mcc, greater_is_better: false}",
         "args.greater_is_better", "the best sentiment_mcc is the highest. Remove it"),
        ("evaluate: {tasks: [sentiment]}, args: {eval_strategy: no}", "evaluate", "eval_strategy is no, so nothing is"),
        ("evaluate: {tasks: [sentiment], limit: 0}", "evaluate.limit", "must be above 0, got 0"),
        ("evaluate: {tasks: [sentiment]}, early_stopping: {patience: 2, min_delta: -1}", "early_stopping.min_delta",
         "must be at least 0, got -1"),
    ],
)  # fmt: skip
def test_tasks_are_evaluated_and_choose_the_model(tmp_path, section, key, message):
    text = changed(*SPLIT).replace("source: en", "source: en\n    splits: {validation: dev}")
    text = text.replace("  tasks: [sentiment, nmt]\n" + ARGS, f"  {{tasks: [sentiment, nmt], {section}}}")
    if key is None:
        assert load(tmp_path, text).finetune.evaluate.tasks == ("sentiment",)
        return
    [(_, found, said)] = problems(tmp_path, text)
    assert found == f"finetune.{key}"
    assert said.startswith(message)


def test_a_metric_must_be_named_where_there_is_no_loss(tmp_path):
    text = changed(*SPLIT).replace("tasks: [sentiment, nmt]\n" + ARGS, "tasks: [nmt]\n  evaluate: {tasks: [sentiment]}")
    early = text.replace("[sentiment]}", "[sentiment]}\n  early_stopping: {patience: 2}")
    [(_, key, message)] = problems(tmp_path, early)
    assert key == "finetune.early_stopping"
    assert message == (
        "which metric chooses? Set args.metric_for_best_model to one of sentiment_accuracy, sentiment_macro_f1, sentiment_mcc"
    )


def test_several_validation_sets_are_a_recipe_again(tmp_path):
    sets = "  validation: {web: {path: a/b, split: 'test[:9]'}, wiki: {path: toy, name: stories}}"
    loaded = load(tmp_path, changed("  block_size: 128", sets))
    assert list(loaded.pretrain.validation_sets) == ["pretrain.validation.web", "pretrain.validation.wiki"]
    assert load(tmp_path, recipe.dump_recipe(loaded)) == loaded


@pytest.mark.parametrize(
    ("value", "parameters", "tokens"), [("2.5e9", 7, 2.5e9), ("1000", 7, 1000), ("20x", 7, 140), ("1.5x", 4, 6)]
)
def test_tokens_to_train_on(tmp_path, value, parameters, tokens):
    text = changed("  block_size: 128\n  args: {max_steps: 400, learning_rate: 5e-4}", f"  tokens: {value}")
    loaded = load(tmp_path, text)
    assert loaded.pretrain.token_budget(parameters) == tokens
    assert load(tmp_path, recipe.dump_recipe(loaded)) == loaded


def test_a_secret_in_a_set_is_refused_and_not_shown(tmp_path):
    (tmp_path / "r.yaml").write_text(GOOD)
    done = subprocess.run(
        [sys.executable, "-m", "hflm", "validate", "r.yaml", "--set", "tasks.nmt.source=hf_aB3dE5gH7jK9"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--set tasks.nmt.source=hf_(hidden)  tasks.nmt.source: this looks like an access token" in done.stderr
    assert "aB3dE5" not in done.stdout + done.stderr


def test_a_column_that_begins_like_a_token_is_no_secret(tmp_path):
    assert load(tmp_path, GOOD, ["tasks.nmt.source=hf_question"]).tasks["nmt"].source == "hf_question"


def test_a_recipe_is_frozen(tmp_path):
    good = load(tmp_path, GOOD)
    with pytest.raises(ValidationError, match="frozen"):
        good.seed = 1


def test_a_model_to_start_from(tmp_path):
    given = load(tmp_path, GOOD.replace("  preset: gpt2-nano\n  n_positions: 256\n", MODEL_FROM)).model
    assert (given.from_, given.dtype, given.preset, given.config) == ("org/base", "bfloat16", None, {})


# (a YAML value, what it is)
SCALARS = [
    ("5e-4", 5e-4),
    ("1E5", 1e5),
    ("-.5", -0.5),
    ("1.", 1.0),
    ("+1.5e+3", 1500.0),
    ("100_000", 100000),
    ("0x1F", 31),
    ("-7", -7),
    ("0", 0),
    ("007", "007"),
    ("1:30", "1:30"),
    ("no", "no"),
    ("on", "on"),
    ("yes", "yes"),
    ("True", True),
    ("false", False),
    ("~", None),
    ("", None),
    ("2024-01-01", "2024-01-01"),
    ("1.2.3", "1.2.3"),
    ("e5", "e5"),
    ("'5'", "5"),
    ("!!str 5", "5"),
    ("=", "="),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars(text, value):
    found = []
    read = parse_yaml(f"a: {text}", "x", found).plain()["a"]
    assert (read, type(read), found) == (value, type(value), [])


@pytest.mark.parametrize(
    "value", [*(text for text, _ in SCALARS), "a\nb\n", " x ", "{{ a }}: b", "é\t中", 1e-05, 1e20, []]
)
def test_dumped_values_are_read_back_by_any_reader(value):
    text = dump_yaml({"a": value})
    assert parse_yaml(text, "x", []).plain() == {"a": value}
    if isinstance(value, str):
        assert yaml.safe_load(text) == {"a": value}


def test_aliases_and_merge_keys(tmp_path):
    text = changed("  args: {eval_strategy: no}", "  args: {<<: *fast, max_steps: 9}").replace(
        "args: {max", "args: &fast {max"
    )
    assert load(tmp_path, text).finetune.args == {"max_steps": 9, "learning_rate": 5e-4}


@pytest.mark.parametrize("sets", [[], ["tokenizer.train=null", "tokenizer.from=gpt2"], ["pretrain.validation=0.1"]])
def test_a_dumped_recipe_loads_back_equal(tmp_path, sets):
    first = load(tmp_path, GOOD, sets)
    text = recipe.dump_recipe(first)
    assert load(tmp_path, text) == first
    assert list(yaml.safe_load(text))[:2] == ["name", "seed"]
    assert recipe.dump_recipe(load(tmp_path, text)) == text


def test_extends_merges_deeply_and_problems_point_into_the_right_file(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "b.yaml").write_text(GOOD)
    child = (
        "extends: base/b.yaml\nname: child\npretrain: {args: {max_steps: 5}}\ntasks: {sentiment: {labels: [a, b]}}\n"
    )
    merged = load(tmp_path, child)
    assert (merged.name, merged.pretrain.args) == ("child", {"optim": "muon", "max_steps": 5, "learning_rate": 5e-4})
    assert merged.tasks["sentiment"].labels == ("a", "b")
    assert merged.tasks["sentiment"].data.path == "org/reviews"

    (tmp_path / "base" / "b.yaml").write_text(changed("n_positions", "n_pos"))
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, child.replace("max_steps: 5", "max_stps: 5"))
    assert [(Path(problem.file).name, problem.line, problem.key) for problem in caught.value.problems] == [
        ("b.yaml", 7, "model.n_pos"),
        ("r.yaml", 3, "pretrain.args.max_stps"),
    ]


def test_a_null_in_a_child_drops_a_section(tmp_path):
    (tmp_path / "b.yaml").write_text(GOOD)
    child = "extends: b.yaml\npush: null\nfinetune: null\ntokenizer: {train: null, from: gpt2}\n"
    merged = load(tmp_path, child)
    assert (merged.push, merged.finetune, merged.tokenizer.from_) == (None, None, "gpt2")


def test_extends_three_files_relative_to_each(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "top.yaml").write_text(GOOD)
    (tmp_path / "a" / "middle.yaml").write_text("extends: top.yaml\nseed: 7\nname: middle\n")
    merged = load(tmp_path, "extends: a/middle.yaml\nname: low\n")
    assert (merged.name, merged.seed, merged.model.preset) == ("low", 7, "gpt2-nano")


@pytest.mark.parametrize(
    ("files", "file", "line", "text"),
    [
        ({"r.yaml": "name: a\nextends: none.yaml\n"}, "r.yaml", 2, "none.yaml: no such file"),
        ({"r.yaml": "extends: r.yaml\n"}, "r.yaml", 1, "r.yaml leads back to itself. Break the circle"),
        ({"r.yaml": "extends: b.yaml\n", "b.yaml": "\nextends: r.yaml\n"}, "b.yaml", 2, "r.yaml leads back to itself"),
        ({"r.yaml": "extends: [a, b]\n"}, "r.yaml", 1, "expected one path, or the name of a shipped recipe"),
        ({"r.yaml": "extends: b.yaml\n", "b.yaml": "a: [\n"}, "b.yaml", 2, "not YAML"),
        ({"r.yaml": "extends: b.yaml\n", "b.yaml": ""}, "b.yaml", None, "the file is empty"),
    ],
)
def test_extends_that_leads_nowhere(tmp_path, files, file, line, text):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(RecipeError) as caught:
        recipe.load_recipe(str(tmp_path / "r.yaml"))
    [problem] = caught.value.problems
    assert (Path(problem.file).name, problem.line) == (file, line)
    assert problem.text.startswith(text)


@pytest.mark.parametrize(
    ("sets", "path", "value"),
    [
        (["seed=7"], "seed", 7),
        (["pretrain.args.learning_rate=3e-3"], "pretrain.args.learning_rate", 3e-3),
        (["pretrain.args.bf16=true"], "pretrain.args.bf16", True),
        (["tasks.nmt.metrics=[ter]"], "tasks.nmt.metrics", ["ter"]),
        (["tasks.nmt.metrics.1=ter"], "tasks.nmt.metrics", ["bleu", "ter"]),
        (["tasks.nmt.metrics.0=null"], "tasks.nmt.metrics", ["chrf"]),
        (
            ["pretrain.data={path: text, data_files: a=b.txt}"],
            "pretrain.data",
            [{"path": "text", "data_files": "a=b.txt"}],
        ),
        (
            ["pretrain.data=[{path: a}, {path: b}]", "pretrain.data.1.path=c"],
            "pretrain.data",
            [{"path": "a"}, {"path": "c"}],
        ),
        (["benchmark.batch_tokens=1", "benchmark.batch_tokens=2"], "benchmark.batch_tokens", 2),
        (["pretrain.args.max_steps=null"], "pretrain.args", {"optim": "muon", "learning_rate": 5e-4}),
        (["push=null"], "push", None),
        (["push=null", "push=null"], "push", None),
        (["tasks.nmt.splits.test=dev"], "tasks.nmt.splits.test", "dev"),
        (["finetune.adapter.bias=none"], "finetune.adapter.bias", "none"),
    ],
)
def test_set(tmp_path, sets, path, value):
    found = yaml.safe_load(recipe.dump_recipe(load(tmp_path, GOOD, sets)))
    for key in path.split("."):
        found = found.get(key)
    assert found == value


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("seed", "", "expected key.path=value"),
        ("=7", "", "expected key.path=value"),
        ("a..b=7", "", "expected key.path=value"),
        ("seed=", "", "no value after the =."),
        ("seed=[1", "", "the value is not YAML"),
        ("tasks.nmt.source=a: b: c", "", "the value is not YAML"),
        ("tasks.nmt.source=!x y", "", "the tag !x is not allowed"),
        ("tasks.nmt.metrics.5=ter", "", "tasks.nmt.metrics is a list of 2: 5 is no index of it"),
        ("tasks.nmt.metrics.x=ter", "", "tasks.nmt.metrics is a list of 2: x is no index of it"),
        ("name.first=a", "", "name is 'good', which holds no keys"),
        ("extends=a", "", "a recipe says itself what it extends"),
        ("seed=abc", "seed", "expected a whole number, got 'abc'"),
        ("pretrain.args.lerning_rate=1", "pretrain.args.lerning_rate", "unknown key. Did you mean learning_rate?"),
        ("finetne=null", "finetne", "unknown key. Did you mean finetune?"),
        ("tasks.nmt.splits.tset=null", "tasks.nmt.splits.tset", "unknown key. Did you mean test?"),
    ],
)
def test_wrong_set(tmp_path, text, key, message):
    (tmp_path / "r.yaml").write_text(GOOD)
    with pytest.raises(RecipeError) as caught:
        recipe.load_recipe(str(tmp_path / "r.yaml"), [text])
    [problem] = caught.value.problems
    assert (problem.file, problem.line, problem.key) == (f"--set {text}", None, key)
    assert problem.text.startswith(message)


def test_a_path_that_is_no_file(tmp_path):
    for name, text in [("nope", "no such file, and no shipped recipe"), (str(tmp_path), "is a folder, not a recipe")]:
        with pytest.raises(RecipeError, match=text):
            recipe.load_recipe(name)


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in recipe.shipped_recipes()])
def test_shipped_recipes_are_right(name):
    assert recipe.load_recipe(name).name
    stem = name.split("/")[-1]
    if sum(other.split("/")[-1] == stem for other in recipe.shipped_recipes()) == 1:
        assert recipe.load_recipe(stem) == recipe.load_recipe(name)


@pytest.mark.parametrize("home", ["recipes", "hflm/_recipes"], ids=["repository", "wheel"])
def test_shipped_recipes_by_name(tmp_path, monkeypatch, home):
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "hflm" / "recipe" / "shipped.py"))
    for name in ("base", "qa/squad", "qa/small", "sentiment/small"):
        (tmp_path / home / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / home / f"{name}.yaml").write_text(GOOD.replace("name: good", f"name: {name.replace('/', '-')}"))
    monkeypatch.chdir(tmp_path)
    assert list(recipe.shipped_recipes()) == ["base", "qa/small", "qa/squad", "sentiment/small"]
    assert recipe.load_recipe("squad") == recipe.load_recipe("qa/squad")
    assert load(tmp_path, "extends: squad\nseed: 3\n").seed == 3
    for name, text in [("small", "Write one of: qa/small, sentiment/small"), ("sqad", "Did you mean squad?")]:
        with pytest.raises(RecipeError, match=text):
            recipe.load_recipe(name)
    Path("squad").write_text(GOOD)  # a file comes before a name
    assert recipe.load_recipe("squad").name == "good"


def sections(section=Recipe.__mro__[1]):
    for below in section.__subclasses__():
        yield below
        yield from sections(below)


@pytest.mark.parametrize("section", list(sections()), ids=lambda section: section.__name__)
def test_every_key_of_a_recipe_is_described(section):
    without = [name for name, field in section.model_fields.items() if not field.description]
    assert not [name for name in without if name != "kind"]


def test_the_schema_knows_sections_tasks_and_passed_names():
    schema = recipe.recipe_json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert {"name", "extends", "model", "tasks"} <= set(schema["properties"])
    sections = schema["$defs"]
    assert sections["ModelRecipe"]["properties"]["n_layer"] == {"type": "integer"}
    assert "vocab_size" not in sections["ModelRecipe"]["properties"]
    args = sections["PretrainRecipe"]["properties"]["args"]
    assert args["properties"]["eval_strategy"] == {"enum": ["no", "steps", "epoch"]}
    assert args["additionalProperties"] is False
    assert "output_dir" not in args["properties"]
    assert "from" in sections["TokenizerRecipe"]["properties"]
    assert set(schema["properties"]["tasks"]["properties"]) == set(recipe.kind_names())
    assert schema["properties"]["tasks"]["additionalProperties"]["required"] == ["kind"]


@pytest.mark.parametrize(
    ("union", "value", "text"),
    [
        ("int", 3, None),
        ("int", 3.0, "expected a whole number, got 3.0"),
        ("int", True, "expected a whole number, got true"),
        ("float", 3, None),
        ("bool", 1, "expected true or false, got 1"),
        ("str", 1, "expected text, got 1. Put it in quotes"),
        ("int|null", None, None),
        ("float|int", "x", "expected a number, got 'x'"),
        ("str|list|null", {}, "expected text or a list or null, got keys and values"),
        ("no|steps", "no", None),
        ("no|steps", False, "expected one of no, steps, got false"),
        ("no|steps", "epoch", "expected one of no, steps; got 'epoch'"),
        ("none|all|null", "al", "expected one of none, all; got 'al'. Did you mean all?"),
        ("float", float("inf"), "expected a finite number, got inf"),
    ],
)
def test_mismatch(union, value, text):
    assert names.mismatch(union, value) == text


def test_the_names_belong_to_the_installed_versions():
    """Fails after an update of a library: run `python tests/names.py > hflm/recipe/names.json`, and read the diff."""
    assert names.VERSIONS == {library: version(library) for library in ("transformers", "peft", "datasets")}


def test_names_are_those_of_the_installed_libraries():
    """Fails after an update of transformers, peft or datasets: run `python tests/names.py > hflm/recipe/names.json`."""
    generator = Path(__file__).parents[1] / "names.py"
    made = subprocess.run([sys.executable, str(generator)], capture_output=True, text=True, check=True, env=os.environ)
    assert json.loads(made.stdout) == {"versions": names.VERSIONS, **names.NAMES}


def test_refusals_name_real_options():
    assert set(names.REFUSED["LoraConfig"]) <= set(names.NAMES["LoraConfig"])
    assert set(names.REFUSED["GPT2Config"]) <= set(names.NAMES["GPT2Config"])
    for name, text in names.REFUSED["TrainingArguments"].items():
        gone = text.startswith(("transformers renamed", "transformers removed"))
        assert gone != (name in names.NAMES["TrainingArguments"]) or name.startswith("push_to_hub_"), name


def test_loading_imports_no_heavy_library(tmp_path):
    (tmp_path / "r.yaml").write_text(GOOD)
    code = (
        "import sys; from hflm import recipe; recipe.dump_recipe(recipe.load_recipe(sys.argv[1])); recipe.recipe_json_schema();"
        "print([name for name in ('torch', 'transformers', 'datasets', 'peft', 'numpy') if name in sys.modules])"
    )
    made = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "r.yaml")], capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == "[]"


NEW_MODEL = """\
name: new
tokenizer: {train: {vocab_size: 300}}
model: MODEL
pretrain: {data: {path: toy, name: stories}, args: {max_steps: 1}}
"""
LLAMA = "hidden_size: 32, num_hidden_layers: 1, intermediate_size: 64"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("preset: gpt2-nano", {"n_layer": 4, "n_head": 4, "n_embd": 128, "initializer_range": 0.06}),
        ("architecture: gpt2, n_layer: 1, n_head: 2, n_embd: 8", {"n_layer": 1, "n_head": 2, "n_embd": 8}),
        (
            f"architecture: llama, num_attention_heads: 2, rms_norm_eps: 1.0e-5, {LLAMA}",
            {
                "model_type": "llama",
                "num_attention_heads": 2,
                "rms_norm_eps": 1e-5,
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "intermediate_size": 64,
            },
        ),
        ("preset: llama-nano, num_hidden_layers: 2", {**recipe.PRESETS["llama-nano"], "num_hidden_layers": 2}),
        ("preset: qwen3-micro, architecture: qwen3", recipe.PRESETS["qwen3-micro"]),
    ],
)
def test_the_configuration_of_a_new_model(tmp_path, model, expected):
    assert load(tmp_path, NEW_MODEL.replace("MODEL", f"{{{model}}}")).model.config == expected


@pytest.mark.parametrize(
    ("model", "key", "message"),
    [
        ("preset: llama-nan", "model.preset", "no such preset: 'llama-nan'. Did you mean llama-nano?"),
        ("preset: llama-nan, hidden_size: 64", "model.preset", "no such preset: 'llama-nan'. Did you mean llama-nano?"),
        ("architecture: lama", "model.architecture", "no such architecture: 'lama'. Did you mean llama?"),
        ("preset: llama-nano, architecture: gpt2", "model.architecture", "llama-nano is a llama. Remove it"),
        ("architecture: llama, from: gpt2", "model.from", "architecture and from exclude each other"),
        (f"architecture: llama, {LLAMA}", "model.architecture", "needs its sizes. Add num_attention_heads"),
        ("architecture: gpt2", "model.architecture", "needs its sizes. Add n_layer, n_head, n_embd"),
        (
            f"architecture: qwen3, num_attention_heads: 2, {LLAMA}",
            "model.architecture",
            "Add num_key_value_heads, head_dim",
        ),
        ("preset: llama-nano, n_layer: 2", "model.n_layer", "unknown key. Did you mean num_hidden_layers?"),
        ("preset: llama-nano, hidden_sise: 2", "model.hidden_sise", "unknown key. Did you mean hidden_size?"),
        ("preset: llama-nano, hidden_act: silo", "model.hidden_act", "silo"),
        ("preset: llama-nano, vocab_size: 9", "model.vocab_size", "it comes from the tokenizer"),
        ("preset: llama-nano, num_key_value_heads: 3", "model.num_key_value_heads", "4 is not divisible by"),
        ("preset: llama-nano, attention_dropout: 1.5", "model.attention_dropout", "a dropout probability"),
        ("preset: qwen3-nano, head_dim: 0", "model.head_dim", "must be above 0"),
    ],
)
def test_mistakes_in_a_new_model(tmp_path, model, key, message):
    [(line, where, text)] = problems(tmp_path, NEW_MODEL.replace("MODEL", f"{{{model}}}"))
    assert (line, where) == (3, key)
    assert message in text


def test_a_row_fits_into_the_context_of_any_architecture(tmp_path):
    text = NEW_MODEL.replace("MODEL", "{preset: llama-nano, max_position_embeddings: 64}")
    found = problems(tmp_path, text.replace("stories}", "stories}, block_size: 65"))
    assert [(key, text) for _, key, text in found] == [
        ("pretrain.block_size", "65 is more than the model's max_position_embeddings 64")
    ]
