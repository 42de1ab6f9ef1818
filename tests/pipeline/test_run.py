"""A whole recipe, as a user runs it: the story, its folder, skipping, killing, two processes, bad input."""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from hflm import cli
from hflm.core import UserError, read_json_lines
from hflm.evaluation import read_results
from hflm.pipeline import RunOptions, benchmark_model, run_recipe
from hflm.pipeline.bench import _short_name
from hflm.recipe import load_recipe

TINY = """
name: tiny
tokenizer:
  train: {vocab_size: 500}
model: {preset: gpt2-nano, n_layer: 1, n_embd: 32, n_head: 2, n_positions: 128}
pretrain:
  data: {path: toy, name: stories, size: 120}
  validation: 0.1
  args: {max_steps: 12, learning_rate: 3e-3, logging_steps: 4, save_steps: 2}
tasks:
  translation: {data: {path: toy, name: translation, size: 60}, source: english, target: lumo}
  summarization: {data: {path: toy, name: summarization, size: 60}, max_new_tokens: 24}
  sentiment:
    data: {path: toy, name: sentiment, size: 60}
    labels: [negative, neutral, positive]
    splits: {train: train, validation: validation, test: test}
  qa: {data: {path: toy, name: qa, size: 60}, max_new_tokens: 8}
  stories:  # on purpose what the model was trained on
    {kind: language_modeling, data: {path: toy, name: stories, size: 40}, splits: {test: train}}
finetune:
  tasks: [translation, summarization, sentiment, qa]
  evaluate: {tasks: [sentiment], limit: 9}
  args: {max_steps: 10, learning_rate: 3e-3, logging_steps: 5, save_steps: 2}
benchmark:
  tasks: [translation, summarization, sentiment, qa, stories]
  resamples: 50
"""


def command(folder, *arguments, module=("-m", "hflm")):
    return [sys.executable, *module, "run", "tiny.yaml", "--output", str(folder), *arguments]


def call(tmp_path, *arguments, **options):
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    return subprocess.run(
        command("run", *arguments), cwd=tmp_path, capture_output=True, text=True, env=environment, **options
    )


def run_here(folder, *sets, **options):
    """The same in this process, which has imported everything already."""
    with contextlib.chdir(folder):
        run_recipe(load_recipe("tiny.yaml", sets), "run", RunOptions(**options))


def weights(folder):
    return (folder / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with tiny.yaml and its finished run; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(TINY)
    ended = call(folder)
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.fixture
def workplace(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "work")
    return tmp_path / "work"


def test_a_run_leaves_what_the_contract_says(finished):
    folder = finished / "run"
    for path in (
        "recipe.yaml",
        "environment.json",
        "tokenizer/tokenizer.json",
        "pretrain/metrics.jsonl",
        "finetune/metrics.jsonl",
        "model/model.safetensors",
        "model/tokenizer.json",
        "benchmark/results.json",
        "benchmark/predictions/qa.jsonl",
        "README.md",
    ):
        assert (folder / path).is_file(), path
    assert list((folder / "plots").glob("*.png"))
    assert load_recipe(str(folder / "recipe.yaml")) == load_recipe(str(finished / "tiny.yaml"))
    assert not list(folder.rglob(".*tmp*")), "a half-written file was left"


def test_results_have_every_task_with_intervals_and_baselines(finished):
    found = read_results(finished / "run" / "benchmark" / "results.json")
    assert list(found.tasks) == ["translation", "summarization", "sentiment", "qa", "stories"]
    names = {name: sorted(task.metrics) for name, task in found.tasks.items()}
    assert names == {
        "translation": ["bleu", "chrf", "ter"],
        "summarization": ["rouge1", "rouge2", "rougeL", "rougeLsum"],
        "sentiment": ["accuracy", "macro_f1", "mcc"],
        "qa": ["exact_match", "f1"],
        "stories": ["bits_per_byte", "perplexity"],
    }
    for task in found.tasks.values():
        assert task.kind == "language_modeling" or task.baselines
        assert all(score.ci95[0] <= score.value <= score.ci95[1] for score in task.metrics.values())
    lines = (finished / "run" / "benchmark" / "predictions" / "sentiment.jsonl").read_text().splitlines()
    assert len(lines) == found.tasks["sentiment"].n == 60
    first = json.loads(lines[0])
    best = max(first["log_likelihoods"], key=first["log_likelihoods"].get)
    assert first["prediction"] == best


def test_the_environment_has_versions_data_and_stages(finished):
    recorded = json.loads((finished / "run" / "environment.json").read_text())
    assert recorded["packages"]["transformers"]
    assert recorded["data"]["pretrain.data.0"]["fingerprint"].startswith("sha256:")
    assert recorded["stages"]["pretrain"]["steps"] == 12
    assert recorded["stages"]["finetune"]["final_eval_loss"] > 0
    for stage, names in (("pretrain", ["bits_per_byte"]), ("finetune", ["sentiment_accuracy", "sentiment_mcc"])):
        lines = [line for line in read_json_lines(finished / "run" / stage / "metrics.jsonl") if "eval_loss" in line]
        assert lines and all(f"eval_{name}" in line for name in names for line in lines)
    assert recorded["model"]["parameters"] > 0


def test_a_second_run_trains_nothing_and_imports_nothing_heavy(finished):
    code = (
        "import sys; sys.argv = ['hflm', 'run', 'tiny.yaml', '--output', 'run']\n"
        "from hflm.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    before = {path: path.stat().st_mtime_ns for path in (finished / "run").rglob("*")}
    ended = subprocess.run([sys.executable, "-c", code], cwd=finished, capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1] == "[]", ended.stderr
    assert "nothing in the recipe or its data has changed" in ended.stderr
    assert {path: path.stat().st_mtime_ns for path in (finished / "run").rglob("*")} == before


def test_only_the_changed_task_is_measured_again(workplace, capsys):
    before = weights(workplace / "run"), (workplace / "run" / "benchmark" / "predictions" / "sentiment.jsonl").stat()
    run_here(workplace, "tasks.qa.limit=7")
    found = read_results(workplace / "run" / "benchmark" / "results.json")
    assert found.tasks["qa"].n == 7
    assert list(found.tasks) == ["translation", "summarization", "sentiment", "qa", "stories"]
    after = weights(workplace / "run"), (workplace / "run" / "benchmark" / "predictions" / "sentiment.jsonl").stat()
    assert before[0] == after[0]
    assert before[1].st_mtime_ns == after[1].st_mtime_ns
    assert "pretrain 1" not in capsys.readouterr().err


def test_a_changed_finetune_keeps_the_pretrained_model_and_sets_the_old_stage_aside(workplace, capsys):
    pretrained = (workplace / "run" / "pretrain" / "model" / "model.safetensors").stat().st_mtime_ns
    before = weights(workplace / "run")
    run_here(workplace, "finetune.args.max_steps=4")
    assert (workplace / "run" / "pretrain" / "model" / "model.safetensors").stat().st_mtime_ns == pretrained
    assert weights(workplace / "run") != before
    assert (workplace / "run" / "finetune.previous" / "model" / "model.safetensors").read_bytes() == before
    assert "finetune.previous" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill -9", "SIGTERM"])
def test_a_run_that_was_stopped_continues_to_the_same_weights(finished, tmp_path, how):
    (tmp_path / "tiny.yaml").write_text(TINY)
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    with subprocess.Popen(
        command("run"), cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        for line in process.stderr:
            if line.startswith("pretrain 4/"):
                break
        process.send_signal(signal.SIGKILL if how == "kill -9" else signal.SIGTERM)
        rest = process.stderr.read()
    assert process.wait() == (-signal.SIGKILL if how == "kill -9" else 143), rest
    assert "Traceback" not in rest
    assert not (tmp_path / "run" / "model").exists()
    ended = call(tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "continues from checkpoint-" in ended.stderr
    assert weights(tmp_path / "run") == weights(finished / "run")
    kept = [line["step"] for line in read_json_lines(tmp_path / "run" / "pretrain" / "metrics.jsonl")]
    assert kept == sorted(kept)


def test_a_copy_of_the_model_that_failed_is_made_again(workplace, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", full)
        with pytest.raises(OSError, match="No space"):
            run_here(workplace, "finetune.args.max_steps=3")
    run_here(workplace, "finetune.args.max_steps=3")
    trained = workplace / "run" / "finetune" / "model" / "model.safetensors"
    assert weights(workplace / "run") == trained.read_bytes()


def test_a_recipe_without_its_finetune_is_the_pretrained_model(workplace):
    own = "tokenizer.train.data={path: toy, name: stories, size: 120}"
    run_here(workplace, own)
    run_here(workplace, own, "finetune=null", "benchmark.tasks=[stories]")
    pretrained = workplace / "run" / "pretrain" / "model" / "model.safetensors"
    assert weights(workplace / "run") == pretrained.read_bytes()
    described = json.loads((workplace / "run" / "environment.json").read_text())
    assert "finetune" not in described["stages"]


def test_a_task_that_comes_back_is_measured_again(workplace):
    results_of = workplace / "run" / "benchmark" / "results.json"
    before = read_results(results_of)
    run_here(workplace, "benchmark.tasks=[qa]")
    assert list(read_results(results_of).tasks) == ["qa"]
    run_here(workplace)
    assert read_results(results_of) == before


def test_a_licence_that_is_stated_later_reaches_the_record_and_the_card(workplace):
    run_here(workplace, "tasks.qa.data.license=cc-by-4.0")
    assert "cc-by-4.0" in (workplace / "run" / "recipe.yaml").read_text()
    assert "cc-by-4.0" in (workplace / "run" / "README.md").read_text()


def test_a_folder_is_named_by_the_model_and_no_trained_run_is_overwritten(workplace):
    for name in ("exp-0.1", "exp-0.2", "a/model", "b/model"):
        (workplace / name).mkdir(parents=True)
    (workplace / "small.v1.gguf").touch()
    with contextlib.chdir(workplace):
        names = [
            _short_name(name) for name in ("exp-0.1", "exp-0.2", "a/model", "b/model", "small.v1.gguf", "org/gpt2")
        ]
        assert names == ["exp-0.1", "exp-0.2", "a-model", "b-model", "small.v1", "org--gpt2"]
        with pytest.raises(UserError, match="--output run: it holds a trained run"):
            benchmark_model("run", load_recipe("tiny.yaml"), "run")


def test_fresh_forgets_and_keeps_the_earlier_run_aside(workplace):
    run_here(workplace, "benchmark.tasks=[qa]", fresh=True)
    assert (workplace / "run.previous" / "model" / "model.safetensors").is_file()
    assert list(read_results(workplace / "run" / "benchmark" / "results.json").tasks) == ["qa"]


def files_of(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_shorter_run_without_benchmark_does_not_show_the_earlier_scores(workplace):
    before = (workplace / "run" / "benchmark" / "results.json").read_bytes()
    run_here(workplace, "finetune.args.max_steps=2", "benchmark=null")
    assert not (workplace / "run" / "benchmark").exists()
    assert (workplace / "run" / "benchmark.previous" / "results.json").read_bytes() == before
    assert "## Benchmark" not in (workplace / "run" / "README.md").read_text()
    run_here(workplace, "finetune.args.max_steps=3", "benchmark.tasks=[qa]")
    run_here(workplace, "finetune.args.max_steps=4", "benchmark.tasks=[qa]")
    kept = [read_results(path).tasks for path in workplace.glob("run/benchmark.previous*/results.json")]
    assert sorted(len(tasks) for tasks in kept) == [1, 5]
    assert len(list((workplace / "run").glob("finetune.previous*"))) == 3, "nothing is deleted"


def test_scores_of_other_weights_are_set_aside_wherever_they_come_from(workplace):
    path = workplace / "run" / "benchmark" / "results.json"
    shape = json.loads(path.read_text())
    shape["tasks"]["qa"]["model_revision"] = "sha256:other"
    path.write_text(json.dumps(shape))
    (workplace / "run" / "README.md").unlink()
    run_here(workplace)
    assert "qa" not in read_results(path).tasks
    assert "qa" in read_results(workplace / "run" / "benchmark.previous" / "results.json").tasks


def test_a_card_that_is_missing_or_older_than_the_scores_is_written_again(workplace):
    run = workplace / "run"
    trained = (run / "model" / "model.safetensors").stat().st_mtime_ns
    (run / "README.md").unlink()
    run_here(workplace)
    assert "## Benchmark" in (run / "README.md").read_text()
    written = files_of(run)
    run_here(workplace)
    assert files_of(run) == written
    # Killed between the scores and the card: the card is of other scores.
    shape = json.loads((run / "benchmark" / "results.json").read_text())
    shape["tasks"]["qa"]["metrics"]["f1"]["value"] = 77.7
    (run / "benchmark" / "results.json").write_text(json.dumps(shape))
    run_here(workplace)
    assert "77.7" in (run / "README.md").read_text()
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == trained


def test_a_change_that_cannot_change_the_weights_trains_nothing(workplace):
    trained = {name: each for name, each in files_of(workplace / "run").items() if name.endswith(".safetensors")}
    args = ["logging_steps=1", "report_to=[]", "save_total_limit=7", "save_steps=3", "per_device_eval_batch_size=2"]
    sets = [f"{stage}.args.{arg}" for stage in ("pretrain", "finetune") for arg in args]
    run_here(workplace, *sets, "pretrain.on_bad_row=skip", "tasks.qa.on_bad_row=skip", "name=other")
    assert {name: each for name, each in files_of(workplace / "run").items() if name in trained} == trained
    assert "logging_steps: 1" in (workplace / "run" / "recipe.yaml").read_text()


def test_a_dry_run_says_what_would_run_and_why_and_changes_nothing(workplace, capsys):
    before = files_of(workplace / "run")
    run_here(workplace, "finetune.args.max_steps=3", "tasks.qa.limit=7", dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert files_of(workplace / "run") == before
    assert lines[:3] == [
        "tokenizer: is skipped, it is finished and nothing that it depends on has changed",
        "pretrain: is skipped, it is finished and nothing that it depends on has changed",
        "finetune: runs, although it is finished: finetune.args.max_steps changed from 10 to 3",
    ]
    assert lines[3].startswith("model: runs") and "tasks.qa.limit changed from unset to 7" in lines[7]


def test_a_finished_stage_is_announced_and_asked_about_on_a_terminal(workplace):
    """A pseudo-terminal answers no, then --yes trains."""
    import pty

    before = weights(workplace / "run")
    master, slave = pty.openpty()
    changed = command("run", "--set", "finetune.args.max_steps=3")
    with subprocess.Popen(changed, cwd=workplace, stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        shown = b""
        while b"Train again? [y/N]" not in shown:
            shown += os.read(master, 4096)
        os.write(master, b"n\n")
        assert process.wait() == 2
    os.close(master)
    assert b"finetune.args.max_steps changed from 10 to 3" in shown
    assert b"finetune.previous" in shown
    assert weights(workplace / "run") == before


def test_the_run_keeps_a_log(finished):
    log = (finished / "run" / "run.log").read_text().splitlines()
    assert any(line.endswith("tiny: run") for line in log) and any("pretrain 12/12" in line for line in log)
    assert any("card: run/README.md" in line for line in log)
    assert all(line[:4].isdigit() for line in log)


def test_the_benchmark_alone_on_a_finished_run(workplace):
    with contextlib.chdir(workplace):
        benchmark_model("run", load_recipe("tiny.yaml"), "bench")
    again, first = (read_results(workplace / folder / "benchmark" / "results.json") for folder in ("bench", "run"))
    assert {name: task.metrics for name, task in again.tasks.items()} == {
        name: task.metrics for name, task in first.tasks.items()
    }
    assert not (workplace / "bench" / "model").exists()


def test_the_benchmark_in_another_number_format(workplace):
    with contextlib.chdir(workplace):
        benchmark_model("run", load_recipe("tiny.yaml"), "narrow", dtype="bfloat16")
    stages = {
        folder: json.loads((workplace / folder / "environment.json").read_text())["stages"]
        for folder in ("narrow", "run")
    }
    dtypes = {
        folder: {spent.get("dtype") for name, spent in found.items() if name.startswith("benchmark/")}
        for folder, found in stages.items()
    }
    assert dtypes == {"narrow": {"bfloat16"}, "run": {"float32"}}
    assert "in bfloat16" in (workplace / "narrow" / "README.md").read_text()
    assert "benchmark: arithmetic: bfloat16 on cpu (asked for)" in (workplace / "narrow" / "run.log").read_text()


@pytest.mark.slow
def test_two_processes_give_one_run(workplace, finished):
    """A real gloo group. The benchmark is shared out and gives the numbers of one process; training is shared too."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "-m", "hflm")
    ended = subprocess.run(
        command("two", "--set", "pretrain.args.per_device_train_batch_size=4", module=launcher),
        cwd=workplace,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "2 processes on cpu" in ended.stderr
    assert ended.stderr.count("tokenizer: bpe") == 1
    recorded = json.loads((workplace / "two" / "environment.json").read_text())
    assert recorded["processes"] == 2
    logs = {}
    for folder in ("two", "run"):  # 4 rows on each of 2 processes learn what 8 rows learn on one
        lines = read_json_lines(workplace / folder / "pretrain" / "metrics.jsonl")
        logs[folder] = [line["eval_loss"] for line in lines if "eval_loss" in line]
    assert logs["two"] == pytest.approx(logs["run"], abs=0.3)
    two, one = (read_results(workplace / folder / "benchmark" / "results.json").tasks for folder in ("two", "run"))
    for name, task in one.items():  # the first process has read the training text, both have measured
        found = dataclasses.replace(two[name].contamination, clean={})
        assert found == dataclasses.replace(task.contamination, clean={})
    assert one["stories"].contamination.contaminated
    bench = subprocess.run(
        [sys.executable, *launcher, "bench", "run", "tiny.yaml", "--output", "bench"],
        cwd=workplace,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert bench.returncode == 0, bench.stderr[-3000:]
    shared, alone = (read_results(workplace / folder / "benchmark" / "results.json") for folder in ("bench", "run"))
    for name, task in alone.tasks.items():
        values = {metric: score.value for metric, score in task.metrics.items()}
        assert {metric: score.value for metric, score in shared.tasks[name].metrics.items()} == pytest.approx(values)
        lines = [
            read_json_lines(workplace / folder / "benchmark" / "predictions" / f"{name}.jsonl")
            for folder in ("bench", "run")
        ]
        for there, here in zip(*lines, strict=True):
            assert there.get("prediction") == here.get("prediction")
            assert there.get("log_likelihoods") == pytest.approx(here.get("log_likelihoods"), abs=1e-4)


ADAPTER = """
name: adapter
model: {from: BASE}
tasks:
  film:
    kind: sentiment
    data: {path: DATA}
    text: review
    label: stars
    labels: [schlecht, mittel, gut]
    prompt: "{{ review }} Das ist"
    splits: {train: train, test: train}
    shots: 1
  frage:
    kind: qa
    data: {path: DATA}
    context: passage
    question: frage
    answers: antwort
    splits: {train: train, test: train}
finetune:
  tasks: [film, frage]
  adapter: {type: lora, r: 2}
  args: {max_steps: 2}
benchmark: {tasks: [film, frage], resamples: 20}
"""


def test_an_adapter_on_an_earlier_run_with_other_columns_and_labels(workplace):
    rows = [
        {
            "review": f"电影 {n} war lang.",
            "stars": ["gut", "mittel", "schlecht"][n % 3],
            "passage": f"Tom hat {n} Hunde. 他很高兴。",
            "frage": "Wie viele Hunde hat Tom?",
            "antwort": str(n),
        }
        for n in range(12)
    ]
    (workplace / "set").mkdir()
    (workplace / "set" / "train.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    (workplace / "tiny.yaml").write_text(ADAPTER.replace("BASE", "run").replace("DATA", "set"))
    with contextlib.chdir(workplace):
        run_recipe(load_recipe("tiny.yaml"))
    folder = workplace / "runs" / "adapter"
    assert (folder / "finetune" / "adapter" / "adapter_model.safetensors").is_file()
    assert weights(folder) != weights(workplace / "run")
    found = read_results(folder / "benchmark" / "results.json").tasks
    assert found["film"].n == 12
    assert found["film"].shots == 1
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["tasks"]["film"]["labels"] == [
        "schlecht",
        "mittel",
        "gut",
    ]


BAD = [
    (["--set", "pretrain.data={path: ./nowhere}"], "no file or folder './nowhere'"),
    (["--set", "tasks.qa.data={path: ./rows}"], r"rows/train.jsonl:2 is not JSON"),
    (["--set", "tasks.sentiment.labels=[bad, good]"], "label"),
    (["--set", "tasks.sentiment.text=sentence"], "Their columns are: text, label"),
    (["--set", "tasks.sentiment.prompt='{{ sentense }}'"], "'sentense' is undefined"),
    (["--set", "tasks.summarization.too_long=refuse", "--set", "model.n_positions=32"], "longer than the"),
    (
        ["--set", "tasks.qa.prompt='{{ context | upper }} {{ question }}'", "--set", "model.n_positions=32"],
        "even without its text",
    ),
    (["--set", "pretrain.args.learning_rat=1"], "Did you mean learning_rate"),
    (["--set", "tasks.qa.splits.test=holdout"], "holdout"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_one_clear_error_before_anything_is_trained(tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.jsonl").write_text('{"context": "a", "question": "b", "answers": "c"}\n{"context": \n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", command("run", *arguments)[2:])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr().err
    assert ended.value.code == 2, printed
    assert message in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / "pretrain" / "model").exists(), "nothing was trained"
    assert (
        not (tmp_path / "run" / "stages.json").exists()
        or "finetune" not in (tmp_path / "run" / "stages.json").read_text()
    )


def test_an_unknown_model_without_a_network_is_one_clear_error(tmp_path):
    (tmp_path / "tiny.yaml").write_text(
        "name: x\nmodel: {from: nobody/nothing}\n"
        "tasks: {qa: {data: {path: toy, name: qa, size: 5}}}\nbenchmark: {tasks: [qa]}\n"
    )
    ended = call(tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert "model 'nobody/nothing' cannot be loaded" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_benchmark_without_a_model_or_training_is_an_error_of_the_recipe(tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "untrained.yaml"
    recipe.write_text(
        "name: untrained\n"
        "tokenizer: {train: {algorithm: bpe, vocab_size: 400, data: {path: toy, name: stories, size: 50}}}\n"
        "model: {preset: gpt2-nano, n_positions: 64}\n"
        "tasks: {sentiment: {data: {path: toy, name: sentiment, size: 20}, labels: [negative, neutral, positive]}}\n"
        "benchmark: {tasks: [sentiment], contamination: false}\n"
    )
    monkeypatch.chdir(tmp_path)
    for arguments in (["run"], ["run", "--dry-run"], ["validate"]):
        monkeypatch.setattr(sys, "argv", ["hflm", arguments[0], "untrained.yaml", *arguments[1:]])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        assert ended.value.code == 2 and "model: the recipe trains nothing" in printed.err and not printed.out
    assert "untrained.yaml:3" in printed.err
    assert not (tmp_path / "runs").exists()
