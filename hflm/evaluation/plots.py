"""The pictures of a model card and of a comparison, as PNG bytes. Colours are Okabe and Ito's, for the colour-blind;
line styles and marks differ too. matplotlib's object interface (no pyplot) needs no display and starts faster.
"""

import io

from hflm.evaluation.results import UNITS, number

BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#4D4D4D"
OTHERS = ["#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00"]
MARKS = ["D", "s", "^", "v", "o"]
LONGEST_LABEL = 14  # characters of a token


def learning_curves(stages):
    """Loss by step, a panel for each stage.

    `stages`: {"pretrain": {"training": {step: loss}, "validation": {step: loss}}, ...}, losses in nats per token.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(stages), 3.6), dpi=150, layout="constrained")
    for axes, (stage, curves) in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages.items(), strict=True):
        others = iter(OTHERS * len(curves))
        for name, losses in curves.items():
            steps = sorted(losses)
            style = (
                {"color": BLUE, "linewidth": 1.3}
                if name == "training"
                else {"color": next(others), "linewidth": 1.3, "linestyle": "--", "marker": "o", "markersize": 3.5}
            )
            if len(steps) == 1:
                style["marker"] = "o"
            axes.plot(steps, [losses[step] for step in steps], label=name, **style)
        axes.set_title(stage)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss (nats per token)")
        _quiet(axes)
        axes.legend(frameon=False)
    return _png(figure)


def benchmark(results):
    """Each task's main metrics as bars with their 95 % intervals, and the baselines as marks beside them.

    A panel holds the metrics of one task that share a unit: accuracy and BLEU never share an axis.
    """
    from matplotlib.figure import Figure

    panels = []
    for name, task in results.tasks.items():
        by_unit = {}
        for metric in task.main():
            by_unit.setdefault(UNITS.get(metric, "0 to 100"), []).append(metric)
        panels += [(name, task, unit, metrics) for unit, metrics in by_unit.items()]

    bars = [len(metrics) for *_, metrics in panels]
    figure = Figure(figsize=(7.5, sum(0.85 + 0.4 * count for count in bars)), dpi=150, layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[0.5 + 0.4 * count for count in bars])
    for axes, (name, task, unit, metrics) in zip(grid[:, 0], panels, strict=True):
        scores = [task.metrics[metric] for metric in metrics]
        places = range(len(metrics))
        # A percentile interval may lie wholly beside the value; an error bar cannot have a negative length.
        low = [max(0.0, score.value - score.ci95[0]) for score in scores]
        high = [max(0.0, score.ci95[1] - score.value) for score in scores]
        axes.barh(
            places,
            [score.value for score in scores],
            height=0.6,
            xerr=[low, high],
            color=BLUE,
            alpha=0.75,
            error_kw={"ecolor": GREY, "capsize": 3, "elinewidth": 1.2},
        )
        for index, (baseline, values) in enumerate(task.baselines.items()):
            marks = [(values[metric], place) for place, metric in enumerate(metrics) if metric in values]
            if marks:
                axes.scatter(
                    *zip(*marks, strict=True),
                    marker=MARKS[index % len(MARKS)],
                    color=OTHERS[index % len(OTHERS)],
                    edgecolor="white",
                    linewidth=0.6,
                    s=45,
                    zorder=3,
                    clip_on=False,  # a mark at 0 is whole
                    label=baseline,
                )
        labels = [f"{metric}  {number(metric, task.metrics[metric].value)}" for metric in metrics]
        axes.set_yticks(places, labels)
        axes.set_ylim(len(metrics) - 0.5, -0.5)
        if unit == "0 to 1":
            axes.set_xlim(0, 1)
        axes.set_title(f"{name} (n = {task.n:,})", loc="left", fontsize=10, parse_math=False)
        axes.set_xlabel(f"{' and '.join(metrics)} ({unit})", fontsize=8)
        axes.tick_params(labelsize=8)
        _quiet(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(title="baselines", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
            axes.get_legend().get_title().set_fontsize(8)
    return _png(figure)


def reliability(tasks):
    """Accuracy by confidence, a panel for each of `tasks` ({name: TaskResult with a calibration}).

    A point is a bin of answers, its area their share; below the diagonal the model is surer than it is right.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.8 * len(tasks), 3.9), dpi=150, layout="constrained")
    for axes, (name, task) in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks.items(), strict=True):
        bins = task.calibration.bins
        places = [each.confidence for each in bins], [each.accuracy for each in bins]
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="calibrated")
        axes.plot(*places, color=BLUE, linewidth=0.8, alpha=0.6)
        areas = [20 + 400 * each.count / task.n for each in bins]
        axes.scatter(*places, s=areas, color=BLUE, alpha=0.75, zorder=3, clip_on=False)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="accuracy")
        error = task.calibration.expected_calibration_error
        axes.set_title(f"{name} (n = {task.n:,}, error {error:.3f})", loc="left", fontsize=10, parse_math=False)
        _quiet(axes)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    return _png(figure)


def differences(pairs):
    """Differences to a reference with their 95 % intervals, a panel for each unit; the line at 0 is no difference.

    `pairs`: {"B - A": {"accuracy": (0.02, (-0.01, 0.05)), ...}, ...}, the same metrics in each.
    """
    from matplotlib.figure import Figure

    panels = {}
    for metric in next(iter(pairs.values())):
        panels.setdefault(UNITS.get(metric, "0 to 100"), []).append(metric)
    heights = [0.55 + 0.3 * len(metrics) * len(pairs) for metrics in panels.values()]
    figure = Figure(figsize=(6.5, sum(heights) + 0.2), dpi=150, layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for axes, (unit, metrics) in zip(grid[:, 0], panels.items(), strict=True):
        for index, (name, found) in enumerate(pairs.items()):
            places = [place + (index - (len(pairs) - 1) / 2) * 0.7 / len(pairs) for place in range(len(metrics))]
            values = [found[metric][0] for metric in metrics]
            ends = [found[metric][1] for metric in metrics]
            axes.hlines(places, *zip(*ends, strict=True), color=GREY, linewidth=1.2)
            color, mark = OTHERS[index % len(OTHERS)], MARKS[index % len(MARKS)]
            axes.plot(values, places, linestyle="", color=color, marker=mark, markersize=6, label=name)
        axes.axvline(0, color=GREY, linewidth=1, linestyle=":")
        axes.set_yticks(range(len(metrics)), metrics)
        axes.set_ylim(len(metrics) - 0.5, -0.5)
        axes.set_xlabel(f"difference (scale: {unit})", fontsize=8)
        axes.tick_params(labelsize=8)
        _quiet(axes)
    if len(pairs) > 1:
        grid[0, 0].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return _png(figure)


def attention(weights, labels):
    """Attention weights (layers, heads, T, T) as a grid of squares, a row for each layer and a column for each head.

    In a square each row is a token that looks and each column one that is looked at; `labels` are the T tokens.
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
    shown = [_drawable(label) for label in labels] if token * 72 > 5 else []  # smaller than that nobody reads
    style = {"fontsize": min(7, token * 72 * 0.8), "parse_math": False}
    for layer in range(layers):
        for place, label in enumerate(shown):
            axes.text(-1, layer * pitch + place, label, ha="right", va="center", **style)
        axes.text(
            canvas.shape[1], layer * pitch + size / 2, f"layer {layer + 1}", rotation=270, va="center", fontsize=8
        )
    for head in range(heads):
        for place, label in enumerate(shown):
            axes.text(head * pitch + place, canvas.shape[0], label, ha="center", va="top", rotation=90, **style)
    scale = axes.inset_axes((1 + 0.4 / width, 1 - 1 / height, 0.1 / width, 1 / height))
    figure.colorbar(image, cax=scale).ax.tick_params(labelsize=7)
    return _png(figure, bbox_inches="tight")


def _drawable(text):
    """A label's text: white space and what the font has no picture of are written as escapes."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    text = "".join(
        char if char.isprintable() and font.get_char_index(ord(char)) else char.encode("unicode_escape").decode()
        for char in text.replace(" ", "\u2423")
    )
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}\u2026"


def _quiet(axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


def _png(figure, **options):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, **options)
    return buffer.getvalue()
