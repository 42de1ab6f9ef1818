"""The plots of a sweep, as PNG bytes: history, importance, parallel coordinates, slices, Pareto front, confirmation.

Drawn here and not by optuna.visualization.matplotlib, which is experimental and changes pyplot's style for the whole
process.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hflm.evaluation.plots import BLUE, GREY, OTHERS, plain_axes, to_png
from hflm.evaluation.seeds import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VERMILION = OTHERS[0]
MAX_TICKS = 12  # of a key's values; more are numbered by matplotlib


@dataclass(frozen=True)
class SweepTrial:
    """A trial that has ended. `scores` are empty where it was pruned; `values` are what Optuna stored, by key path.

    `ended`: why it ended before its end, None for a complete one.
    """

    slot: str
    scores: tuple[float, ...]
    values: Mapping[str, Any]
    seconds: float
    ended: str | None = None


@dataclass(frozen=True)
class Axis:
    """A key of the space for a plot: its choices as text, or numbers on a scale that may be logarithmic."""

    key: str
    choices: tuple[str, ...] | None
    log: bool

    def position(self, value: Any) -> float:
        return float(self.choices.index(str(value))) if self.choices is not None else float(value)

    def height(self, position: float, low: float, high: float) -> float:
        """A position between 0 and 1, where `low` and `high` are those of the ends of the axis."""
        at, low, high = (math.log(each) if self.log else each for each in (position, low, high))
        return 0.5 if high == low else (at - low) / (high - low)


def history(trials: Sequence[SweepTrial], metric: str, maximized: bool) -> bytes:
    """The score of each trial in the order of their numbers, and the best so far; pruned ones are marked below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 3.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    complete = [(number, trial.scores[0]) for number, trial in enumerate(trials) if trial.scores]
    pruned = [number for number, trial in enumerate(trials) if not trial.scores]
    best: list[float] = []
    for _, score in complete:
        best.append(score if not best else (max if maximized else min)(best[-1], score))
    numbers = [number for number, _ in complete]
    axes.step(numbers, best, where="post", color=VERMILION, linewidth=1.3, label="best so far")
    axes.plot(numbers, [score for _, score in complete], "o", color=BLUE, markersize=5, label="complete")
    if pruned:
        bottom = [0.02] * len(pruned)
        axes.plot(pruned, bottom, "x", color=GREY, markersize=5, label="pruned", transform=axes.get_xaxis_transform())
    axes.set_xlabel("trial")
    axes.set_ylabel(metric, parse_math=False)
    plain_axes(axes)
    axes.legend(frameon=False, fontsize=8)
    return to_png(figure)


def importance(importances: Mapping[str, float]) -> bytes:
    """The fraction of the scores' variation that each key explains, as bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 0.9 + 0.35 * len(importances)), dpi=150, layout="constrained")
    axes = figure.subplots()
    keys = sorted(importances, key=lambda key: importances[key])
    axes.barh(range(len(keys)), [importances[key] for key in keys], height=0.6, color=BLUE, alpha=0.75)
    axes.set_yticks(range(len(keys)), [f"{key}  {importances[key]:.2f}" for key in keys], fontsize=8, parse_math=False)
    axes.set_xlim(0, 1)
    axes.set_xlabel("importance")
    plain_axes(axes)
    return to_png(figure)


def parallel_coordinates(trials: Sequence[SweepTrial], axes_of: Sequence[Axis], metric: str, maximized: bool) -> bytes:
    """A line for each complete trial through its values to its score; better ones are darker."""
    import matplotlib
    from matplotlib.figure import Figure

    complete = sorted((each for each in trials if each.scores), key=lambda each: each.scores[0], reverse=not maximized)
    figure = Figure(figsize=(1.6 + 1.7 * len(axes_of), 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    ends = [_ends(axis, complete) for axis in axes_of]
    scores = [each.scores[0] for each in complete]
    last = Axis(metric, None, False)
    colors = matplotlib.colormaps["Blues"]
    for rank, trial in enumerate(complete):
        heights = [
            axis.height(axis.position(trial.values[axis.key]), low, high)
            for axis, (low, high) in zip(axes_of, ends, strict=True)
        ]
        heights.append(last.height(trial.scores[0], min(scores), max(scores)))
        shade = 0.25 + 0.75 * (rank + 1) / len(complete)
        axes.plot(range(len(heights)), heights, color=colors(shade), linewidth=1.3)
    for number, (axis, (low, high)) in enumerate(
        zip([*axes_of, last], [*ends, (min(scores), max(scores))], strict=True)
    ):
        axes.axvline(number, color=GREY, linewidth=0.8)
        ends_of_range = [(low, f"{low:.4g}"), (high, f"{high:.4g}")]
        for position, label in ends_of_range if axis.choices is None else enumerate(axis.choices):
            height = axis.height(position, low, high)
            axes.text(number + 0.03, height, label, fontsize=7, va="center", parse_math=False)
    names = [*(axis.key for axis in axes_of), metric]
    axes.set_xticks(range(len(names)), [_broken(name) for name in names], fontsize=7, parse_math=False)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(names) - 0.6)
    axes.spines[:].set_visible(False)
    return to_png(figure)


def slices(trials: Sequence[SweepTrial], axes_of: Sequence[Axis], metric: str) -> bytes:
    """The score over each key, a panel for each; a point is a complete trial, darker where it came later."""
    from matplotlib.figure import Figure

    complete = [(number, each) for number, each in enumerate(trials) if each.scores]
    columns = min(3, len(axes_of))
    rows = -(-len(axes_of) // columns)
    figure = Figure(figsize=(0.6 + 2.9 * columns, 0.4 + 2.6 * rows), dpi=150, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for panel, axis in zip(grid.flat, axes_of, strict=False):
        positions = [axis.position(each.values[axis.key]) for _, each in complete]
        scores = [each.scores[0] for _, each in complete]
        panel.scatter(
            positions, scores, c=[number for number, _ in complete], cmap="Blues", vmin=-len(trials) / 2,
            vmax=len(trials), edgecolor=GREY, linewidth=0.5, s=28
        )  # fmt: skip
        _scale(panel, axis)
        panel.set_xlabel(axis.key, fontsize=8, parse_math=False)
        panel.tick_params(labelsize=8)
        plain_axes(panel)
    for panel in grid[:, 0]:
        panel.set_ylabel(metric, fontsize=8, parse_math=False)
    for panel in grid.flat[len(axes_of) :]:
        panel.set_visible(False)
    return to_png(figure)


def pareto_front(trials: Sequence[SweepTrial], front: Sequence[str], metrics: Sequence[str]) -> bytes:
    """Two scores of each complete trial; the trials in `front` are those that no other is better than in both."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    others = [each.scores for each in trials if each.scores and each.slot not in front]
    if others:
        axes.plot(*zip(*others, strict=True), "o", color=BLUE, alpha=0.6, markersize=5, label="complete")
    best = sorted((each.scores[0], each.scores[1], each.slot) for each in trials if each.scores and each.slot in front)
    axes.plot(
        [x for x, *_ in best], [y for _, y, _ in best], "D--", color=VERMILION, markersize=6, label="Pareto front"
    )
    for x, y, slot in best:
        axes.annotate(slot, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.set_xlabel(metrics[0], parse_math=False)
    axes.set_ylabel(metrics[1], parse_math=False)
    plain_axes(axes)
    axes.legend(frameon=False, fontsize=8)
    return to_png(figure)


def confirmation(searched: Mapping[str, float], confirmed: Mapping[str, Spread], metric: str) -> bytes:
    """The best trials: their score in the search beside the mean of new seeds with its 95 % interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 1.0 + 0.45 * len(confirmed)), dpi=150, layout="constrained")
    axes = figure.subplots()
    for row, (slot, found) in enumerate(confirmed.items()):
        if found.ci95 is not None:
            axes.hlines(row, *found.ci95, color=GREY, linewidth=1.2)
        axes.plot(found.mean, row, "o", color=BLUE, label="new seeds, mean and 95 % interval" if row == 0 else None)
        axes.plot(searched[slot], row, "D", color=VERMILION, label="in the search" if row == 0 else None)
    axes.set_yticks(range(len(confirmed)), [f"trial {slot}" for slot in confirmed], fontsize=8)
    axes.set_ylim(len(confirmed) - 0.5, -0.5)
    axes.set_xlabel(metric, parse_math=False)
    plain_axes(axes)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return to_png(figure)


def _ends(axis: Axis, trials: Sequence[SweepTrial]) -> tuple[float, float]:
    if axis.choices is not None:
        return 0.0, float(len(axis.choices) - 1)
    positions = [axis.position(each.values[axis.key]) for each in trials]
    return min(positions), max(positions)


def _scale(panel: "Axes", axis: Axis) -> None:
    if axis.log:
        panel.set_xscale("log")
    if axis.choices is not None and len(axis.choices) <= MAX_TICKS:
        panel.set_xticks(range(len(axis.choices)), [_short(each) for each in axis.choices], parse_math=False)


def _short(label: str) -> str:
    return label if len(label) <= 16 else f"{label[:15]}\u2026"


def _broken(key: str) -> str:
    """A long key path on several lines."""
    head, _, last = key.rpartition(".")
    return f"{head}\n{last}" if head else last
