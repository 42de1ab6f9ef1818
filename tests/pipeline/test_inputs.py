"""A recipe's data are looked up once, at the start of a run, and handed from package to package."""

import inspect
import json
import os
import sys
from collections import Counter

import pytest

from hflm.core import paths
from hflm.data import files
from hflm.pipeline import resolve_inputs, run_recipe
from hflm.recipe import load_recipe
from recipes import tiny_recipe

SECTIONS = """
pretrain:
  data: [{path: corpus}, {path: texts/b.txt}]
  validation: {path: corpus, split: validation}
  args: {max_steps: 1}
tasks:
  qa: {data: {path: json, data_files: {train: qa.jsonl, test: qa.jsonl}}, shots: 1, max_new_tokens: 4}
  again: {kind: qa, data: {path: json, data_files: {train: qa.jsonl, test: qa.jsonl}}, max_new_tokens: 4}
finetune: {tasks: [qa], args: {max_steps: 1}}
benchmark: {tasks: [qa, again], resamples: 10}
"""
SETS = ["tokenizer.train.data={path: texts/*.txt}"]
QA = {"context": "The cat is in the barn.", "question": "Where is the cat?", "answers": "barn"}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("corpus", "texts"):
        (tmp_path / folder).mkdir()
    for name in ("corpus/train.txt", "corpus/dev.txt", "texts/a.txt", "texts/b.txt"):
        (tmp_path / name).write_text("The fox saw the cup in the mill. It was a very old cup.\n" * 40)
    (tmp_path / "qa.jsonl").write_text((json.dumps(QA) + "\n") * 6)
    (tmp_path / "recipe.yaml").write_text(tiny_recipe("looked-up", SECTIONS, n_positions=256))
    return load_recipe("recipe.yaml", SETS)


class Calls:
    """What is called in a block: some functions by their first argument, and which package is entered after which."""

    def __init__(self, *functions):
        self.names = {function.__code__: function.__name__ for function in functions}
        self.counts, self.packages = Counter(), []

    def __enter__(self):
        sys.setprofile(self._called)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    def _called(self, frame, event, argument):
        code, module = frame.f_code, frame.f_globals.get("__name__", "")
        if event != "call" or not code.co_flags & inspect.CO_OPTIMIZED:  # the body of a module or class is no call
            return
        if code in self.names:
            self.counts[self.names[code], os.path.relpath(frame.f_locals[code.co_varnames[0]])] += 1
        if module.startswith("hflm.") and (package := module.split(".")[1]) not in self.packages:
            self.packages.append(package)


def test_no_path_is_looked_up_twice_from_the_recipe_to_the_packed_rows(recipe):
    with Calls(paths.expand_path, files.match_files, files.folder_files) as calls:
        run_recipe(load_recipe("recipe.yaml", SETS), "run")
    of_data = {call: count for call, count in calls.counts.items() if not call[1].startswith("run")}
    assert of_data == {
        ("expand_path", "texts/*.txt"): 1,
        ("match_files", "texts/*.txt"): 1,
        ("expand_path", "corpus"): 1,
        ("folder_files", "corpus"): 1,
        ("expand_path", "texts/b.txt"): 1,
        ("match_files", "texts/b.txt"): 1,
        ("expand_path", "json"): 1,
        ("expand_path", "qa.jsonl"): 1 + 1,  # a pattern of train and one of test
        ("match_files", "qa.jsonl"): 1 + 1,
    }
    from_yaml_to_rows = ("recipe", "data", "tasks", "preprocessing")
    assert [each for each in calls.packages if each in from_yaml_to_rows] == [*from_yaml_to_rows]


def test_a_file_that_appears_later_is_not_read(recipe, tmp_path):
    inputs = resolve_inputs(recipe)
    (tmp_path / "texts" / "c.txt").write_text("later\n")
    assert [file.name for file in inputs.data["tokenizer.train.data.0"].files] == ["a.txt", "b.txt"]


def test_sources_of_one_place_share_its_files_and_keep_their_own_options(recipe):
    inputs = resolve_inputs(recipe)
    corpus, validation = inputs.data["pretrain.data.0"], inputs.data["pretrain.validation"]
    assert corpus.files is validation.files and corpus.content == validation.content
    assert validation.source.options == {"split": "validation"} and corpus.fingerprint != validation.fingerprint
    assert [each.source.path for each in inputs.sources("pretrain.data")] == ["corpus", "texts/b.txt"]
