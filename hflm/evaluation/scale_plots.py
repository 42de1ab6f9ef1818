"""The plots of `hflm scale`, as PNG bytes: the loss over parameters and tokens, and of a compute budget over its split."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hflm.evaluation.plots import BLUE, GREY, MARKERS, OTHERS, plain_axes, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Loss = Callable[[float, float], float]  # of N parameters and D tokens


def law(
    points: Sequence[tuple[float, float, float]], own: tuple[float, float], interval: tuple[float, float], loss: Loss
) -> bytes:
    """The measured losses of (N, D, loss) points over N, the law for each D, and the recipe's own model with its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    sizes = np.geomspace(min(n for n, _, _ in points) / 1.3, own[0] * 1.3, 60)
    colors, markers = [BLUE, *OTHERS], MARKERS
    for number, tokens in enumerate(sorted({d for _, d, _ in points})):
        color = colors[number % len(colors)]
        here = [(n, value) for n, d, value in points if d == tokens]
        axes.plot(sizes, [loss(n, tokens) for n in sizes], color=color, linewidth=1.0)
        axes.plot(
            *zip(*here, strict=True), markers[number % len(markers)], color=color, markersize=5,
            label=f"{tokens / 1e6:,.3g} M tokens",
        )  # fmt: skip
    expected = loss(*own)
    errors = [[max(0.0, expected - interval[0])], [max(0.0, interval[1] - expected)]]
    axes.errorbar(
        [own[0]], [expected], yerr=errors, fmt="*", color="black", markersize=10, capsize=3,
        label=f"this recipe, expected ({own[1] / 1e6:,.3g} M tokens)",
    )  # fmt: skip
    return _over_parameters(figure, axes, "validation loss (nats per token)")


def split(flops: float, own: tuple[float, float], best: tuple[float, float], loss: Loss) -> bytes:
    """The expected loss of one compute budget (6 N D) over the number of parameters it is spent on."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 3.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    ends = min(own[0], best[0]) / 4, max(own[0], best[0]) * 4
    sizes = np.geomspace(*ends, 100)
    axes.plot(sizes, [loss(n, flops / 6 / n) for n in sizes], color=BLUE, linewidth=1.3)
    axes.plot([own[0]], [loss(*own)], "*", color="black", markersize=10, label="this recipe")
    axes.plot([best[0]], [loss(*best)], "o", color=OTHERS[0], markersize=6, label="best split of the same FLOPs")
    axes.axvline(best[0], color=GREY, linewidth=0.6, linestyle=":")
    return _over_parameters(figure, axes, "expected loss (nats per token)")


def _over_parameters(figure: "Figure", axes: "Axes", label: str) -> bytes:
    """A finished plot of a loss, called `label`, over parameters."""
    axes.set_xscale("log")
    axes.set_xlabel("parameters (blocks and output layer)")
    axes.set_ylabel(label)
    plain_axes(axes)
    axes.legend(frameon=False, fontsize=8)
    return to_png(figure)
