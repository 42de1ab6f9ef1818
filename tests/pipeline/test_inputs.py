"""A recipe's data are looked up once, at the start of a run, and handed from package to package."""

import json
import os
import sys
from collections import Counter
from contextlib import contextmanager

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
QA = {"context": "The cat is in the barn.", "question": "Where is the cat?", "answers": "barn"}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("corpus", "texts"):
        (tmp_path / folder).mkdir()
    for name in ("corpus/train.txt", "corpus/dev.txt", "texts/a.txt", "texts/b.txt"):
        (tmp_path / name).write_text("The fox saw the cup in the mill. It was a very old cup.\n" * 40)
    (tmp_path / "qa.jsonl").write_text((json.dumps(QA) + "\n") * 6)
    (tmp_path / "recipe.yaml").write_text(tiny_recipe("looked-up", SECTIONS))
    return load_recipe("recipe.yaml", ["tokenizer.train.data={path: texts/*.txt}"])


@contextmanager
def calls_of(*functions):
    """Counts the calls of some functions with the same first argument, by whatever name they were imported."""
    codes = {function.__code__: function.__name__ for function in functions}
    counts = Counter()

    def profile(frame, event, argument):
        if event == "call" and frame.f_code in codes:
            code = frame.f_code
            counts[codes[code], os.path.relpath(frame.f_locals[code.co_varnames[0]])] += 1

    sys.setprofile(profile)
    try:
        yield counts
    finally:
        sys.setprofile(None)


def test_no_path_is_looked_up_twice(recipe):
    with calls_of(paths.expand_path, files.match_files, files.folder_files) as calls:
        run_recipe(recipe, "run")
    of_data = {call: count for call, count in calls.items() if not call[1].startswith("run")}
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
