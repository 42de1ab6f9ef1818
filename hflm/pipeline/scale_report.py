"""What `hflm scale` leaves: a table and a summary in the terminal, README.md with plots, scale.json."""

from pathlib import Path

from hflm.core import (
    atomic_write_bytes,
    atomic_write_text,
    format_duration,
    format_quantity,
    logger,
    markdown_table,
    plain_table,
    plain_text,
)
from hflm.evaluation import scale_plots
from hflm.planning import StagePlan
from hflm.planning.scale import FILE, Expected, Scale, passes, write_scale
from hflm.planning.scaling_law import FLOPS_PER_WEIGHT

PLOTS = {
    "law": "Validation loss over parameters: measured (markers), the law (lines), and what it expects of this recipe",
    "split": "Expected loss of the recipe's compute budget, over the parameters that it is spent on",
}


def write_report(scale: Scale, own: StagePlan, device: str, folder: Path) -> None:
    """Write scale.json, README.md and the plots, and print the table and what follows from it.

    own: what the recipe's own training takes on the `device`.
    """
    from rich.console import Console

    write_scale(scale, folder / FILE)
    for name, picture in _pictures(scale).items():
        atomic_write_bytes(folder / "plots" / f"{name}.png", picture)
    lines = _summary(scale, own, device)
    atomic_write_text(folder / "README.md", _readme(scale, lines))
    console = Console()
    console.print(plain_table(f"{scale.recipe}: the ladder", *_points(scale)))
    for line in lines:
        console.print(plain_text(line), soft_wrap=True)
    logger.info(
        f"report: {folder / 'README.md'}; `hflm plan` of this recipe, in any size, now says what loss to expect"
    )


def _summary(scale: Scale, own: StagePlan, device: str) -> list[str]:
    """What the ladder says, a sentence a line."""
    law, recipe, best = scale.law, scale.own, scale.best
    flops = FLOPS_PER_WEIGHT * recipe.parameters * recipe.tokens
    time = format_duration(own.seconds) if own.seconds else "an unknown time"
    price = f", {own.price:,.2f} at the given price" if own.price is not None else ""
    read, own_read = (passes(each.tokens, scale.corpus_tokens) for each in (best, recipe))
    low, high = (format_quantity(each) for each in scale.best_parameters_ci95)
    lines = [
        f"L(N, D) = {law.E:.3f} + {law.A:.4g} / N^{law.alpha:.3f} + {law.B:.4g} / D^{law.beta:.3f}",
        (
            f"This recipe, N = {format_quantity(recipe.parameters)} on {format_quantity(recipe.tokens)} tokens: "
            f"{_loss(recipe)}. It takes {time} on {device}{price}" + (f", and {own_read}." if own_read else ".")
        ),
        f"The best split of its {format_quantity(flops, 'FLOP')}: N = {format_quantity(best.parameters)} [{low}, {high}] on "
        f"{format_quantity(best.tokens)} tokens, {_loss(best)}" + (f"; {read}." if read else "."),
    ]
    smallest, largest = scale.smallest, max(each.parameters for each in scale.runs)
    if best.parameters > recipe.parameters or best.parameters < smallest.parameters:
        lines.append(
            f"The best split is outside of the sizes from {format_quantity(smallest.parameters)} to the recipe's: trust its "
            "direction, not its number."
        )
    if recipe.parameters > 8 * largest:
        lines.append(
            f"The recipe is {recipe.parameters / largest:.0f} times as large as the largest point. A larger budget brings "
            "them closer."
        )
    better = [f"{each.learning_rate:.3g} gave {each.loss:.3f}" for each in scale.better_rates]
    if better:
        lines.append(
            f"The learning rate {smallest.learning_rate:.3g} is not the best of the smallest point ({smallest.loss:.3f}): "
            f"{', '.join(better)}. Search it (`hflm sweep`) before you trust the law."
        )
    else:
        lines.append(
            f"Half and twice the learning rate {smallest.learning_rate:.3g} are not better at the smallest point."
        )
    return lines


def _loss(expected: Expected) -> str:
    low, high = expected.loss_ci95
    text = f"expected loss {expected.loss:.3f} [{low:.3f}, {high:.3f}] nats per token"
    if expected.bits_per_byte is None:
        return text
    low, high = (each * expected.bits_per_byte / expected.loss for each in expected.loss_ci95)
    return f"{text}, {expected.bits_per_byte:.3f} [{low:.3f}, {high:.3f}] bits per byte"


def _points(scale: Scale) -> tuple[list[str], list[list[str]]]:
    """The headings and rows of the table of points."""
    headings = ["parameters", "tokens", "learning rate", "loss", "by the law", "time"]
    rows = []
    for each in sorted(scale.runs, key=lambda each: (each.rate_factor != 1, each.parameters, each.tokens)):
        law = f"{scale.law.loss(each.parameters, each.tokens):.3f}" if each.rate_factor == 1 else "trial of the rate"
        rows.append(
            [
                format_quantity(each.parameters),
                format_quantity(each.tokens),
                f"{each.learning_rate:.3g}",
                f"{each.loss:.3f}",
                law,
                format_duration(each.seconds),
            ]
        )
    return headings, rows


def _pictures(scale: Scale) -> dict[str, bytes]:
    points = [(each.parameters, each.tokens, each.loss) for each in scale.runs if each.rate_factor == 1]
    own = scale.own.parameters, scale.own.tokens
    best = scale.best.parameters, scale.best.tokens
    flops = FLOPS_PER_WEIGHT * own[0] * own[1]
    return {
        "law": scale_plots.law(points, own, scale.own.loss_ci95, scale.law.loss),
        "split": scale_plots.split(flops, own, best, scale.law.loss),
    }


def _readme(scale: Scale, summary: list[str]) -> str:
    law, *sentences = summary
    lines = [f"# What {scale.recipe} will reach", "", *(f"- {line}" for line in sentences), "", f"    {law}", ""]
    for name, text in PLOTS.items():
        lines += [f"![{text}](plots/{name}.png)", "", text + ".", ""]
    lines += ["## Points", "", markdown_table(*_points(scale)), ""]
    lines += [
        (
            "N counts the weights of the blocks and of the output layer, D the tokens trained on. The law and the fit are those "
            "of Hoffmann et al. 2022 (arXiv 2203.15556), their third approach; intervals are of a bootstrap over the points, "
            "with the scatter of runs about the law."
        ),
        "",
    ]
    return "\n".join(lines)
