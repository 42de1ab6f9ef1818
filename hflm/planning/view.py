"""A plan in the terminal: every figure with its unit."""

from rich.table import Table

SCALES = ("", "k", "M", "G", "T", "P", "E", "Z")


def amount(value, unit=""):
    """A number in a person's units, or `unknown`.

    >>> amount(124439808), amount(2.5e9), amount(2.5e9, "B"), amount(None), amount(950)
    ('124 M', '2.50 B', '2.50 GB', 'unknown', '950')
    """
    if value is None:
        return "unknown"
    step = 0
    while abs(value) >= 999.5 and step < len(SCALES) - 1:
        value, step = value / 1000, step + 1
    text = f"{value:.3g}" if step == 0 and value != int(value) else f"{value:.0f}" if step == 0 else _three(value)
    scale = SCALES[step] if unit or step != 3 else "B"  # a count of 1e9 is a billion
    return f"{text} {scale}{unit}".rstrip()


def duration(seconds):
    """4000 -> '1 h 7 min'.

    >>> duration(4000), duration(75), duration(200000), duration(0.4), duration(None)
    ('1 h 7 min', '1 min 15 s', '2 d 8 h', '1 s', 'unknown')
    """
    if seconds is None:
        return "unknown"
    parts = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    left, shown = max(1, round(seconds)), []
    for size, unit in parts:
        if left >= size and len(shown) < 2:
            shown.append(f"{round(left / size) if shown else left // size} {unit}")
            left %= size
        elif shown:
            break
    return " ".join(part for part in shown if not part.startswith("0 "))


def show(plan, console):
    """Print a hflm.planning.plan.Plan."""
    console.print(f"{plan.recipe}: {amount(plan.total_parameters)} parameters ({plan.total_parameters or 0:,})")
    if plan.parameters:
        parts = ", ".join(f"{name} {amount(count)}" for name, count in plan.parameters.items() if count)
        console.print(f"  {parts}", soft_wrap=True, highlight=False)
    count = f"{plan.processes} process{'es' * (plan.processes > 1)} on {plan.device.name}"
    console.print(f"  {count}, {amount(plan.device.memory_bytes, 'B')} of memory", highlight=False)
    for stage in plan.stages:
        console.print(_stage(stage))
        verdict = "It fits." if stage.fits else "It does NOT fit."
        console.print(f"  {verdict}", style="bold" if stage.fits else "bold red")
        for change in stage.advice:
            console.print(f"  it would with {change}", markup=False, highlight=False)
    if plan.compute_optimal:
        console.print(_optimal(plan.compute_optimal), highlight=False, soft_wrap=True)
    for note in plan.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def _stage(stage):
    table = Table("", "", title=stage.stage, title_justify="left", show_header=False, box=None, padding=(0, 2))
    rows = [
        ("trained parameters", amount(stage.trained_parameters)),
        ("a step", f"{stage.tokens_per_step:,} tokens, {stage.labelled_share:.0%} of them learnt"),
        ("steps", "unknown" if stage.steps is None else f"{stage.steps:,}"),
        ("tokens", _passes(stage)),
    ]
    rows += [(f"memory, {name}", amount(size, "B")) for name, size in stage.memory_bytes.items()]
    rows += [
        ("memory, at the most", f"{amount(stage.peak_bytes, 'B')} at {stage.peak_at}"),
        ("", f"of {amount(stage.available_bytes, 'B')} there; about 1 GB more for the libraries"),
        (
            "FLOPs",
            f"{amount(sum(stage.flops_per_token.values()), 'FLOP')} a token, {amount(stage.flops, 'FLOP')} in all",
        ),
        ("speed", f"{amount(stage.tokens_per_second)} tokens/s: {stage.speed_source}"),
        ("time", duration(stage.seconds)),
    ]
    if stage.price is not None:
        rows.append(("price", f"{stage.price:,.2f}"))
    for name, text in rows:
        table.add_row(f"  {name}", text)
    return table


def _passes(stage):
    if stage.epochs is None:
        return amount(stage.tokens)
    return f"{amount(stage.tokens)}: {stage.epochs:.3g} passes over {amount(stage.corpus_tokens)}"


def _optimal(optimal):
    text = f"compute-optimal (Hoffmann et al. 2022): this model, {amount(optimal['tokens_for_the_model'])} tokens"
    if "tokens" in optimal:
        text += (
            f"; {amount(optimal['tokens'])} tokens, a model of {amount(optimal['parameters_for_the_tokens'])} "
            f"(nearest preset with this vocabulary: {optimal['nearest_preset']})"
        )
    return text


def _three(value):
    """Three digits: 2.50, 39.8, 124."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
