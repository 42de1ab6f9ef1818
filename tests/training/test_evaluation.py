"""Evaluations during training: they change nothing, are exact, choose the kept checkpoint and stop early."""

import itertools
import math
import random
from functools import partial

import numpy as np
import pytest
import torch
from conftest import TEXTS
from safetensors.torch import load_file
from transformers import TrainerCallback

from hflm import training
from hflm.core import read_json_lines
from hflm.evaluation import BenchmarkSettings, TrainingScores, run_benchmark
from hflm.inference import LocalModel
from hflm.models import add_adapter, build_model, load_model, patch_loss
from hflm.pipeline.reading import TaskRows
from hflm.preprocessing import collate, count_bytes, pack_documents
from hflm.tasks import LanguageModeling, Qa, Sentiment, read_examples
from hflm.training import EarlyStop, StageSettings, TrainingData, ValidationSet, best_model, evaluation, trainer

ARGS = {"max_steps": 8, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "save_steps": 2, "logging_steps": 2}
BEST = {"load_best_model_at_end": True, "eval_steps": 2}
DATA = {"path": "toy", "name": "stories"}
TASKS = {
    "mood": Sentiment(data=DATA, labels=["key", "cup", "hat"]),
    "qa": Qa(data=DATA, max_new_tokens=4),
    "beams": Qa(data=DATA, max_new_tokens=4, generation={"num_beams": 2}),
    "held": LanguageModeling(data=DATA),
}
ROWS = [
    {"text": text, "label": number % 3, "context": text, "question": "Who saw it?", "answers": {"text": ["dog"]}}
    for number, text in enumerate(TEXTS[:9])
]


def task_rows(name):
    examples, _ = read_examples(TASKS[name], ROWS, "rows")
    return TaskRows(TASKS[name], examples, [], 0, "rows", "sha256:0")


@pytest.fixture
def scores(tokenizer):
    return TrainingScores(tokenizer, {name: task_rows(name) for name in TASKS}, 64)


class Scores:
    """Scores that are given for each evaluation in turn, by step: a run that gets better and worse again."""

    rows, main = 1, ("task_f1",)

    def __init__(self, *values):
        self.values, self.asked = values, 0

    def __call__(self, model):
        self.asked += 1
        return {"task_f1": self.values[self.asked - 1]}


@pytest.fixture
def fit(tokenizer, tmp_path):
    """Train a tiny model (with dropout, so that random states matter) in a folder; returns (model, Trained)."""
    packed = pack_documents(TEXTS, tokenizer, 48)

    def run(folder="run", scorer=None, sets=None, stop=None, adapter=False, **args):
        torch.manual_seed(0)
        drops = {f"{place}_pdrop": 0.1 for place in ("attn", "embd", "resid")}
        model = patch_loss(
            build_model({"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 64, **drops}, tokenizer)
        )
        if adapter:
            model = add_adapter(model, {"type": "lora", "r": 2})
        trained = training.train_model(
            model,
            TrainingData(packed.rows, partial(collate, pad_token_id=tokenizer.pad_token_id), sets or {}, scorer),
            tmp_path / folder,
            {**ARGS, **args},
            StageSettings("pretrain", 0, 48, packed.tokens_per_row, early_stopping=stop),
            save_to=tmp_path / folder / ("adapter" if adapter else "model"),
            tokenizer=tokenizer,
        )
        return model, trained

    return run


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def evaluations(folder, name):
    lines = read_json_lines(folder / "metrics.jsonl")
    return {line["step"]: line[f"eval_{name}"] for line in lines if f"eval_{name}" in line}


def bench(model, tokenizer, name, folder):
    """What the benchmark says about the same rows."""
    settings = BenchmarkSettings(64, resamples=1, seed=0, key="", model_revision=None)
    result = run_benchmark(LocalModel(model, tokenizer), name, task_rows(name), settings, folder / f"{name}.jsonl")
    return {f"{name}_{metric}": score.value for metric, score in result.metrics.items()}


@pytest.mark.filterwarnings("ignore:pretrain. bf16 is slow here:UserWarning")  # on a CPU without a bf16 unit
@pytest.mark.parametrize("autocast", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_evaluation_changes_no_weight_and_scores_as_the_benchmark_does(fit, tokenizer, scores, tmp_path, autocast):
    sets = {"": ValidationSet(pack_documents(TEXTS[:3], tokenizer, 48).rows)}
    without, _ = fit("without", bf16=autocast)
    model, _ = fit("with", scores, sets, eval_steps=3, bf16=autocast)
    assert torch.equal(weights(without), weights(model))
    saved, _ = load_model(str(tmp_path / "with" / "model"), dtype="float32")
    for name in TASKS:
        for metric, value in bench(saved.eval(), tokenizer, name, tmp_path).items():
            assert list(evaluations(tmp_path / "with", metric)) == [3, 6, 8]
            assert evaluations(tmp_path / "with", metric)[8] == value, metric


def test_an_adapter_is_measured_as_its_merged_model(fit, tokenizer, scores, tmp_path):
    without, _ = fit("without", adapter=True)
    model, _ = fit("with", scores, adapter=True, eval_steps=8)
    assert torch.equal(weights(without), weights(model))
    merged = model.merge_and_unload().eval()
    found = bench(merged, tokenizer, "held", tmp_path)
    assert evaluations(tmp_path / "with", "held_bits_per_byte")[8] == pytest.approx(
        found["held_bits_per_byte"], abs=1e-5
    )


def test_an_evaluation_leaves_mode_and_random_states_alone(tiny, scores):
    tiny.train()
    tiny.forward = original = lambda *inputs, **options: pytest.fail("the instance's forward was called")  # as autocast
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    with evaluation.plain_model(tiny) as plain:
        assert not plain.training
        assert set(scores(plain)) == {
            "mood_accuracy", "mood_macro_f1", "mood_mcc", "qa_exact_match", "qa_f1", "beams_exact_match", "beams_f1",
            "held_perplexity", "held_bits_per_byte",
        }  # fmt: skip
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert tiny.training and tiny.forward is original
    assert before[:2] == after[:2] and torch.equal(before[2], after[2])
    assert scores.main == ("mood_accuracy", "qa_f1", "beams_f1", "held_perplexity")


def test_several_validation_sets_have_a_loss_and_bits_per_byte_each(fit, tokenizer, tmp_path):
    texts = {"short": TEXTS[:3], "long": [" ".join(TEXTS[3:12])]}
    packed = {name: count_bytes(pack_documents(each, tokenizer, 48), each, tokenizer) for name, each in texts.items()}
    model, trained = fit(
        sets={name: ValidationSet(each.rows, each.bytes) for name, each in packed.items()}, eval_steps=8
    )
    model.eval()
    nats, labels, size = {}, {}, {}
    for name, each in packed.items():
        losses, counts = [], []
        for row in each.rows:
            segments = np.flatnonzero(row["position_ids"] == 0).tolist() + [len(row["input_ids"])]
            for start, end in itertools.pairwise(segments):
                ids = torch.tensor(row["input_ids"][start:end])[None]
                with torch.no_grad():
                    logits = model(input_ids=ids).logits[0, :-1].double()
                losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item())
                counts.append(end - start - 1)
        nats[name], labels[name] = sum(losses), sum(counts)
        size[name] = sum(len(text.encode()) for text in texts[name])
        found = evaluations(tmp_path / "run", f"{name}_loss")[8]
        assert found == pytest.approx(nats[name] / labels[name], abs=1e-5)
    assert packed["short"].bytes == size["short"]  # a document begins with the begin of text, which spells nothing
    # The first token of a later segment is not predicted.
    assert len(packed["long"].rows.starts) > 1 and size["long"] - 20 < packed["long"].bytes < size["long"]
    for name, each in packed.items():
        found = evaluations(tmp_path / "run", f"{name}_bits_per_byte")[8]
        assert found == pytest.approx(nats[name] / math.log(2) / each.bytes, abs=1e-5)
    whole = sum(nats.values()) / sum(labels.values())
    assert trained.eval_loss == evaluations(tmp_path / "run", "loss")[8] == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize(
    ("metric", "values", "save_steps", "kept"),
    [
        ("task_f1", (1, 5, 3, 2), 2, 4),
        ("eval_task_f1", (1, 5, 5, 2), 2, 4),  # the first of equals
        ("task_f1", (1, 5, 3, 4), 4, 4),
        ("task_f1", (7, 5, 3, 4), 4, 2),  # between two intervals of saving
    ],
)
def test_the_best_by_a_task_is_kept(fit, tmp_path, metric, values, save_steps, kept):
    options = {**BEST, "save_steps": save_steps, "save_total_limit": 1, "metric_for_best_model": metric}
    _, trained = fit(scorer=Scores(*values), **options)
    assert trained.kept == best_model.Kept(kept, "eval_task_f1", max(values))
    assert (trained.kept_step, trained.steps, trained.stopped_early) == (kept, 8, False)
    expected = load_file(tmp_path / "run" / f"checkpoint-{kept}" / "model.safetensors")
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.equal(expected[key], saved[key]) for key in expected)


@pytest.mark.filterwarnings("ignore:.*is not used")
def test_a_damaged_best_checkpoint_is_passed_over(fit, tmp_path):
    class Damage(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 8:
                (tmp_path / "run" / "checkpoint-4" / "model.safetensors").write_bytes(b"torn")

    plain = trainer.StageTrainer
    trainer.StageTrainer = lambda *args, callbacks, **options: plain(*args, callbacks=[*callbacks, Damage()], **options)
    try:
        _, trained = fit(scorer=Scores(1, 5, 4, 2), save_total_limit=4, metric_for_best_model="task_f1", **BEST)
    finally:
        trainer.StageTrainer = plain
    assert trained.kept == best_model.Kept(6, "eval_task_f1", 4)


@pytest.mark.parametrize(
    ("values", "stop", "steps"),
    [
        ((5, 4, 3, 3), EarlyStop(2), 6),
        ((5, 4, 6, 3), EarlyStop(2), 8),
        ((5, 5.5, 5.9, 7), EarlyStop(2, min_delta=1), 6),
    ],
)
def test_training_stops_when_it_is_no_longer_better(fit, tmp_path, values, stop, steps):
    _, trained = fit(scorer=Scores(*values), stop=stop, metric_for_best_model="task_f1", **BEST)
    assert trained.steps == steps
    assert trained.stopped_early is (steps < 8)
    assert trained.kept.value == max(values[: steps // 2])
    # Started again after its end, as when the process died before the model was saved, it stays as it was.
    _, again = fit(scorer=Scores(), stop=stop, metric_for_best_model="task_f1", **BEST)
    assert (again.steps, again.kept, again.stopped_early) == (trained.steps, trained.kept, trained.stopped_early)


class Killed(Exception):
    pass


class KillAfter(TrainerCallback):
    def __init__(self, step, saved):
        self.step, self.saved = step, saved

    def on_evaluate(self, args, state, control, **_):
        if state.global_step == self.step and not self.saved:
            raise Killed

    def on_save(self, args, state, control, **_):
        if state.global_step == self.step and self.saved:
            raise Killed


@pytest.mark.parametrize(("step", "saved"), [(4, False), (4, True), (6, True)])
def test_early_stopping_is_the_same_after_a_kill(fit, tmp_path, monkeypatch, step, saved):
    by_step = {2: 5.0, 4: 4.0, 6: 5.5, 8: 3.0, 10: 5.4, 12: 7.0}

    class ByStep(Scores):
        def __call__(self, model):
            return {"task_f1": by_step[current.state.global_step]}

    current = None
    plain = trainer.StageTrainer

    def make(*args, callbacks, **options):
        nonlocal current
        current = plain(*args, callbacks=[*callbacks, *killers], **options)
        return current

    monkeypatch.setattr(trainer, "StageTrainer", make)
    options = {"stop": EarlyStop(2), "metric_for_best_model": "task_f1", **BEST, "max_steps": 12}
    killers = []
    whole, expected = fit("whole", ByStep(), **options)
    assert (expected.steps, expected.kept.step) == (10, 6)
    killers = [KillAfter(step, saved)]
    with pytest.raises(Killed):
        fit("killed", ByStep(), **options)
    killers = []
    resumed, trained = fit("killed", ByStep(), **options)
    assert (trained.steps, trained.kept, trained.stopped_early) == (10, expected.kept, True)
    assert torch.equal(weights(whole), weights(resumed))
    assert list(evaluations(tmp_path / "killed", "task_f1")) == [2, 4, 6, 8, 10]
