import json
import re
import subprocess
import sys
import urllib.request
from dataclasses import replace

import pytest
import yaml
from hub import Hub
from huggingface_hub import ModelCard, parse_eval_result_entries

from hflm.core import (
    UserError,
    atomic_write_text,
    code_block,
    escape_markdown,
    fingerprint_model,
    is_hub_id,
    redact,
    shorten,
)
from hflm.evaluation import Bin, Calibration, Contamination, Results, Score, Slice, TaskResult, write_results
from hflm.pipeline import provenance, resolve_inputs
from hflm.publishing import card_benchmark, card_provenance, write_card
from hflm.recipe import load_recipe

RECIPE = """
name: tiny
seed: 42
tokenizer: {train: {vocab_size: 512}}
model: {preset: gpt2-nano, n_positions: 128}
pretrain:
  data: {path: toy, name: stories}
  args: {max_steps: 40}
tasks:
  sentiment:
    data: {path: stanfordnlp/sst2, revision: abc123, license: cc-zero}
    splits: {train: train, test: validation}
    text: sentence
    labels: [negative, positive]
  translation:
    data: {path: /home/alice/secret project/pairs.jsonl}
    source: en
    target: de
finetune: {tasks: [sentiment, translation]}
benchmark: {tasks: [sentiment, translation]}
push: {repo_id: you/tiny, license: apache-2.0}
"""

ENVIRONMENT = {
    "hflm": "0.1.0",
    "created": "2030-01-01T00:00:00+00:00",
    "command": "hflm run /home/alice/tiny.yaml",
    "python": "3.11.9",
    "packages": {"torch": "2.15.0"},
    "git": {"commit": "deadbeef", "changed": True},
    "hardware": {"cpu": "Some CPU", "cores": 2, "memory_gb": 23.5, "gpus": []},
    "data": {
        "pretrain.data.0": {
            "path": "toy",
            "fingerprint": "sha256:aa",
            "rows": 8000,
            "tokens": 900000,
            "share": 0.75,
            "skipped_rows": 3,
        },
        "tasks.sentiment.data": {
            "path": "stanfordnlp/sst2",
            "fingerprint": "sha256:dd",
            "license": "mit",
            "commit": None,
        },
        "tasks.translation.data": {"path": "/home/alice/secret project/pairs.jsonl", "fingerprint": "sha256:bb"},
    },
    "model": {"parameters": 1064960, "preset": "gpt2-nano"},
    "stages": {"pretrain": {"seconds": 141.2, "tokens": 900000, "steps": 400, "arithmetic": {"autocast": "bf16"}}},
}

SCORES = Results(
    "tiny",
    {
        "sentiment": TaskResult(
            "sentiment",
            872,
            {"accuracy": Score(0.83, (0.8, 0.85), "sklearn"), "mcc": Score(0.66, (0.6, 0.7), "sklearn")},
            {"majority": {"accuracy": 0.51}},
            "stanfordnlp/sst2 [validation]",
            "abc",
            "label scoring",
            3,
            0,
            shots=2,
            data_fingerprint="sha256:cc",
            calibration=Calibration(0.0731, (Bin(0.4, 0.6, 300, 0.55, 0.5), Bin(0.8, 1.0, 572, 0.9, 1.0))),
            slices=(Slice("label", "neg|ative", 428, "accuracy", Score(0.79, (0.75, 0.8312), "")),),
        ),
        "translation": TaskResult(
            "translation",
            200,
            {"bleu": Score(31.24, (29.0, 33.3), "nrefs:1|case:mixed"), "chrf": Score(50.0, (48.0, 52.0), "")},
            {"copy the source": {"bleu": 2.0, "chrf": 12.5}},
            "/home/alice/secret project/pairs.jsonl [test]",
            "def",
            "greedy",
            0,
            1,
        ),
    },
)

PREDICTIONS = {
    "sentiment": [
        {"id": 0, "prompt": "Review: ok", "prediction": "positive", "references": ["positive"]},
        {"id": 1, "prompt": "Review: bad", "prediction": "positive", "references": ["negative"]},
        {"id": 2, "prompt": "Review: fine", "prediction": "positive", "references": ["positive"]},
    ],
    "translation": [
        {"id": 0, "prompt": "en: a cat", "prediction": "ein Hund", "references": ["eine Katze"]},
        {"id": 1, "prompt": "en: a dog", "prediction": "ein Hund", "references": ["ein Hund"]},
        {"id": 2, "prompt": "en: a bird", "prediction": "", "references": ["ein Vogel"]},
    ],
}
ROW_SCORES = {"sentiment": ("accuracy", [1.0, 0.0, 1.0]), "translation": ("bleu", [30.0, 100.0, 0.0])}


def jsonl(path, rows):
    atomic_write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def load(tmp_path):
    return lambda text=RECIPE: loaded(tmp_path, text)


@pytest.fixture
def run(tmp_path):
    return finished(tmp_path / "runs" / "tiny")


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """The lines of a finished run's card."""
    folder = tmp_path_factory.mktemp("card")
    return written(finished(folder / "tiny"), loaded(folder, RECIPE)).splitlines()


def loaded(folder, text):
    (folder / "recipe.yaml").write_text(text)
    return load_recipe(str(folder / "recipe.yaml"))


def finished(run):
    """A finished run: two stages, two tasks."""
    atomic_write_text(run / "environment.json", json.dumps(ENVIRONMENT))
    atomic_write_text(run / "model" / "config.json", '{"model_type": "gpt2", "n_positions": 128}')
    steps = [
        {"step": step, "loss": 5 - step / 20, "tokens_per_second": 20000 + step, "seconds": step / 10}
        for step in range(10, 50, 10)
    ]
    jsonl(run / "pretrain" / "metrics.jsonl", [*steps, {"step": 40, "eval_loss": 3.125}])
    jsonl(run / "finetune" / "metrics.jsonl", [{"step": 5, "loss": 1.5}])
    write_scores(run, SCORES)
    for task, rows in PREDICTIONS.items():
        metric, scores = ROW_SCORES[task]
        rows = [{**row, "scores": {metric: score}} for row, score in zip(rows, scores, strict=True)]
        jsonl(run / "benchmark" / "predictions" / f"{task}.jsonl", rows)
    return run


def write_scores(run, scores):
    """results.json of a benchmark of the weights in model/."""
    weights = fingerprint_model(run)
    tasks = {name: replace(task, model_revision=weights) for name, task in scores.tasks.items()}
    write_results(replace(scores, tasks=tasks), run / "benchmark" / "results.json")


def written(run, recipe):
    write_card(run, recipe)
    return (run / "README.md").read_text(encoding="utf-8")


def test_front_matter_is_what_the_hub_reads(run, load):
    text = written(run, load())
    meta = yaml.safe_load(text.split("---\n")[1])
    assert meta["library_name"] == "transformers"
    assert meta["pipeline_tag"] == "text-generation"
    assert meta["tags"] == ["hflm", "gpt2"]
    assert meta["datasets"] == ["stanfordnlp/sst2"]  # neither toy nor a local file
    assert "base_model" not in meta
    assert meta["license"] == "apache-2.0"
    index = meta["model-index"][0]
    assert index["name"] == "tiny"
    sentiment = index["results"][0]
    assert sentiment["task"] == {"type": "text-classification", "name": "sentiment"}
    assert sentiment["dataset"] == {
        "name": "stanfordnlp/sst2 [validation]",
        "type": "stanfordnlp/sst2",
        "split": "validation",
        "revision": "abc123",
    }
    assert {"type": "accuracy", "value": 0.83, "name": "accuracy"} in sentiment["metrics"]
    read = ModelCard(text).data.eval_results
    assert [(result.metric_name, result.metric_value) for result in read] == [
        ("accuracy", 0.83),
        ("mcc", 0.66),
        ("bleu", 31.24),
        ("chrf", 50.0),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "# tiny",
        (
            "A GPT-2-style language model with 1,064,960 parameters, trained from scratch on toy (stories), then fine-tuned"
            " on sentiment (stanfordnlp/sst2), translation (pairs.jsonl)."
        ),
        "| all | 872 | accuracy | 0.830 | 0.800 to 0.850 | majority 0.510 |",
        "| all | 872 | mcc | 0.660 | 0.600 to 0.700 |  |",
        "| all | 200 | bleu | 31.2 | 29.0 to 33.3 | copy the source 2.0 |",
        "### sentiment",
        (
            "Expected calibration error 0.073: the mean gap between the model's confidence in its label (a softmax over"
            " the labels' log-likelihoods, in equal-width bins) and its accuracy; 0 to 1, lower is better."
        ),
        "| label: neg\\|ative | 428 | accuracy | 0.790 | 0.750 to 0.831 |  |",
        (
            "At the end of pretrain: training loss 3.000, validation loss 3.125, 20,025 tokens/s (median)."
            " At the end of finetune: training loss 1.500."
        ),
        "- Trained on generated toy text: it says nothing about real language.",
        "- It reads at most 128 tokens, prompt and answer together.",
        "- For sentiment, translation, with prompts of the form it was trained on (see the samples).",
        "| pretrain.data.0 | toy | 8,000 | 900,000 | 75.0% | 3 | generated by hflm | sha256:aa |",
        "| tasks.sentiment.data | stanfordnlp/sst2 |  |  |  |  | cc-zero | sha256:dd |",
        "| tasks.translation.data | pairs.jsonl |  |  |  |  | not stated | sha256:bb |",
        "- Tokens seen in training: 900,000, 0.85 for each parameter",
        (
            "- Energy: about 0.78 Wh. An estimate, not a measurement: 2 cores at 10 W, at full load for 2 min 21 s;"
            " nothing else of the machine and no cooling is counted"
        ),
        "- Hardware: Some CPU, 2 cores, 24 GB of memory",
        "- Pretrain: 2 min 21 s, 400 steps, 900,000 tokens, in bf16",
        "- Command: hflm run tiny.yaml",
        "- Commit: deadbeef (with uncommitted changes)",
        'generate = pipeline("text-generation", model="you/tiny")',
        "First row (accuracy 1.000):",
        "Best row (accuracy 1.000):",
        "Worst row (accuracy 0.000):",
        "First row (bleu 30.0):",
        "Best row (bleu 100.0):",
    ],
)
def test_the_card_says(lines, line):
    assert line in lines


def test_samples_are_the_rows_they_are_called(run, load):
    text = written(run, load())
    worst = text.split("Worst row (accuracy 0.000):")[1].split("```")[1]
    assert worst == "text\nPROMPT\nReview: bad\n\nPREDICTION\npositive\n\nREFERENCE\nnegative\n"


def likely(negative, positive):
    return {"log_likelihoods": {"negative": negative, "positive": positive}}


@pytest.mark.parametrize(
    "rows, shown",
    [
        (
            [{"scores": {"accuracy": 1.0}}],
            [("First and best and worst row (accuracy 1.000)", 0)],
        ),
        (
            [{"scores": {"accuracy": 1.0}}, {"scores": {"accuracy": 1.0}}, {"scores": {"accuracy": 0.0}}],
            [("First row (accuracy 1.000)", 0), ("Best row (accuracy 1.000)", 1), ("Worst row (accuracy 0.000)", 2)],
        ),
        (  # all the same: five rows rather than one
            [{"scores": {"accuracy": 1.0}}] * 6,
            [("First", 0), ("Best", 1), ("Best", 2), ("Worst", 3), ("Worst", 4)],
        ),
        (
            [{"scores": {"accuracy": value}} for value in (0.1, 0.9, 0.2, 0.8)],
            [("First and worst row (accuracy 0.100)", 0), ("Best", 1), ("Best", 3), ("Worst row (accuracy 0.200)", 2)],
        ),
        (  # the right label is negative: rows 0 and 3 are wrong, and 3 more surely
            [likely(-2, -1), likely(-1, -1.5), likely(-1, -9), likely(-7, -1), likely(-1, -3.25)],
            [
                ("First and worst row (margin -1.00)", 0),
                ("Best row (margin 8.00)", 2),
                ("Best row (margin 2.25)", 4),
                ("Worst row (margin -6.00)", 3),
            ],
        ),
        ([{}, {}], [("First row", 0)]),
    ],
)
def test_which_rows_are_samples(run, rows, shown):
    same = {"prediction": "x", "references": ["negative"]}
    jsonl(
        run / "benchmark" / "predictions" / "sentiment.jsonl",
        [{"prompt": str(index), **same, **row} for index, row in enumerate(rows)],
    )
    found = card_benchmark.samples(run, "sentiment", SCORES.tasks["sentiment"])
    assert [int(row["prompt"]) for _, row in found] == [index for _, index in shown]
    assert all(title.startswith(start) for (title, _), (start, _) in zip(found, shown, strict=True))


def test_the_margin_is_explained_where_it_stands(run, load):
    note = "The margin is the log-likelihood of the right label less that of the best other, in nats."
    assert note not in written(run, load())
    rows = [{"prompt": "p", "prediction": "positive", "references": ["negative"], **likely(-2, -1)}]
    jsonl(run / "benchmark" / "predictions" / "sentiment.jsonl", rows)
    text = written(run, load())
    assert text.count(note) == 1 and "First and best and worst row (margin -1.00):" in text


def test_language_modeling_has_no_samples(run, load):
    scores = {"perplexity": Score(9.0, (8.0, 10.0), "")}
    task = TaskResult("language_modeling", 2, scores, {}, "toy [test]", "", "none", 0, 0)
    write_scores(run, Results("m", {"lm": task}))
    jsonl(run / "benchmark" / "predictions" / "lm.jsonl", [{"id": "0", "nats": 3.0, "tokens": 2, "bytes": 8}])
    text = written(run, load())
    assert "### lm" in text and "First row" not in text and "reliability" not in text
    assert not (run / "plots" / "reliability.png").exists()


def test_a_lower_perplexity_is_the_better_row(run, load):
    scores = {"perplexity": Score(9.0, (8.0, 10.0), "")}
    task = TaskResult("language_modeling", 2, scores, {}, "toy [test]", "", "none", 0, 0)
    write_scores(run, Results("m", {"lm": task}))
    rows = [{"id": n, "prompt": f"p{n}", "scores": {"perplexity": p}} for n, p in enumerate([5.0, 2.0, 9.0])]
    jsonl(run / "benchmark" / "predictions" / "lm.jsonl", rows)
    text = written(run, load())
    assert "Best row (perplexity 2.00):" in text and "Worst row (perplexity 9.00):" in text


def test_neither_folders_nor_secrets_are_shown(run, load):
    environment = {
        **ENVIRONMENT,
        "command": "hflm run /home/alice/a.yaml --set x=hf_abcdefghijkl --output /mnt/bob/out",
    }
    atomic_write_text(run / "environment.json", json.dumps(environment))
    secret = RECIPE.replace("revision: abc123", 'revision: abc123, storage_options: {key: "s3cr3t"}')
    rows = [{"id": 0, "prompt": "my token is hf_abcdefghijkl", "prediction": "", "references": []}]
    jsonl(run / "benchmark" / "predictions" / "sentiment.jsonl", rows)
    text = written(run, load(secret))
    for hidden in ("alice", "bob", "secret project", "/home", "s3cr3t", "hf_abcdefghijkl", str(run)):
        assert hidden not in text
    assert "- Command: hflm run a.yaml --set x=hf_(hidden) --output out" in text


def test_the_recipe_in_the_card_loads_again(run, load):
    text = written(run, load())
    again = load(text.split("```yaml\n")[1].split("```")[0])
    assert again.name == "tiny" and again.tasks["translation"].data.path == "pairs.jsonl"


NASTY = [
    "```\n# a heading\n<script>alert(1)</script>\n```",
    "`````` and ~~~\n---\nname: x\n---",
    "| a | b |\n| --- | --- |",
    "<img src=x onerror=alert(1)> ![x](http://x)",
    "\x1b[2J \u202e reversed \x00",
    "x" * 1000 + "```",
]


@pytest.mark.parametrize("nasty", NASTY)
def test_text_from_data_stays_inert(run, load, nasty):
    rows = [{"id": nasty, "prompt": nasty, "prediction": nasty, "references": [nasty], "scores": {"accuracy": 1.0}}]
    jsonl(run / "benchmark" / "predictions" / "sentiment.jsonl", rows)
    text = written(run, load())
    assert outside_fences(text) == outside_fences(written_plain(run, load()))
    assert not re.search("[\x00\x1b\u202e]", text)


def written_plain(run, recipe):
    rows = [{"id": 0, "prompt": "p", "prediction": "p", "references": ["p"], "scores": {"accuracy": 1.0}}]
    jsonl(run / "benchmark" / "predictions" / "sentiment.jsonl", rows)
    return written(run, recipe)


def outside_fences(text):
    """The lines of a markdown text that are not in a code block, by CommonMark's rule for fences."""
    lines, fence = [], None
    for line in text.split("\n"):
        mark = re.match("`{3,}", line)
        if fence is None and mark:
            fence = mark[0]
        elif fence is None and not line.startswith("<!-- made by hflm"):
            lines.append(line)
        elif mark and line == mark[0] and len(mark[0]) >= len(fence):
            fence = None
    assert fence is None
    return lines


def test_names_from_a_recipe_stay_inert_in_tables(run, load):
    task = SCORES.tasks["sentiment"]
    write_scores(run, Results("m", {"a|b <script>$x$ [l](u)": task}))
    text = written(run, load())
    assert r"### a\|b \<script\>$x$ \[l\](u)" in text


@pytest.mark.parametrize(
    "gone, absent, present",
    [
        (["environment.json"], "## Data", "## Benchmark"),
        (["pretrain/metrics.jsonl", "finetune/metrics.jsonl"], "learning_curve", "## Benchmark"),
        (["benchmark/results.json"], "## Benchmark", "learning_curve.png"),
        (["benchmark/predictions/sentiment.jsonl"], "First row (accuracy", "First row (bleu"),
        (["model/config.json"], "## How to use it", "## Benchmark"),
    ],
)
def test_what_is_missing_is_left_out(run, load, gone, absent, present):
    write_card(run, load())  # an earlier card and its pictures must not survive in the new one
    for path in gone:
        (run / path).unlink()
    text = written(run, load())
    assert absent not in text and present in text
    pictures = {path.name for path in (run / "plots").iterdir()}
    assert pictures == set(re.findall(r"plots/([\w.]+)\)", text))


def test_an_empty_run_still_has_a_card(tmp_path, load):
    (tmp_path / "empty").mkdir()
    text = written(tmp_path / "empty", load())
    assert "# tiny" in text and "## How it was made" in text
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["README.md"]


def test_leaderboards_read_the_scores_on_data_sets_of_the_hub(run, load):
    path = run / ".eval_results" / "hflm.yaml"
    written(run, load())
    [entry] = parse_eval_result_entries(yaml.safe_load(path.read_text()))  # the translation's data lies on this machine
    assert (entry.dataset_id, entry.task_id, entry.dataset_revision) == ("stanfordnlp/sst2", "default", "abc123")
    assert (entry.value, entry.date) == (0.83, ENVIRONMENT["created"])
    assert entry.notes == ("accuracy on 872 rows of validation, 95 % interval 0.800 to 0.850; 2 shots, label scoring")
    written(run, load(RECIPE.replace("stanfordnlp/sst2", "/home/alice/sst2")))
    assert not path.exists()


def test_the_hub_takes_the_card(run, load):
    with Hub() as hub:

        def asked(text):
            body = json.dumps({"content": text, "repoType": "model"}).encode()
            with urllib.request.urlopen(f"{hub.url}/api/validate-yaml", data=body) as answer:
                return json.loads(answer.read())

        assert asked(written(run, load())) == {"errors": [], "warnings": []}
        assert asked("no front matter")["warnings"]


@pytest.mark.parametrize(
    "name, text, licence",
    [
        ("README.md", "---\nlicense: mit\n---\n# Pairs", "mit"),
        ("README.md", "---\nlicense: [mit, cc-by-4.0]\n---\n", "mit, cc-by-4.0"),
        ("README.md", "Licence: MIT", None),
        ("README.md", "---\nlicense: {a: b}\n---\n", None),
        ("README.md", "---\nlicense: !!python/object/apply:os.getcwd []\n---\n", None),
        ("README.md", "---\n- a\n---\n", None),
        ("README.md", "---\nlicense: [\n---\n", None),
        ("NOTES.md", "---\nlicense: mit\n---\n", None),
    ],
)
def test_a_licence_is_stated_where_the_data_states_it(tmp_path, monkeypatch, load, name, text, licence):
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\nOf the working folder, not of the data.")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pairs.jsonl").write_text('{"en": "a", "de": "b"}\n')
    (tmp_path / "data" / name).write_text(text)
    for path in (tmp_path / "data", tmp_path / "data" / "pairs.jsonl"):
        asked = load(RECIPE.replace("/home/alice/secret project/pairs.jsonl", str(path)))
        described = provenance.describe(asked, resolve_inputs(asked), 1)
        assert described["data"]["tasks.translation.data"].get("license") == licence
        assert "license" not in described["data"]["pretrain.data.0"]
    asked = load(RECIPE.replace("/home/alice/secret project/pairs.jsonl", "json, data_files: data/pairs.jsonl"))
    assert "license" not in provenance.describe(asked, resolve_inputs(asked), 1)["data"]["tasks.translation.data"]


def test_a_licence_of_the_data_changes_no_stage(load):
    from hflm.pipeline.stage_keys import stage_dependencies

    with_license, without = load(), load(RECIPE.replace(", license: cc-zero", ""))
    assert stage_dependencies(with_license, resolve_inputs(with_license)) == stage_dependencies(
        without, resolve_inputs(without)
    )


@pytest.mark.parametrize(
    "hardware, processes, seconds, expected",
    [
        ({"cores": 2, "gpus": []}, 1, 1800, "about 10 Wh"),
        ({"cores": 2, "gpus": []}, 2, 1800, "2 cores at 10 W, at full load for 30 min"),
        ({"cores": 16, "gpus": ["NVIDIA H100 80GB HBM3"]}, 1, 36000, "about 8.6 kWh"),
        ({"cores": 8, "gpus": ["Tesla T4"] * 4}, 1, 3600, "8 cores at 10 W and 1 GPU at 70 W"),
        ({"cores": 8, "gpus": ["AMD Instinct MI300X"] * 4}, 2, 3600, "8 cores at 10 W and 2 GPUs at 750 W"),
        ({"cores": 8, "gpus": ["Some GPU"] * 4}, 16, 3600, "32 cores at 10 W and 16 GPUs at 300 W"),
    ],
)
def test_energy_is_watts_times_hours(hardware, processes, seconds, expected):
    line = card_provenance.energy({"hardware": hardware, "processes": processes, "stages": {"a": {"seconds": seconds}}})
    assert expected in line and "An estimate, not a measurement" in line


@pytest.mark.parametrize(
    "described",
    [
        {},
        {"hardware": {"cores": 2}},
        {"stages": {"a": {"seconds": 3}}},
        {"hardware": {"cores": 2}, "stages": {"a": {}}},
    ],
)
def test_no_energy_is_stated_of_nothing(described):
    assert card_provenance.energy(described) is None


@pytest.mark.parametrize("environment", [{}, dict.fromkeys(ENVIRONMENT), {"data": {"a": {}}, "stages": {"b": {}}}])
def test_every_key_of_the_environment_is_optional(run, load, environment):
    atomic_write_text(run / "environment.json", json.dumps(environment))
    assert "A GPT-2-style language model, trained from scratch" in written(run, load())


BENCHMARK = """
name: judge
model: {from: org/base}
tasks: {sentiment: {data: {path: toy, name: sentiment}, labels: [negative, positive]}}
benchmark: {tasks: [sentiment]}
"""
FINETUNE = BENCHMARK.replace("benchmark:", "finetune: {tasks: [sentiment], adapter: {type: lora, r: 4}}\nbenchmark:")


@pytest.mark.parametrize(
    "text, sentence, base",
    [
        (BENCHMARK, "(`org/base`), benchmarked as it is; nothing was trained.", None),
        (FINETUNE, ", fine-tuned with an adapter from `org/base` on sentiment (toy (sentiment)).", "org/base"),
        (FINETUNE.replace("org/base", "/home/alice/base"), "from `base` on sentiment", None),
    ],
)
def test_a_model_from_elsewhere_is_named(run, load, text, sentence, base):
    recorded = {"from": base or "/home/alice/base", **({"commit": "c0ffee"} if "org/base" in text else {})}
    if "org/base" in text:
        recorded["from"] = "org/base"
    atomic_write_text(run / "environment.json", json.dumps({"model": recorded}))
    written_card = written(run, load(text))
    assert sentence in written_card
    assert ModelCard(written_card).data.base_model == base
    assert 'model="./model"' in written_card  # it is nowhere else


def test_a_resumed_log_counts_each_step_once(run, load):
    with open(run / "finetune" / "metrics.jsonl", "a") as file:
        file.write(
            '{"step": 7, "loss": 1.4}\n{"step": 7, "lo\n{"step": 7, "loss": 1.3}\n{"step": 8, "loss": NaN}\n{"st'
        )
    assert "At the end of finetune: training loss 1.300." in written(run, load())


def test_several_evaluation_sets_keep_their_names(run, load):
    jsonl(run / "finetune" / "metrics.jsonl", [{"step": 5, "eval_qa_loss": 1.25, "eval_runtime": 3.0}])
    assert "At the end of finetune: validation (qa) loss 1.250." in written(run, load())


def test_pictures_are_png_with_panels_side_by_side(run, load):
    def size(name):
        data = (run / "plots" / name).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])

    write_card(run, load())
    both = size("learning_curve.png")
    assert size("benchmark.png")[0] > 600
    assert size("reliability.png") == (570, 585)  # one panel
    (run / "finetune" / "metrics.jsonl").unlink()
    write_card(run, load())
    assert size("learning_curve.png") == (both[0] // 2, both[1])


def test_a_broken_results_json_is_an_error_not_a_card_without_scores(run, load):
    (run / "benchmark" / "results.json").write_text("{}")
    with pytest.raises(UserError, match="no schema_version"):
        write_card(run, load())


@pytest.mark.parametrize(
    "value, seen",
    [
        ("/home/alice/my corpus.txt", "my corpus.txt"),
        ("~/corpus", "corpus"),
        ("../alice/corpus.txt", "corpus.txt"),
        (r"C:\Users\alice\corpus.txt", "corpus.txt"),
        ("file:///home/alice/a.txt", "a.txt"),
        ("https://alice:pw@host.example/a/b.txt?sig=1", "https://host.example/a/b.txt"),
        ("hf://datasets/org/set@main/a.txt", "hf://datasets/org/set@main/a.txt"),
        ("org/set", "org/set"),
        ("data/train-*.parquet", "data/train-*.parquet"),
        ("hflm run '/home/a/b.yaml' --set model.from=/mnt/m/base", "hflm run 'b.yaml' --set model.from=base"),
        ("/usr/bin/hflm run a.yaml --fresh", "hflm run a.yaml --fresh"),
        ("and/or 3 / 2", "and/or 3 / 2"),
        ("a hf_oauth_eyJhbGciOi.J9-x_y b, hf_hub_download", "a hf_(hidden) b, hf_hub_download"),
        ("key=sk-proj-Abc123_defghijklmn sk-learn-contrib-examples", "key=sk-(hidden) sk-learn-contrib-examples"),
        (
            {"token": "x", "password": None, "keep": [1, None, True, "hf_abcdefgh"]},
            {"keep": [1, None, True, "hf_(hidden)"]},
        ),
        ({"prompt": "/translate {{ en }}/{{ de }}", "labels": ["/a/b", "c"]},) * 2,
    ],
)
def test_public(value, seen):
    assert redact(value) == seen


@pytest.mark.parametrize(
    "name, expected",
    [
        ("org/set", True),
        ("squad", True),
        ("toy", False),
        ("json", False),
        ("data/corpus.txt", False),
        ("here", False),
        ("/abs/set", False),
        ("./set", False),
        ("a/b/c", False),
        ("https://host/a", False),
    ],
)
def test_hub_id(name, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert is_hub_id(name) is expected


@pytest.mark.parametrize(
    "text, block",
    [
        ("a", "```text\na\n```"),
        ("```", "````text\n```\n````"),
        ("x `` y ````` z", "``````text\nx `` y ````` z\n``````"),
    ],
)
def test_fenced(text, block):
    assert code_block(text) == block


def test_inert_is_one_line():
    assert escape_markdown("a\n|b|\t`c`  <d> & macro_f1") == r"a \|b\| \`c\` \<d\> \& macro_f1"


@pytest.mark.parametrize("text", ["short", "x" * 300, "日本語\u3000です", "👩\u200d🔬"])
def test_cut_keeps_what_fits(text):
    assert shorten(text) == text


def test_cut_keeps_start_and_end_within_300():
    short = shorten("start" + "x" * 1000 + "end?")
    assert len(short) == 300 and short.startswith("start") and short.endswith("end?") and " [...] " in short


def test_a_card_needs_neither_torch_nor_transformers(run, load):
    load()
    script = (
        "import sys; from hflm.publishing import write_card; from hflm.recipe import load_recipe\n"
        "write_card(sys.argv[1], load_recipe(sys.argv[2]))\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'matplotlib.pyplot') if m in sys.modules])"
    )
    arguments = [sys.executable, "-c", script, str(run), str(run.parent.parent / "recipe.yaml")]
    assert subprocess.check_output(arguments, text=True).strip() == "[]"


def test_scores_of_other_weights_are_named_and_not_shown(run, load):
    tasks = {**SCORES.tasks, "translation": replace(SCORES.tasks["translation"], model_revision="sha256:other")}
    tasks["sentiment"] = replace(tasks["sentiment"], model_revision=fingerprint_model(run))
    write_results(replace(SCORES, tasks=tasks), run / "benchmark" / "results.json")
    text = written(run, load())
    assert "### sentiment" in text and "### translation" not in text and "31.2" not in text
    assert "The scores of translation in this run's folder were measured on other weights than these" in text
    assert {result.task_name for result in ModelCard(text).data.eval_results} == {"sentiment"}
    (run / "model" / "config.json").write_text('{"model_type": "gpt2", "n_positions": 64}')
    text = written(run, load())  # trained again, without a benchmark
    assert "### sentiment" not in text and "The scores of sentiment, translation in this run's folder" in text
    assert not ModelCard(text).data.eval_results and not (run / ".eval_results" / "hflm.yaml").exists()
    assert not (run / "plots" / "benchmark.png").exists() and not (run / "plots" / "reliability.png").exists()


def test_a_current_card_is_left_alone_and_a_missing_part_made_again(run, load):
    text = written(run, load())
    (run / "README.md").write_text(f"{text}\nAn addition by hand.\n")
    assert "An addition by hand." in written(run, load())
    for name in ("README.md", "plots/benchmark.png"):
        (run / name).unlink()
        assert written(run, load()) == text and (run / name).is_file()
    jsonl(run / "finetune" / "metrics.jsonl", [{"step": 5, "loss": 1.25}])
    assert "training loss 1.250" in written(run, load())


def test_the_losses_are_those_of_the_model_that_was_kept(run, load):
    steps = [{"step": 10, "loss": 2.0}, {"step": 10, "eval_loss": 2.5}]
    steps += [{"step": 20, "loss": 1.0}, {"step": 20, "eval_loss": 3.5}]
    jsonl(run / "finetune" / "metrics.jsonl", steps)
    stages = {"finetune": {"seconds": 1.0, "steps": 20, "kept_step": 10}}
    atomic_write_text(run / "environment.json", json.dumps({**ENVIRONMENT, "stages": stages}))
    sentence = "At step 10 of finetune, whose model was kept: training loss 2.000, validation loss 2.500."
    assert sentence in written(run, load())


def test_the_card_says_why_a_step_was_kept_and_draws_the_scores(run, load):
    write_card(run, load())
    before = (run / "plots" / "learning_curve.png").read_bytes()
    scores = ({"eval_sentiment_accuracy": 0.9 - step / 100, "eval_sentiment_mcc": 0.5} for step in (10, 20))
    lines = [{"step": 10 * n, "eval_loss": 2.5 + n, **score} for n, score in enumerate(scores, 1)]
    jsonl(run / "finetune" / "metrics.jsonl", lines)
    kept = {"step": 10, "metric": "eval_sentiment_accuracy", "value": 0.8}
    stages = {"finetune": {"seconds": 1.0, "steps": 20, "kept_step": 10, "kept": kept, "stopped_early": True}}
    atomic_write_text(run / "environment.json", json.dumps({**ENVIRONMENT, "stages": stages}))
    assert (
        "At step 10 of finetune, whose model was kept because its sentiment\\_accuracy of 0.8 was the best of the "
        "evaluations; training stopped early, at step 20: validation loss 3.500, sentiment accuracy 0.800."
    ) in written(run, load()).replace("sentiment_acc", "sentiment\\_acc")
    width = int.from_bytes((run / "plots" / "learning_curve.png").read_bytes()[16:20])
    assert width == int.from_bytes(before[16:20]) // 2 * 3  # pretrain, finetune, and the accuracy of finetune


def test_a_model_that_was_chosen_by_the_test_rows_says_so(run, load):
    limit = "Its weights were chosen by their score on the test rows of sentiment."
    for split, warns in (("validation", True), ("train[:9]", False)):
        content = yaml.safe_load(RECIPE)
        content["tasks"]["sentiment"]["splits"] = {"validation": split, "test": "validation"}
        content["finetune"] |= {"evaluate": {"tasks": ["sentiment"]}, "early_stopping": {"patience": 2}}
        content["finetune"]["args"] = {"metric_for_best_model": "sentiment_accuracy"}
        assert (limit in written(run, load(yaml.safe_dump(content)))) is warns


def test_a_local_folder_never_becomes_a_hub_id(run, load, tmp_path, monkeypatch):
    """`org/set` was a folder where the run took place, which is not here when the card is made again."""
    described = {
        **ENVIRONMENT["data"],
        "tasks.sentiment.data": {"path": "stanfordnlp/sst2", "fingerprint": "sha256:dd"},
    }
    model = {"from": "org/base", "fingerprint": "sha256:ee"}
    atomic_write_text(run / "environment.json", json.dumps({**ENVIRONMENT, "data": described, "model": model}))
    monkeypatch.chdir(tmp_path)
    text = written(run, load(RECIPE.replace("model: {preset: gpt2-nano, n_positions: 128}", "model: {from: org/base}")))
    data = ModelCard(text).data
    assert data.datasets is None and data.base_model is None and "pretrained further from `base`" in text
    assert not (run / ".eval_results" / "hflm.yaml").exists()


@pytest.mark.parametrize(
    "paths, note",
    [
        ({}, "The recipe. Paths are shortened to their last part and secrets left out: put yours in, then"),
        (
            {"/home/alice/secret project/pairs.jsonl": "stanfordnlp/sst2"},
            "The whole recipe; `hflm run recipe.yaml` runs",
        ),
        ({"/home/alice/secret project/pairs.jsonl": "pairs.jsonl"}, "The whole recipe. With `pairs.jsonl` at the same"),
    ],
)
def test_the_card_says_how_far_its_recipe_runs_again(run, load, paths, note):
    recipe = RECIPE
    for old, new in paths.items():
        recipe = recipe.replace(old, new)
    assert note in written(run, load(recipe))


def test_a_summarizers_example_is_a_summary(run, load):
    recipe = RECIPE.split("finetune:")[0].replace(
        "  sentiment:", "  digest: {kind: summarization, data: {path: toy, name: summarization}}\n  sentiment:"
    )
    recipe += "finetune: {tasks: [digest]}\nbenchmark: {tasks: [digest]}\n"
    task = TaskResult("summarization", 2, {"rouge1": Score(9.0, (8.0, 10.0), "")}, {}, "toy [test]", "", "greedy", 0, 0)
    write_scores(run, Results("m", {"digest": task}))
    prompts = ["A long dialogue. " * 40 + "Summary:", "A dialogue. " * 30 + "Summary:"]
    rows = [{"id": n, "prompt": prompt, "prediction": "x", "references": ["y"]} for n, prompt in enumerate(prompts)]
    jsonl(run / "benchmark" / "predictions" / "digest.jsonl", rows)
    text = written(run, load(recipe))
    code = text.split("```python\n")[1].split("```")[0]
    assert prompts[1] in code and "return_full_text=False" in code and 'model="./model"' in code


def test_samples_come_before_hashes_and_each_task_has_one_table(lines):
    section = "\n".join(lines).split("### sentiment")[1].split("### translation")[0]
    assert section.count("\n| --- ") == 1
    assert section.index("First row") < section.index("data sha256:cc")
    assert section.rstrip().endswith("signature sklearn.")


@pytest.mark.parametrize(
    ("copies", "shown", "absent"),
    [
        (0, "None of the 200 examples has 8 words in a row in common with the pretraining corpus.", "not contaminated"),
        (3, "| not contaminated | 197 | bleu | 30.0 |", "None of the 200"),
    ],
)
def test_scores_without_contaminated_rows_are_shown_where_there_are_some(run, load, copies, shown, absent):
    clean = {"bleu": Score(30.0, (28.0, 32.0), "")}
    found = Contamination("examples", 200, 8, copies, copies, copies / 200, ("pretrain",), clean)
    tasks = {"translation": replace(SCORES.tasks["translation"], contamination=found)}
    write_scores(run, replace(SCORES, tasks=tasks))
    text = written(run, load())
    assert shown in text and absent not in text
    assert ("Contaminated are the examples" in text) == bool(copies)


def test_a_fingerprint_is_once_in_the_card_and_the_benchmark_one_line_of_the_facts(run, load):
    path = run / "environment.json"
    described = json.loads(path.read_text())
    described["data"]["tasks.sentiment.data"] = {"path": "toy", "fingerprint": "sha256:cc"}
    described["stages"] |= {"benchmark/sentiment": {"seconds": 60}, "benchmark/translation": {"seconds": 15}}
    path.write_text(json.dumps(described))
    text = written(run, load())
    assert text.count("sha256:cc") == 1
    assert "- Benchmark: 1 min 15 s" in text


def test_the_card_names_the_settings_of_steps_before_an_extension(run, load):
    path = run / "environment.json"
    described = json.loads(path.read_text())
    earlier = [{"steps": 1000, "settings": {"pretrain.args.learning_rate": 0.01, "pretrain.tokens": "20x"}}]
    described["stages"]["pretrain"]["extended"] = earlier
    path.write_text(json.dumps(described))
    line = (
        '- Pretrain was extended: up to step 1,000 with args.learning_rate 0.01, tokens "20x", then with the settings '
        "of the recipe below"
    )
    assert line in written(run, load()).replace("\\", "")
