"""The plots of model cards, comparisons and scores, as PNG bytes.

Colours are Okabe and Ito's, for the colour-blind; line styles and markers differ too. matplotlib's object interface (no
pyplot) needs no display and starts faster.
"""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hflm.evaluation.results import UNITS, Results, TaskResult, format_value

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, GREY = "#0072B2", "#4D4D4D"
OTHERS = ["#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00"]
MARKERS = ["D", "s", "^", "v", "o"]
MAX_LABEL = 14  # characters of a token


def learning_curves(
    stages: Mapping[str, Mapping[str, Mapping[int, float]]],
    scores: Mapping[tuple[str, str], Mapping[str, Mapping[int, float]]] | None = None,
) -> bytes:
    """Loss by step, a panel for each stage, and the scores of tasks during training, a panel for each unit.

    `stages`: {"pretrain": {"training": {step: loss}, "validation": {step: loss}}, ...}, losses in nats per token.
    `scores`: {("finetune", "0 to 1"): {"sentiment accuracy": {step: value}}, ...}.
    """
    from matplotlib.figure import Figure

    panels = [(stage, "loss (nats per token)", curves) for stage, curves in stages.items()]
    panels += [(f"{stage}: tasks", unit, curves) for (stage, unit), curves in (scores or {}).items()]
    figure = Figure(figsize=(5.2 * len(panels), 3.6), dpi=150, layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, label, curves) in zip(grid, panels, strict=True):
        others = iter(OTHERS * len(curves))
        for name, values in curves.items():
            steps = sorted(values)
            style = (
                {"color": BLUE, "linewidth": 1.3}
                if name == "training"
                else {"color": next(others), "linewidth": 1.3, "linestyle": "--", "marker": "o", "markersize": 3.5}
            )
            if len(steps) == 1:
                style["marker"] = "o"
            axes.plot(steps, [values[step] for step in steps], label=name, **style)
        axes.set_title(title)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(label)
        plain_axes(axes)
        axes.legend(frameon=False)
    return to_png(figure)


def benchmark(results: Results) -> bytes:
    """Each task's metrics (`TaskResult.shown`) as bars with their 95 % intervals, and the baselines as markers.

    A panel holds the metrics of one task that share a unit: accuracy and BLEU never share an axis.
    """
    from matplotlib.figure import Figure

    panels = [
        (name, task, unit, metrics)
        for name, task in results.tasks.items()
        for unit, metrics in _by_unit(task.shown()).items()
    ]
    bars = [len(metrics) for *_, metrics in panels]
    figure = Figure(figsize=(7.5, sum(0.85 + 0.4 * count for count in bars)), dpi=150, layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[0.5 + 0.4 * count for count in bars])
    for axes, (name, task, unit, metrics) in zip(grid[:, 0], panels, strict=True):
        _bars(axes, task, metrics)
        _baseline_markers(axes, task, metrics)
        axes.set_yticks(
            range(len(metrics)), [f"{each}  {format_value(each, task.metrics[each].value)}" for each in metrics]
        )
        axes.set_ylim(len(metrics) - 0.5, -0.5)
        if unit == "0 to 1":
            axes.set_xlim(0, 1)
        axes.set_title(f"{name} (n = {task.n:,})", loc="left", fontsize=10, parse_math=False)
        axes.set_xlabel(f"{' and '.join(metrics)} ({unit})", fontsize=8)
        axes.tick_params(labelsize=8)
        plain_axes(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(title="baselines", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
            axes.get_legend().get_title().set_fontsize(8)
    return to_png(figure)


def _bars(axes: "Axes", task: TaskResult, metrics: Sequence[str]) -> None:
    scores = [task.metrics[metric] for metric in metrics]
    # A percentile interval need not contain the value; an error bar cannot have a negative length.
    low = [max(0.0, score.value - score.ci95[0]) for score in scores]
    high = [max(0.0, score.ci95[1] - score.value) for score in scores]
    axes.barh(
        range(len(metrics)),
        [score.value for score in scores],
        height=0.6,
        xerr=[low, high],
        color=BLUE,
        alpha=0.75,
        error_kw={"ecolor": GREY, "capsize": 3, "elinewidth": 1.2},
    )


def _baseline_markers(axes: "Axes", task: TaskResult, metrics: Sequence[str]) -> None:
    for index, (baseline, values) in enumerate(task.baselines.items()):
        points = [(values[metric], row) for row, metric in enumerate(metrics) if metric in values]
        if points:
            axes.scatter(
                *zip(*points, strict=True),
                marker=MARKERS[index % len(MARKERS)],
                color=OTHERS[index % len(OTHERS)],
                edgecolor="white",
                linewidth=0.6,
                s=45,
                zorder=3,
                clip_on=False,  # a marker at 0 is drawn in full
                label=baseline,
            )


def _by_unit(metrics: Sequence[str]) -> dict[str, list[str]]:
    panels: dict[str, list[str]] = {}
    for metric in metrics:
        panels.setdefault(UNITS.get(metric, "0 to 100"), []).append(metric)
    return panels


def reliability(tasks: Mapping[str, TaskResult]) -> bytes:
    """Accuracy by confidence, a panel for each of `tasks`, which have a calibration.

    A point is a bin of answers, its area their number; below the diagonal the model is overconfident.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.8 * len(tasks), 3.9), dpi=150, layout="constrained")
    for axes, (name, task) in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks.items(), strict=True):
        assert task.calibration is not None
        bins = task.calibration.bins
        points = [each.confidence for each in bins], [each.accuracy for each in bins]
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="calibrated")
        axes.plot(*points, color=BLUE, linewidth=0.8, alpha=0.6)
        areas = [20 + 400 * each.count / task.n for each in bins]
        axes.scatter(*points, s=areas, color=BLUE, alpha=0.75, zorder=3, clip_on=False)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="accuracy")
        error = task.calibration.expected_calibration_error
        axes.set_title(f"{name} (n = {task.n:,}, error {error:.3f})", loc="left", fontsize=10, parse_math=False)
        plain_axes(axes)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    return to_png(figure)


def differences(pairs: Mapping[str, Mapping[str, tuple[float, tuple[float, float]]]]) -> bytes:
    """Differences to a reference with their 95 % intervals, a panel for each unit; the line at 0 is no difference.

    `pairs`: {"B - A": {"accuracy": (0.02, (-0.01, 0.05)), ...}, ...}, the same metrics in each.
    """
    from matplotlib.figure import Figure

    panels = _by_unit(list(next(iter(pairs.values()))))
    heights = [0.55 + 0.3 * len(metrics) * len(pairs) for metrics in panels.values()]
    figure = Figure(figsize=(6.5, sum(heights) + 0.2), dpi=150, layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for axes, (unit, metrics) in zip(grid[:, 0], panels.items(), strict=True):
        for index, (name, scores) in enumerate(pairs.items()):
            positions = [row + (index - (len(pairs) - 1) / 2) * 0.7 / len(pairs) for row in range(len(metrics))]
            values = [scores[metric][0] for metric in metrics]
            ends = [scores[metric][1] for metric in metrics]
            axes.hlines(positions, *zip(*ends, strict=True), color=GREY, linewidth=1.2)
            color, marker = OTHERS[index % len(OTHERS)], MARKERS[index % len(MARKERS)]
            axes.plot(values, positions, linestyle="", color=color, marker=marker, markersize=6, label=name)
        axes.axvline(0, color=GREY, linewidth=1, linestyle=":")
        axes.set_yticks(range(len(metrics)), metrics)
        axes.set_ylim(len(metrics) - 0.5, -0.5)
        axes.set_xlabel(f"difference (scale: {unit})", fontsize=8)
        axes.tick_params(labelsize=8)
        plain_axes(axes)
    if len(pairs) > 1:
        grid[0, 0].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return to_png(figure)


def attention(weights: "np.ndarray", labels: Sequence[str]) -> bytes:
    """Attention weights (layers, heads, T, T) as a grid of squares, a row for each layer and a column for each head.

    In a square each row is a token that attends and each column one attended to; `labels` are the T tokens.
    """
    import matplotlib
    import numpy as np
    from matplotlib.figure import Figure

    layers, heads, size, _ = weights.shape
    gap = max(1, size // 16)
    pitch = size + gap  # from one square to the next, in tokens
    canvas = np.full((layers * pitch - gap, heads * pitch - gap), np.nan)
    for layer, head in np.ndindex(layers, heads):
        canvas[layer * pitch :, head * pitch :][:size, :size] = weights[layer, head]
    token = min(max(0.1, 1 / size), 3 / size)  # inches
    height, width = canvas.shape[0] * token, canvas.shape[1] * token
    figure = Figure(figsize=(width, height), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    image = axes.imshow(
        canvas, cmap=matplotlib.colormaps["Blues"].with_extremes(bad="#CCCCCC"), vmin=0, vmax=1, interpolation="nearest"
    )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8)
    axes.xaxis.tick_top()
    axes.set_xticks([head * pitch + size / 2 for head in range(heads)], [f"head {head + 1}" for head in range(heads)])
    axes.set_yticks([])
    shown = [_drawable(label) for label in labels] if token * 72 > 5 else []  # smaller ones are illegible
    style = {"fontsize": min(7, token * 72 * 0.8), "parse_math": False}
    for layer in range(layers):
        for row, label in enumerate(shown):
            axes.text(-1, layer * pitch + row, label, ha="right", va="center", **style)
        axes.text(
            canvas.shape[1], layer * pitch + size / 2, f"layer {layer + 1}", rotation=270, va="center", fontsize=8
        )
    for head in range(heads):
        for column, label in enumerate(shown):
            axes.text(head * pitch + column, canvas.shape[0], label, ha="center", va="top", rotation=90, **style)
    scale = axes.inset_axes((1 + 0.4 / width, 1 - 1 / height, 0.1 / width, 1 / height))
    figure.colorbar(image, cax=scale).ax.tick_params(labelsize=7)
    return to_png(figure, bbox_inches="tight")


def _drawable(text: str) -> str:
    """A label's text: white space and what the font has no glyph for are escaped."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    text = "".join(
        char if char.isprintable() and font.get_char_index(ord(char)) else char.encode("unicode_escape").decode()
        for char in text.replace(" ", "\u2423")
    )
    return text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 1]}\u2026"


def plain_axes(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


def to_png(figure: "Figure", **options: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, **options)
    return buffer.getvalue()
