"""A plan in the terminal: every figure with its unit."""

from typing import Any

from rich.console import Console
from rich.table import Table

from hflm.core import format_duration, format_quantity, plain_text
from hflm.planning.plan import Plan, StagePlan


def print_plan(plan: Plan, console: Console) -> None:
    """Print a Plan as tables."""
    total = f"{format_quantity(plan.total_parameters)} parameters ({plan.total_parameters or 0:,})"
    console.print(plain_text(f"{plan.recipe}: {total}"))
    if plan.parameters:
        parts = ", ".join(f"{name} {format_quantity(count)}" for name, count in plan.parameters.items() if count)
        console.print(plain_text(f"  {parts}"), soft_wrap=True)
    count = f"{plan.processes} process{'es' * (plan.processes > 1)} on {plan.device.name}"
    console.print(plain_text(f"  {count}, {format_quantity(plan.device.memory_bytes, 'B')} of memory"))
    for stage in plan.stages:
        console.print(_stage(stage))
        verdict = "It fits." if stage.fits else "It does NOT fit."
        console.print(f"  {verdict}", style="bold" if stage.fits else "bold red")
        for change in stage.advice:
            console.print(plain_text(f"  it would with {change}"))
    if plan.compute_optimal:
        console.print(plain_text(_optimal(plan.compute_optimal)), soft_wrap=True)
    if plan.predicted_loss is not None:
        console.print(plain_text(_predicted_loss(plan.predicted_loss)), soft_wrap=True)
    for note in plan.notes:
        console.print(plain_text(f"note: {note}"), soft_wrap=True)


def _stage(stage: StagePlan) -> Table:
    table = Table("", "", title=stage.stage, title_justify="left", show_header=False, box=None, padding=(0, 2))
    rows = [
        ("trained parameters", format_quantity(stage.trained_parameters)),
        ("a step", f"{stage.tokens_per_step:,} tokens, {stage.labelled_share:.0%} of them labels"),
        ("steps", "unknown" if stage.steps is None else f"{stage.steps:,}"),
        ("tokens", _passes(stage)),
    ]
    rows += [(f"memory, {name}", format_quantity(size, "B")) for name, size in stage.memory_bytes.items()]
    rows += [
        ("memory, at the most", f"{format_quantity(stage.peak_bytes, 'B')} at {stage.peak_at}"),
        ("", f"of {format_quantity(stage.available_bytes, 'B')} available; about 1 GB more for the libraries"),
        (
            "FLOPs",
            f"{format_quantity(sum(stage.flops_per_token.values()), 'FLOP')} a token, {format_quantity(stage.flops, 'FLOP')} in all",
        ),
        ("speed", f"{format_quantity(stage.tokens_per_second)} tokens/s: {stage.speed_source}"),
        ("time", format_duration(stage.seconds)),
    ]
    if stage.price is not None:
        rows.append(("price", f"{stage.price:,.2f}"))
    for name, text in rows:
        table.add_row(plain_text(f"  {name}"), plain_text(text))
    return table


def _passes(stage: StagePlan) -> str:
    if stage.epochs is None:
        return format_quantity(stage.tokens)
    return f"{format_quantity(stage.tokens)}: {stage.epochs:.3g} passes over {format_quantity(stage.corpus_tokens)}"


def _optimal(optimal: dict[str, Any]) -> str:
    text = (
        f"compute-optimal (Hoffmann et al. 2022): this model, {format_quantity(optimal['tokens_for_the_model'])} tokens"
    )
    if "tokens" in optimal:
        text += (
            f"; {format_quantity(optimal['tokens'])} tokens, a model of {format_quantity(optimal['parameters_for_the_tokens'])} "
            f"(nearest preset with this vocabulary: {optimal['nearest_preset']})"
        )
    return text


def _predicted_loss(predicted: dict[str, Any]) -> str:
    bits = f", {predicted['bits_per_byte']:.3f} bits per byte" if "bits_per_byte" in predicted else ""
    low, high = predicted["loss_ci95"]
    text = f"expected validation loss {predicted['loss']:.3f} [{low:.3f}, {high:.3f}] nats per token{bits}"
    return f"{text}, by {predicted['source']}" + (f"; {predicted['passes']}" if predicted["passes"] else "")
