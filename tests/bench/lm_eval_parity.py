"""The same prompts on the same rows through lm-eval and through hflm: do they answer and score alike?

    LM_EVAL_PYTHON=.../bin/python MODEL=FOLDER DATA=FOLDER python tests/bench/lm_eval_parity.py --limit 100

LM_EVAL_PYTHON is the python of an environment with lm-eval, best with the torch and transformers of this one. DATA
holds sentiment_sst2/validation.jsonl (sentence, label), qa_squad/validation.jsonl (SQuAD's rows) and
translation_multi30k/en-de/test.jsonl (translation: en, de). The first --limit rows of each become files beside three
task files, which both tools read: lm-eval through simple_evaluate, hflm through `hflm bench --task-file`.

A second SST-2 task has 5 shots: hflm draws their order, and lm-eval gets the same shots in that order (its sampler
first_n), so that both see the same prompts. A choice's likelihood leaves out its end in both tools (`label_end: false`,
which hflm sets for tasks of lm-eval's). By hflm's own rule, with the end, scores differ where a choice's tokens begin
another choice's.

Prints one JSON line: for SST-2 the largest difference of a choice's log-likelihood (nats) and both accuracies; for SQuAD
and Multi30k how many texts are the same, and the scores of both tools' texts by hflm's metrics beside lm-eval's own.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HOME = Path(__file__).parent.parent.parent
SST2 = """\
task: sst2_choice
dataset_path: json
dataset_kwargs: {data_files: FILES}
test_split: test
output_type: multiple_choice
doc_to_text: "Review: {{sentence}}\\nSentiment:"
doc_to_choice: [" negative", " positive"]
doc_to_target: label
target_delimiter: ""
metric_list: [{metric: acc}]
"""
SHOTS = 5
SST2_SHOTS = SST2.replace("sst2_choice", "sst2_shots") + f"num_fewshot: {SHOTS}\nfewshot_split: train\n"
SQUAD = """\
task: squad_text
dataset_path: json
dataset_kwargs: {data_files: FILES}
test_split: test
output_type: generate_until
doc_to_text: "{{context}}\\nQuestion: {{question}}\\nAnswer:"
doc_to_target: "{{answers}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 32, do_sample: false}
metric_list: [{metric: exact_match}]
"""
MULTI30K = """\
task: multi30k_text
dataset_path: json
dataset_kwargs: {data_files: FILES}
test_split: test
output_type: generate_until
doc_to_text: "English: {{en}}\\nGerman:"
doc_to_target: de
generation_kwargs: {until: ["\\n"], max_gen_toks: 48, do_sample: false}
metric_list: [{metric: bleu}]
"""
# Runs under lm-eval's python: task names -> {"results": ..., "samples": ...} in a file.
DRIVER = """\
import json, sys
import lm_eval
from lm_eval.tasks import TaskManager

model, folder, names, batch_size, output = sys.argv[1:]
found = lm_eval.simple_evaluate(
    model="hf",
    model_args={"pretrained": model, "dtype": "float32"},
    tasks=names.split(","),
    task_manager=TaskManager(include_path=folder, include_defaults=False),
    batch_size=int(batch_size),
    device="cpu",
    bootstrap_iters=0,
    log_samples=True,
)
kept = {key: found[key] for key in ("results", "samples")}
with open(output, "w") as file:
    json.dump(kept, file, default=str)
"""


def main():
    given = arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        splits = {"test": sst2(given.data, given.limit), "train": sst2(given.data, SHOTS, "train")}
        tasks = {
            "sst2_choice": write(folder, SST2, test=splits["test"]),
            "sst2_shots": write(folder, SST2_SHOTS, **splits),
            "squad_text": write(folder, SQUAD, test=squad(given.data, given.limit)),
            "multi30k_text": write(folder, MULTI30K, test=multi30k(given.data, given.limit)),
        }
        ours = hflm(given, folder, tasks)
        prompt = ours["sst2_shots"][0]["prompt"]
        splits["train"].sort(key=lambda row: prompt.index(f"Review: {row['sentence']}\n"))
        write(folder, f"{SST2_SHOTS}fewshot_config: {{sampler: first_n}}\n", **splits)
        theirs = lm_eval(given, folder, tasks)
    print(json.dumps(compared(theirs, ours)))


def compared(theirs, ours):
    found = {
        key: choices(theirs, ours, name) for key, name in (("sst2", "sst2_choice"), ("sst2_5_shots", "sst2_shots"))
    }
    for name, key, scored, own_metric in (
        ("squad_text", "squad", ("exact_match", "f1"), "exact_match"),
        ("multi30k_text", "multi30k", ("bleu", "chrf"), "bleu"),
    ):
        lines = ours[name]
        texts = [sample["resps"][0][0].strip() for sample in by_row(theirs["samples"][name])]
        references = [tuple(line["references"]) for line in lines]
        found[key] = {
            "rows": len(lines),
            "same_predictions": sum(line["prediction"] == text for line, text in zip(lines, texts, strict=True)),
            # lm-eval cuts at a stop string at the very beginning, too, and then nothing is left.
            "empty": {"lm_eval": texts.count(""), "hflm": sum(not line["prediction"] for line in lines)},
            **side_by_side(scored, texts, [line["prediction"] for line in lines], references),
            f"lm_eval_own_{own_metric}": theirs["results"][name][f"{own_metric},none"],
        }
    return found


def choices(theirs, ours, name):
    """Both tools' log-likelihoods and accuracies of a task of choices."""
    lines, samples = ours[name], by_row(theirs["samples"][name])
    nats = [[float(each[0][0]) for each in sample["resps"]] for sample in samples]
    own = [list(line["log_likelihoods"].values()) for line in lines]
    differences = [abs(a - b) for pair in zip(nats, own, strict=True) for a, b in zip(*pair, strict=True)]
    same = [pair.index(max(pair)) == other.index(max(other)) for pair, other in zip(nats, own, strict=True)]
    prompts = [each["arguments"][0][0] == line["prompt"] for each, line in zip(samples, lines, strict=True)]
    return {
        "rows": len(lines),
        "same_prompts": sum(prompts),
        "log_likelihood_max_abs_difference": max(differences),
        "same_predictions": sum(same),
        "accuracy": {"lm_eval": theirs["results"][name]["acc,none"], "hflm": mean(lines, "accuracy")},
    }


def side_by_side(names, theirs, ours, references):
    from hflm.evaluation import metrics

    scores = [metrics.score(names, texts, references, resamples=1) for texts in (theirs, ours)]
    return {name: {"lm_eval": scores[0][name].value, "hflm": scores[1][name].value} for name in names}


def mean(lines, metric):
    return sum(line["scores"][metric] for line in lines) / len(lines)


def by_row(samples):
    return sorted(samples, key=lambda sample: sample["doc_id"])


def sst2(data, limit, split="validation"):
    return first(data / "sentiment_sst2" / f"{split}.jsonl", limit)


def squad(data, limit):
    """SQuAD's rows with their answers as a list of texts."""
    rows = first(data / "qa_squad" / "validation.jsonl", limit)
    return [{**{key: row[key] for key in ("context", "question")}, "answers": row["answers"]["text"]} for row in rows]


def multi30k(data, limit):
    return [row["translation"] for row in first(data / "translation_multi30k" / "en-de" / "test.jsonl", limit)]


def first(file, limit):
    """The first `limit` rows of a file (None: all), their text without outer white space, as hflm's prompts have it."""
    with open(file, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, limit)]
    return [{key: value.strip() if isinstance(value, str) else value for key, value in row.items()} for row in rows]


def write(folder, task, **splits):
    """Write a task file and the rows of its splits; its path."""
    name = task.partition("\n")[0].removeprefix("task: ")
    files = {}
    for split, rows in splits.items():
        files[split] = str(folder / f"{name}.{split}.jsonl")
        Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path = folder / f"{name}.yaml"
    path.write_text(task.replace("FILES", json.dumps(files)), encoding="utf-8")
    return path


def lm_eval(given, folder, tasks):
    """lm-eval's results and samples of the tasks, {name: task file}, in a process of its own."""
    output = folder / "lm_eval.json"
    command = [given.lm_eval_python, "-c", DRIVER, given.model, folder, ",".join(tasks), given.batch_size, output]
    process(command, folder)
    return json.loads(output.read_text())


def hflm(given, folder, tasks):
    """{name: lines of hflm's predictions} of the tasks, {name: task file}, in a process of its own."""
    output = folder / "hflm"
    files = [argument for path in tasks.values() for argument in ("--task-file", path)]
    process([sys.executable, "-m", "hflm", "bench", given.model, *files, "--output", output], folder)
    predictions = output / "benchmark" / "predictions"
    return {name: [json.loads(line) for line in (predictions / f"{name}.jsonl").open()] for name in tasks}


def process(command, folder):
    """Run a command without a network; what it says goes to the terminal's error stream only if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(HOME), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stderr[-3000:]}\n{' '.join(map(str, command[:4]))} ... failed ({done.returncode})")


def arguments(description):
    """The options that the measurements beside lm-eval share; the environment gives their defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, kind in (("lm-eval-python", str), ("model", str), ("data", Path)):
        name = option.replace("-", "_").upper()
        default = os.environ.get(name)
        parser.add_argument(f"--{option}", type=kind, default=default, required=not default, help=f"or ${name}")
    parser.add_argument("--batch-size", type=int, default=8, help="lm-eval's (default: 8)")
    parser.add_argument("--limit", type=int, help="only the first rows of each data set")
    return parser


if __name__ == "__main__":
    main()
