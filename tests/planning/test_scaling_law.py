"""The law L(N, D) and the ladder of runs that it is fitted to."""

import doctest
import math

import numpy as np
import pytest

from hflm import planning, recipe
from hflm.core import UserError
from hflm.models import architecture
from hflm.planning import ladder, scale, scaling_law
from hflm.planning.scale import Measured, conclude, family_of, read_scale, write_scale
from hflm.planning.scaling_law import ScalingLaw, fit_law

LAWS = [
    ScalingLaw(E=1.69, A=406.4, alpha=0.34, B=410.7, beta=0.28),  # Hoffmann et al.'s own
    ScalingLaw(E=2.5, A=60.0, alpha=0.35, B=300.0, beta=0.4),
    ScalingLaw(E=0.5, A=4.0, alpha=0.1, B=5000.0, beta=0.6),
]
GRID = [
    *((2.5e5, d) for d in (3e5, 6e5, 1.2e6, 2.4e6)),
    *((5e5, d) for d in (3e5, 6e5, 1.2e6)),
    *((1e6, d) for d in (3e5, 6e5)),
]
RECIPE = """
name: own
tokenizer: {train: {vocab_size: 1000}}
model: {preset: gpt2-micro, n_positions: 128}
pretrain:
  data: {path: toy, name: stories, size: 200}
  validation: 0.1
  args: {max_steps: 400, per_device_train_batch_size: 8}
"""


@pytest.mark.parametrize("law", LAWS)
def test_the_constants_of_exact_losses_are_found(law):
    fit = fit_law(*zip(*GRID, strict=True), [law.loss(*point) for point in GRID], resamples=10)
    assert fit.law.loss(4e6, 2.4e6) == pytest.approx(law.loss(4e6, 2.4e6), rel=1e-3)
    assert (fit.law.alpha, fit.law.beta) == pytest.approx((law.alpha, law.beta), rel=0.02)
    assert fit.scatter < 1e-4


def test_an_outlier_does_not_bend_the_law():
    law, points = LAWS[1], [(n, d) for n in (1e5, 3e5, 1e6, 3e6) for d in (5e5, 1e6, 2e6, 4e6)]
    losses = [law.loss(*point) for point in points]
    losses[5] *= 1.1
    fit = fit_law(*zip(*points, strict=True), losses, resamples=5)
    assert fit.law.loss(1e7, 4e6) == pytest.approx(law.loss(1e7, 4e6), rel=0.01)


@pytest.mark.slow
def test_intervals_hold_the_loss_of_the_law_that_made_noisy_runs():
    law, draws, inside = LAWS[1], np.random.default_rng(0), 0
    for seed in range(10):
        losses = [law.loss(*point) * math.exp(draws.normal(0, 0.003)) for point in GRID]
        low, high = fit_law(*zip(*GRID, strict=True), losses, resamples=40, seed=seed).interval(4e6, 2.4e6)
        assert low < high
        inside += low <= law.loss(4e6, 2.4e6) <= high
    assert inside >= 8


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("flops", [1e12, 1e18])
def test_no_other_split_of_the_compute_has_a_lower_loss(law, flops):
    n, d = law.optimum(flops)
    assert 6 * n * d == pytest.approx(flops)
    others = [law.loss(n * factor, d / factor) for factor in (0.5, 0.9, 1.1, 2)]
    assert all(law.loss(n, d) < other for other in others)


@pytest.mark.parametrize(
    "points",
    [GRID[:5], [(n, 1e6) for n in (1e5, 2e5, 3e5, 4e5, 5e5, 6e5)], [(n, d) for n in (1e5, 2e5) for d in (1, 2, 3)]],
)
def test_too_few_points_are_refused(points):
    with pytest.raises(ValueError, match="six runs with three sizes"):
        fit_law(*zip(*points, strict=True), [1.0] * len(points))


REPEATED = "; the law is too optimistic for text that is read more than once"


@pytest.mark.parametrize(
    ("tokens", "corpus_tokens", "said"),
    [
        (1e6, None, ""),
        (500_000, 1_000_000, "0.5 passes over a corpus of 1,000,000 tokens"),
        (1_000_000, 1_000_000, "1 pass over a corpus of 1,000,000 tokens"),
        (3_200_000, 1_000_000, f"3.2 passes over a corpus of 1,000,000 tokens{REPEATED}"),
        (math.inf, 1_000_000, "inf passes over a corpus of 1,000,000 tokens"),
    ],
)
def test_a_text_that_is_read_again_is_said(tokens, corpus_tokens, said):
    assert scale.passes(tokens, corpus_tokens) == said


def test_the_examples_in_the_documentation_are_true():
    for module in (scaling_law, ladder, scale):
        found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
        assert found.attempted and not found.failed


def loaded(tmp_path, *sets):
    (tmp_path / "own.yaml").write_text(RECIPE)
    return recipe.load_recipe(str(tmp_path / "own.yaml"), sets)


def target_of(one, steps=400):
    model = planning.read_model_config(one, [])
    return ladder.target_of(one, model, steps)


@pytest.mark.parametrize("preset", ["gpt2-micro", "llama-micro", "qwen3-mini", "gpt2-small"])
def test_the_ladder_of_a_family(tmp_path, preset):
    context = [] if preset.startswith("gpt2") else ["model.n_positions=null", "model.max_position_embeddings=128"]
    one = loaded(tmp_path, f"model.preset={preset}", *context)
    target = target_of(one)
    points = ladder.design_ladder(one, target)
    on_law = [each for each in points if each.rate_factor == 1]
    sizes = sorted({each.parameters for each in on_law})
    assert 0.25 < sum(each.flops for each in points) / target.flops < 0.5
    assert [sorted(each.steps for each in on_law if each.parameters == size) for size in sizes] == [
        [50, 100, 200, 400],
        [50, 100, 200],
        [50, 100],
    ]
    assert [each.flops for each in points] == sorted(each.flops for each in points)
    assert 0.25 < sum(each.flops for each in points) / target.flops < 0.7
    for each in points:  # what the configuration says is what is counted
        made = architecture.of({**target.config, **each.model})
        assert scaling_law.weights_of(made) == each.parameters
        assert (made.n_layer, made.n_head) == (target.shape.n_layer, target.shape.n_head)
        assert made.head_dim * made.n_head == made.n_embd < target.shape.n_embd and made.head_dim % 2 == 0
        assert made.inner / made.n_embd == pytest.approx(target.shape.inner / target.shape.n_embd, rel=0.1)
    trials = {each.rate_factor: each for each in points if each.parameters == sizes[0] and each.steps == 50}
    assert {factor: each.learning_rate / trials[1].learning_rate for factor, each in trials.items()} == {
        0.5: 0.5, 1: 1.0, 2.0: 2.0,
    }  # fmt: skip


@pytest.mark.parametrize(("optim", "power"), [("muon", 0.5), ("adamw_torch", 1.0)])
def test_the_learning_rate_falls_with_the_width(tmp_path, optim, power):
    one = loaded(tmp_path, f"pretrain.args.optim={optim}", "pretrain.args.learning_rate=0.001")
    for each in ladder.design_ladder(one, target_of(one)):
        factor = (256 / each.model["n_embd"]) ** power
        assert each.learning_rate == pytest.approx(0.001 * factor * each.rate_factor)


def test_a_point_takes_as_many_tokens_a_step_as_all_processes_of_the_recipe(tmp_path):
    one, two = loaded(tmp_path), loaded(tmp_path, "processes=2")
    assert target_of(two).tokens == 2 * target_of(one).tokens
    both = zip(ladder.design_ladder(one, target_of(one)), ladder.design_ladder(two, target_of(two)), strict=True)
    assert all(second.tokens == 2 * first.tokens for first, second in both)


def test_attention_over_long_rows_takes_at_most_half_of_the_recipes_own(tmp_path):
    one = loaded(tmp_path, "model.preset=qwen3-mini", "model.n_positions=null")
    points = ladder.design_ladder(one, target := target_of(one))
    assert 0.25 < sum(each.flops for each in points) / target.flops <= ladder.MOST
    assert max(each.steps for each in points) < target.steps


def test_a_smaller_budget_makes_sizes_and_tokens_smaller(tmp_path):
    one = loaded(tmp_path, "model.preset=gpt2-small")
    target = target_of(one, 4000)
    full, small = ladder.design_ladder(one, target), ladder.design_ladder(one, target, flops=target.flops / 50)
    assert sum(each.flops for each in small) <= target.flops / 50
    assert max(each.parameters for each in small) < max(each.parameters for each in full) / 2
    assert max(each.tokens for each in small) < max(each.tokens for each in full) / 2


@pytest.mark.parametrize(
    ("sets", "steps", "budget", "message"),
    [
        ([], 400, {"flops": 0.0}, "the budget is too small"),
        ([], 400, {"flops": 1e9}, "the budget is too small: the smallest ladder of this recipe takes about .*FLOP"),
        ([], 80, {}, "too small for a ladder: it needs three smaller sizes, and 160 steps or more"),
        (["model.n_embd=16"], 400, {}, "too small for a ladder"),
    ],
)
def test_what_cannot_be_a_ladder_is_refused(tmp_path, sets, steps, budget, message):
    one = loaded(tmp_path, *sets)
    with pytest.raises(UserError, match=message):
        ladder.design_ladder(one, target_of(one, steps), **budget)


def test_a_rate_that_a_trial_beats_is_named_and_the_file_reads_back(tmp_path):
    law, one = LAWS[1], loaded(tmp_path)
    runs = [Measured(int(n), int(d), law.loss(n, d), 0.01, 1.0, 5.0) for n, d in GRID]
    runs += [Measured(250_000, 300_000, law.loss(2.5e5, 3e5) * factor, 0.01, factor, 5.0) for factor in (0.9, 1.05)]
    scale = conclude(one, runs, 4_000_000, 2_400_000, 800_000, 0.4)
    assert [each.rate_factor for each in scale.better_rates] == [0.9]
    assert scale.own.loss == pytest.approx(law.loss(4e6, 2.4e6), rel=1e-3)
    assert scale.own.bits_per_byte == pytest.approx(0.4 * scale.own.loss)
    assert scale.best.loss <= scale.own.loss
    write_scale(scale, tmp_path / "scale.json")
    assert read_scale(tmp_path / "scale.json") == scale


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), ("{}", "no scale.json"), ("x", "no scale.json")]
)
def test_a_file_that_is_none_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "scale.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_scale(tmp_path / "scale.json")


@pytest.mark.parametrize(
    ("sets", "same"),
    [
        (["model.n_embd=128"], True),
        (["model.preset=gpt2-mini"], True),
        (["pretrain.args.max_steps=10", "pretrain.args.learning_rate=1"], True),
        (["tokenizer.train.vocab_size=2000"], False),
        (["pretrain.data.size=10"], False),
        (["model.n_positions=64"], False),
        (["pretrain.args.optim=sgd"], False),
    ],
)
def test_recipes_of_one_family_differ_in_size_length_and_rate_alone(tmp_path, sets, same):
    assert (family_of(loaded(tmp_path)) == family_of(loaded(tmp_path, *sets))) is same
