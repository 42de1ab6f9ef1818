"""Task files of lm-eval's: what each key becomes, and what is refused, by line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hflm import recipe
from hflm.core import RecipeError
from hflm.recipe.lm_eval_import import read_task_files

CHOICE = """\
task: sst2_plain
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "Review: {{sentence}}\\nSentiment:"
doc_to_target: label
doc_to_choice: [negative, positive]
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1}
"""
CHOICE_TASK = {
    "kind": "choice",
    "data": {"path": "json", "data_files": {"test": "FOLDER/rows.jsonl"}},
    "splits": {"train": None, "test": "test"},
    "prompt": "Review: {{sentence}}\nSentiment:",
    "labels": ["negative", "positive"],
    "label": "label",
    "label_end": False,
    "shots": 0,
    "metrics": ["accuracy"],
}
GENERATION = """\
task: en_de
tag: [translation]
dataset_path: org/pairs
dataset_name: en-de
training_split: train
validation_split: validation
output_type: generate_until
doc_to_text: "{{translation.en}} ="
doc_to_target: "{{ translation['de'] }}"
num_fewshot: 2
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 40
  do_sample: false
  temperature: 0.0
metric_list:
  - metric: bleu
  - metric: chrf
"""
GENERATION_TASK = {
    "kind": "generation",
    "data": {"path": "org/pairs", "name": "en-de"},
    "splits": {"train": "train", "test": "validation"},
    "prompt": "{{translation.en}} =",
    "target": "de",
    "shots": 2,
    "max_new_tokens": 40,
    "stop": ["\n"],
    "metrics": ["bleu", "chrf"],
}
TEXT = """\
task: words
dataset_path: text
dataset_kwargs: {data_files: {test: [a.txt, sub/b.txt]}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
"""
TEXT_TASK = {
    "kind": "language_modeling",
    "data": {"path": "text", "data_files": {"test": ["FOLDER/a.txt", "FOLDER/sub/b.txt"]}},
    "splits": {"train": None, "test": "test"},
    "text": "text",
    "metrics": ["bits_per_byte"],
}
KWARGS = GENERATION[GENERATION.index("generation_kwargs") : GENERATION.index("metric_list")]
METRICS = GENERATION[GENERATION.index("metric_list") :]
DATA = "dataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}"

# fmt: off
READ = [
    (CHOICE, "", "", CHOICE_TASK, {}),
    (GENERATION, "", "", GENERATION_TASK, {}),
    (TEXT, "", "", TEXT_TASK, {}),
    (CHOICE, "[negative, positive]", '[" negative", " positive"]\ntarget_delimiter: ""', CHOICE_TASK, {}),
    (CHOICE, "Sentiment:", "Sentiment: ", CHOICE_TASK,
     {"prompt": "Review: {{sentence}}\nSentiment: ", "text": 'target_delimiter: ""\n'}),
    (CHOICE, "[negative, positive]", "[no, yes]", CHOICE_TASK, {"labels": ["no", "yes"]}),
    (CHOICE, "to_target: label", 'to_target: "{{label}}"', CHOICE_TASK, {}),
    (CHOICE, '"Review: {{sentence}}\\nSentiment:"', "sentence", CHOICE_TASK, {"prompt": "{{ sentence }}"}),
    (CHOICE, "metric: acc,", "metric: mcc,", CHOICE_TASK, {"metrics": ["mcc"]}),
    (CHOICE, "metadata:", 'description: "Judge.\\n"\nmetadata:', CHOICE_TASK,
     {"prompt": "Judge.\nReview: {{sentence}}\nSentiment:"}),
    (CHOICE, "metadata:", "filter_list: null\nrepeats: 1\nmetadata:", CHOICE_TASK, {}),
    (CHOICE, "{test: rows.jsonl}", "https://host/rows.jsonl", CHOICE_TASK,
     {"data": {"path": "json", "data_files": "https://host/rows.jsonl"}}),
    (CHOICE, DATA, "dataset_path: here", CHOICE_TASK, {"data": {"path": "FOLDER/here"}}),
    (CHOICE, "dataset_path: json", "dataset_path: org/rows", CHOICE_TASK,
     {"data": {"path": "org/rows", "data_files": {"test": "rows.jsonl"}}}),
    (CHOICE, "dataset_path: json", "dataset_path: here", CHOICE_TASK,
     {"data": {"path": "FOLDER/here", "data_files": {"test": "rows.jsonl"}}}),
    (CHOICE, DATA, "dataset_path: arrow\ndataset_kwargs: {data_files: a.arrow}", CHOICE_TASK,
     {"data": {"path": "arrow", "data_files": "FOLDER/a.arrow"}}),
    (CHOICE, "test_split: test", "test_split: test\nvalidation_split: dev\nfewshot_split: dev\ntraining_split: train",
     CHOICE_TASK, {"splits": {"train": "dev", "test": "test"}}),
    (GENERATION, KWARGS, "", GENERATION_TASK, {"max_new_tokens": 256, "stop": ["\n\n"]}),
    (GENERATION, 'until: ["\\n"]', 'until: "Q:"', GENERATION_TASK, {"stop": ["Q:"]}),
    (GENERATION, METRICS, "", GENERATION_TASK, {"metrics": ["exact_match"]}),
    (GENERATION, METRICS, "metric_list: [rouge, rougeL]", GENERATION_TASK,
     {"metrics": ["rouge1", "rouge2", "rougeL"]}),
    (GENERATION, "output_type: generate_until\n", "", GENERATION_TASK, {}),
    (GENERATION, '"{{ translation[\'de\'] }}"', '" {{summary}}"\ntarget_delimiter: ""', GENERATION_TASK,
     {"target": "summary"}),
]
WRONG = [
    (CHOICE, "task: sst2_plain\n", "", None, "task", "required key is missing"),
    (CHOICE, "sst2_plain", "a.b", 1, "task", "expected letters, digits, `_` and `-`, got 'a.b'"),
    (CHOICE, "sst2_plain", "[a, b]", 1, "task", "expected text, got a list"),
    (CHOICE, "dataset_path: json", "", None, "dataset_path", "required key is missing"),
    (CHOICE, "test_split: test", "", None, "test_split", "there is neither test_split nor validation_split"),
    (CHOICE, "multiple_choice", "loglikelihood", 5, "output_type", "hflm cannot measure 'loglikelihood'."),
    (CHOICE, '"Review: {{sentence}}\\nSentiment:"', "!function utils.prompt", 6, "", "!function runs Python code"),
    (CHOICE, "to_target: label", "to_target: !function utils.gold", 7, "", "!function runs Python code"),
    (CHOICE, "to_target: label", "to_target: !!python/name:os.system", 7, "", "the tag !!python/name:os.system is not"),
    (CHOICE, '"Review: {{sentence}}\\nSentiment:"', "3", 6, "doc_to_text", "expected text, got 3"),
    (CHOICE, "to_target: label", "to_target: 0", 7, "doc_to_target", "expected a column's name or {{column}}, got 0"),
    (CHOICE, "to_target: label", "to_target: \"{{['a','b'].index(answer)}}\"",
     7, "doc_to_target", "expected a column's name"),
    (CHOICE, "[negative, positive]", '"{{options}}"', 8, "doc_to_choice", "expected a list of words, the same for ev"),
    (CHOICE, "doc_to_choice: [negative, positive]\n", "", None, "doc_to_choice", "expected a list of words, the same"),
    (CHOICE, "[negative, positive]", '[" a", b]', 8, "doc_to_choice", "some choices begin with a space"),
    (CHOICE, "metadata:", 'target_delimiter: "\\n"\nmetadata:', 10, "target_delimiter", "'\\n' separates prompt"),
    (CHOICE, "metadata:", 'target_delimiter: ""\nmetadata:', 10, "target_delimiter", "'' separates prompt"),
    (CHOICE, "[negative, positive]", '[" a", " b"]', None, "target_delimiter", "'  ' separates prompt"),
    (CHOICE, "Sentiment:", "Sentiment: ", None, "target_delimiter", "'  ' separates prompt"),
    (CHOICE, "metadata:", "num_fewshot: 1\nmetadata:", 10, "num_fewshot", "the shots need a training_split"),
    (CHOICE, "test_split: test", "test_split: test\nfewshot_split: test\nnum_fewshot: 1",
     6, "num_fewshot", "the shots would come from test, the rows that are asked"),
    (CHOICE, "metadata:", "include: base.yaml\nmetadata:", 10, "include", "hflm reads one file"),
    (CHOICE, "metadata:", "filter_list: [{name: x}]\nmetadata:", 10, "filter_list", "hflm scores the text as it was"),
    (CHOICE, "metadata:", "gen_prefix: So\nmetadata:", 10, "gen_prefix", "hflm's answer begins after the prompt"),
    (CHOICE, "metadata:", "process_docs: utils.f\nmetadata:", 10, "process_docs", "it runs Python code"),
    (CHOICE, "metadata:", "repeats: 3\nmetadata:", 10, "repeats", "hflm answers greedily"),
    (CHOICE, "metadata:", 'fewshot_delimiter: "#"\nmetadata:', 10, "fewshot_delimiter", "hflm puts a blank line"),
    (CHOICE, "task: sst2", "task: a\ntask: sst2", 2, "task", "duplicate key, first on line 1"),
    (GENERATION, "do_sample: false", "do_sample: true", 14, "generation_kwargs.do_sample", "hflm answers greedily"),
    (GENERATION, "num_fewshot: 2", "num_fewshot: 2\ndescription: Translate.", 11, "description", "hflm cannot say it"),
    (GENERATION, "num_fewshot: 2", "doc_to_choice: [a, b]", 10, "doc_to_choice", "only `output_type: multiple_choice`"),
    # what the recipe's own schema finds stands on the lines of the task file, too
    (CHOICE, "{{sentence}}", "{{sentence", 6, "tasks.sst2_plain.prompt", "not a jinja template"),
    (CHOICE, "{{sentence}}", "{{sentence|regex_replace}}", 6, "tasks.sst2_plain.prompt", "not a jinja template: No filt"),
    (CHOICE, "[negative, positive]", "[only]", 8, "tasks.sst2_plain.labels", "expected at least 2 items, got 1"),
    (CHOICE, "test_split: test", "test_split: te/st", 4, "tasks.sst2_plain.splits.test", "expected a split such as"),
    (CHOICE, "{data_files", "{trust_remote_code: true, data_files",
     3, "tasks.sst2_plain.data.trust_remote_code", "hflm never runs code from a data set"),
    (GENERATION, "max_gen_toks: 40", "max_gen_toks: many",
     13, "tasks.en_de.max_new_tokens", "expected a whole number, got 'many'"),
]
WARNED = [
    (CHOICE, "metadata:", "doc_to_txt: x\nmetadata:", "unknown key, ignored. Did you mean doc_to_text?", 10),
    (CHOICE, "metadata:", "generation_kwargs: {until: x}\nmetadata:", "is ignored with this output_type", 10),
    (CHOICE, "[{metric: acc,", "[{metric: acc_norm}, {metric: acc,", "'acc_norm' is left out", 9),
    (GENERATION, "metric: bleu", "metric: bleu\n    ignore_case: true", "hflm's metric has no options", 18),
    (GENERATION, "temperature: 0.0", "top_p: 0.9", "generation_kwargs.top_p: is ignored", 15),
    (TEXT, 'doc_to_text: ""', "doc_to_text: x", "doc_to_text: is ignored", 6),
]
# fmt: on


def written(folder, text, old="", new="", name="t.yaml"):
    assert old in text
    path = folder / name
    path.write_text(text.replace(old, new, 1) if old else text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("text", "old", "new", "task", "change"), READ)
def test_what_a_task_file_becomes(tmp_path, text, old, new, task, change):
    (tmp_path / "here").mkdir()
    more = change.get("text", "")
    path = written(tmp_path, text + more, old, new)
    expected = {**task, **{key: value for key, value in change.items() if key != "text"}}
    tree, problems = read_task_files([path], "org/model")
    assert not problems
    [task_of_file] = tree.plain()["tasks"].values()
    assert task_of_file == json.loads(json.dumps(expected).replace("FOLDER", str(tmp_path)))
    loaded = recipe.load_task_files([path], "org/model", ["seed=7"])
    [name] = loaded.tasks
    assert (loaded.name, loaded.seed, loaded.model.from_, loaded.benchmark.tasks) == (name, 7, "org/model", (name,))
    assert loaded.tasks[name].kind == task["kind"]


@pytest.mark.parametrize(("text", "old", "new", "line", "key", "message"), WRONG)
def test_wrong_task_files(tmp_path, monkeypatch, text, old, new, line, key, message):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, text, old, new)
    with pytest.raises(RecipeError) as caught:
        recipe.load_task_files(["t.yaml"], "org/model")
    assert [(one.file, one.line, one.key) for one in caught.value.problems] == [("t.yaml", line, key)], caught.value
    assert caught.value.problems[0].text.startswith(message)


@pytest.mark.parametrize(("text", "old", "new", "message", "line"), WARNED)
def test_what_is_left_out_is_named(tmp_path, text, old, new, message, line):
    path = written(tmp_path, text, old, new)
    with pytest.warns(UserWarning) as caught:
        recipe.load_task_files([path], "org/model")
    [warning] = [str(each.message) for each in caught]
    assert f"t.yaml:{line}  " in warning
    assert message in warning


def test_all_problems_of_all_files_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, CHOICE, "doc_to_target: label", "doc_to_target: 0\ninclude: x", "a.yaml")
    written(tmp_path, CHOICE, "test_split: test", "test_split: te/st", "b.yaml")
    with pytest.raises(RecipeError) as caught:
        recipe.load_task_files(["a.yaml", "b.yaml"], "org/model")
    found = [(one.file, one.line, one.key) for one in caught.value.problems]
    twice = ("b.yaml", 1, "task")
    assert found == [("a.yaml", 7, "doc_to_target"), ("a.yaml", 8, "include"), twice,
                     ("b.yaml", 4, "tasks.sst2_plain.splits.test")]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "the file is empty. A task file is keys"), ("- a\n", "a task file is keys"), (None, "cannot be read")],
)
def test_no_task_file(tmp_path, text, message):
    path = tmp_path / "t.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        recipe.load_task_files([path], "org/model")


def test_the_same_examples_as_a_written_recipe(tmp_path):
    rows = [{"sentence": "a fine film ", "label": 1}, {"sentence": "dull", "label": "negative"}]
    shots = [{"sentence": "good", "label": 1}, {"sentence": "bad", "label": 0}]
    for name, lines in (("rows", rows), ("shots", shots)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    files = "{test: rows.jsonl, train: shots.jsonl}"
    path = written(tmp_path, CHOICE + "training_split: train\nnum_fewshot: 2\n", "{test: rows.jsonl}", files)
    by_hand = tmp_path / "r.yaml"
    by_hand.write_text(
        f"""\
name: by-hand
model: {{from: org/model}}
tasks:
  sst2_plain:
    kind: choice
    data: {{path: json, data_files: {{test: {tmp_path}/rows.jsonl, train: {tmp_path}/shots.jsonl}}}}
    prompt: "Review: {{{{ sentence }}}}\\nSentiment:"
    labels: [negative, positive]
    shots: 2
benchmark: {{tasks: [sst2_plain]}}
"""
    )
    from hflm import tasks
    from hflm.pipeline import resolve_inputs
    from hflm.pipeline.reading import read_tasks

    found = []
    for loaded in (recipe.load_task_files([path], "org/model"), recipe.load_recipe(str(by_hand))):
        task = read_tasks(loaded, resolve_inputs(loaded), {"benchmark/sst2_plain"}, print)["sst2_plain", "test"]
        found.append(
            [(e.prompt, e.target, e.references) for e in tasks.with_shots(task.task, task.examples, task.shots)]
        )
    assert found[0] == found[1]
    assert len(found[0]) == 2
    assert found[0][0][0].endswith("\n\nReview: a fine film \nSentiment:")
    assert found[0][0][0].count("Review:") == 3


def bench(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(Path(recipe.__file__).parents[2])}
    return subprocess.run(
        [sys.executable, "-m", "hflm", "bench", *arguments],
        cwd=folder, capture_output=True, text=True, env=environment,
    )  # fmt: skip


def test_bench_takes_task_files(tmp_path, tiny, tokenizer):
    from hflm.models import save_pretrained

    save_pretrained(tmp_path / "model", tiny, tokenizer)
    (tmp_path / "rows.jsonl").write_text('{"sentence": "good", "label": 1}\n{"sentence": "bad", "label": 0}\n')
    written(tmp_path, CHOICE)
    written(tmp_path, CHOICE.replace("sst2_plain", "second"), "metric: acc", "metric: mcc", "u.yaml")
    done = bench(tmp_path, "model", "--task-file", "t.yaml", "--task-file=u.yaml", "--set", "tasks.second.limit=1")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / f"sst2_plain-second-bench-{tmp_path.name}-model"
    found = json.loads((folder / "benchmark" / "results.json").read_text())["tasks"]
    assert {name: (task["n"], [*task["metrics"]]) for name, task in found.items()} == {
        "sst2_plain": (2, ["accuracy"]),
        "second": (1, ["mcc"]),
    }


@pytest.mark.parametrize("arguments", [["org/m"], ["org/m", "quickstart", "--task-file", "t.yaml"]])
def test_bench_needs_a_recipe_or_task_files(tmp_path, arguments):
    done = bench(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("bench needs either a recipe or --task-file FILE")
