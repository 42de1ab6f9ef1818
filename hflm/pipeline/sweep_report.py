"""What a sweep leaves: a table in the terminal, README.md with plots, best.yaml, results.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hflm.core import atomic_write_bytes, atomic_write_text, format_duration, logger, markdown_table
from hflm.evaluation import Spread, spread, sweep_plots
from hflm.evaluation.sweep_plots import Axis, SweepTrial
from hflm.pipeline.sweep_study import ENDED, ended_trials
from hflm.pipeline.sweep_trial import SweepPlan, decode_values
from hflm.recipe import Choices, Recipe, dump_recipe, load_varied_recipe

if TYPE_CHECKING:
    from optuna.study import Study
    from rich.table import Table

SHOWN = 10  # trials in the tables


@dataclass(frozen=True)
class SweepReport:
    """A sweep whose trials have ended. `best` are complete trials, best first; of two metrics the Pareto front.

    `confirmed` holds the scores of the runs with new seeds, by trial.
    """

    plan: SweepPlan
    trials: tuple[SweepTrial, ...]
    best: tuple[str, ...]
    confirmed: Mapping[str, Sequence[Sequence[float]]]
    importances: Mapping[str, float]

    @property
    def count(self) -> str:
        """'24 trials: 14 complete, 10 pruned'"""
        complete = sum(bool(each.scores) for each in self.trials)
        left = self.plan.section.trial_count - len(self.trials)
        return (
            f"{self.plan.section.trial_count} trials: {complete} complete, {len(self.trials) - complete} pruned or ended early"
            + (f", {left} not run" if left else "")
        )

    def trial(self, slot: str) -> SweepTrial:
        return next(each for each in self.trials if each.slot == slot)

    def spreads(self) -> dict[str, list[Spread]]:
        """The Spread of each metric over the new seeds, by trial."""
        return {
            slot: [spread(scores) for scores in zip(*runs, strict=True)]
            for slot, runs in self.confirmed.items()
            if runs
        }


def read_report(
    plan: SweepPlan, study: "Study", best: Sequence[str], confirmed: Mapping[str, Sequence[Sequence[float]]]
) -> SweepReport:
    """The report of a study, as its storage has it."""
    slots = [str(number) for number in range(plan.section.trial_count)]
    trials = []
    for slot, trial in ended_trials(study, slots).items():
        complete = trial.state.name == "COMPLETE"
        seconds = trial.duration.total_seconds() if trial.duration else 0.0
        scores = tuple(trial.values) if complete and trial.values else ()
        ended = None if complete else str(trial.user_attrs.get(ENDED, "pruned"))
        trials.append(SweepTrial(slot, scores, trial.params, seconds, ended))
    return SweepReport(plan, tuple(trials), tuple(best), confirmed, _importances(study, trials))


def write_report(report: SweepReport) -> None:
    """Write the files of a finished sweep, and print its table."""
    from rich.console import Console

    plan, folder = report.plan, report.plan.folder
    atomic_write_text(folder / "results.json", json.dumps(_as_json(report), indent=1, ensure_ascii=False) + "\n")
    if report.best:
        atomic_write_text(folder / "best.yaml", _best_yaml(report))
    for name, picture in _pictures(report).items():
        atomic_write_bytes(folder / "plots" / f"{name}.png", picture)
    atomic_write_text(folder / "README.md", _readme(report))
    Console().print(_table(report))
    if not report.best:
        logger.warning(f"{plan.loaded.name}: no trial is complete. {folder / 'README.md'} says how each ended")
        return
    logger.info(f"best trial: `hflm run {folder / 'best.yaml'}`; report: {folder / 'README.md'}")


def best_recipe(report: SweepReport) -> Recipe:
    """The recipe of the best trial, complete: it runs by itself."""
    plan = report.plan
    values = decode_values(report.trial(report.best[0]).values, plan.section)
    return load_varied_recipe(plan.recipe, [*plan.sets, f"name={json.dumps(f'{plan.loaded.name}-best')}"], values)


def _best_yaml(report: SweepReport) -> str:
    trial = report.trial(report.best[0])
    scores = zip(report.plan.section.metrics, trial.scores, strict=True)
    found = ", ".join(f"{name} {score:.6g}" for name, score in scores)
    return f"# Trial {trial.slot} of a sweep of {report.plan.loaded.name}: {found}\n{dump_recipe(best_recipe(report))}"


def _importances(study: "Study", trials: Sequence[SweepTrial]) -> dict[str, float]:
    """Optuna's importances of the keys, by the first metric; {} where the trials cannot tell."""
    import warnings

    import optuna

    if len({each.scores[0] for each in trials if each.scores}) < 4:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of trials that are too few or too much alike
        target = (lambda trial: trial.values[0]) if len(study.directions) > 1 else None
        try:
            return optuna.importance.get_param_importances(study, target=target)
        except (ValueError, RuntimeError):  # a key has one value only in the complete trials
            return {}


def _axes(report: SweepReport) -> list[Axis]:
    axes = []
    for key, dimension in report.plan.section.dimensions.items():
        if isinstance(dimension, Choices):
            axes.append(Axis(key, tuple(map(str, dimension.labels)), False))
        else:
            axes.append(Axis(key, None, dimension.log))
    return axes


def _pictures(report: SweepReport) -> dict[str, bytes]:
    """The plots by name; those that need complete trials are left out where there are none."""
    section, trials = report.plan.section, report.trials
    metrics, maximized = section.metrics, section.directions[0] == "maximize"
    if not any(each.scores for each in trials):
        return {}
    pictures = {"history": sweep_plots.history(trials, metrics[0], maximized)}
    if report.importances:
        pictures["importance"] = sweep_plots.importance(report.importances)
    pictures["parallel_coordinates"] = sweep_plots.parallel_coordinates(trials, _axes(report), metrics[0], maximized)
    pictures["slices"] = sweep_plots.slices(trials, _axes(report), metrics[0])
    if len(metrics) == 2:
        pictures["pareto_front"] = sweep_plots.pareto_front(trials, report.best, metrics)
    spreads = {slot: found[0] for slot, found in report.spreads().items()}
    if spreads:
        searched = {slot: report.trial(slot).scores[0] for slot in spreads}
        pictures["confirmation"] = sweep_plots.confirmation(searched, spreads, metrics[0])
    return pictures


TITLES = {
    "history": "Score by trial",
    "importance": "Importance of each key, by Optuna's PED-ANOVA",
    "parallel_coordinates": "Values of each complete trial; darker is better",
    "slices": "Score over each key; darker points came later",
    "pareto_front": "Pareto front",
    "confirmation": "The best trials with new seeds",
}


def _readme(report: SweepReport) -> str:
    plan, section = report.plan, report.plan.section
    metrics = " and ".join(
        f"`{metric}` ({direction}d)" for metric, direction in zip(section.metrics, section.directions, strict=True)
    )
    lines = [f"# Sweep of {plan.loaded.name}", "", f"{report.count}. Optimised: {metrics}.", ""]
    if report.best:
        front = "no other trial is better in both metrics" if len(section.metrics) == 2 else "best first"
        lines += [f"## Best trials ({front})", "", markdown_table(*_ranking(report)), ""]
        lines += ["`best.yaml` is the first of them as a recipe of its own: `hflm run best.yaml`.", ""]
    lines += _confirmation_lines(report)
    drawn = _picture_names(report)
    lines += [line for name in drawn for line in (f"## {TITLES[name]}", "", f"![{TITLES[name]}](plots/{name}.png)", "")]
    early = [each for each in report.trials if each.ended is not None and not each.ended.startswith("pruned")]
    if early:
        keys = list(section.dimensions)
        cells = [(each.slot, *(_shown(each.values.get(key)) for key in keys), each.ended) for each in early]
        lines += ["## Trials that could not be trained", "", markdown_table(("trial", *keys, "why"), cells), ""]
    return "\n".join(lines)


def _picture_names(report: SweepReport) -> list[str]:
    return [name for name in TITLES if (report.plan.folder / "plots" / f"{name}.png").exists()]


def _ranking(report: SweepReport) -> tuple[list[str], list[list[str]]]:
    """The headings and rows of the table of the best trials."""
    section = report.plan.section
    headings = ["trial", *section.metrics, *section.dimensions, "time"]
    rows = []
    for slot in report.best[:SHOWN]:
        trial = report.trial(slot)
        scores = [f"{score:.5g}" for score in trial.scores]
        values = [_shown(trial.values.get(key)) for key in section.dimensions]
        rows.append([slot, *scores, *values, format_duration(trial.seconds)])
    return headings, rows


def _confirmation_lines(report: SweepReport) -> list[str]:
    spreads = report.spreads()
    if not spreads:
        return []
    rows = []
    for slot, found in spreads.items():
        for metric, score, each in zip(report.plan.section.metrics, report.trial(slot).scores, found, strict=True):
            interval = "" if each.ci95 is None else f"{each.ci95[0]:.5g} to {each.ci95[1]:.5g}"
            rows.append((slot, metric, f"{score:.5g}", f"{each.mean:.5g}", interval, each.n))
    headings = ("trial", "metric", "in the search", "mean of new seeds", "95 % interval", "seeds")
    text = (
        "The best of many trials is in part the luckiest: its score in the search is optimistic. These are scores of the "
        "same values with seeds that the search has not seen; the interval is Student's t for their mean."
    )
    return ["## New seeds", "", text, "", markdown_table(headings, rows), ""]


def _table(report: SweepReport) -> "Table":
    from rich.table import Table
    from rich.text import Text

    headings, rows = _ranking(report)
    headings = [_last_part(heading, report) for heading in headings]
    table = Table(title=Text(f"{report.plan.loaded.name}: {report.count}"), title_justify="left")
    numbers = {"trial", *report.plan.section.metrics}
    spreads = report.spreads()
    for heading in [*headings, *(["new seeds"] if spreads else [])]:
        table.add_column(Text(heading), justify="right" if heading in numbers else "left", overflow="fold")
    for row in rows:
        found = spreads.get(row[0])
        confirmed = "" if found is None else ", ".join(_shown_spread(each) for each in found)
        table.add_row(*map(Text, [*row, *([confirmed] if spreads else [])]))
    return table


def _last_part(heading: str, report: SweepReport) -> str:
    """The end of a key path, where no other key ends so: a terminal is narrow."""
    keys = list(report.plan.section.dimensions)
    last = heading.rpartition(".")[2]
    return last if heading in keys and sum(key.rpartition(".")[2] == last for key in keys) == 1 else heading


def _shown_spread(found: Spread) -> str:
    interval = "" if found.ci95 is None else f" [{found.ci95[0]:.5g}, {found.ci95[1]:.5g}]"
    return f"{found.mean:.5g}{interval}"


def _shown(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _as_json(report: SweepReport) -> dict[str, Any]:
    section = report.plan.section
    return {
        "recipe": report.plan.loaded.name,
        "metrics": dict(zip(section.metrics, section.directions, strict=True)),
        "trials": [
            {**asdict(each), "folder": str(report.plan.trial_folder(each.slot).relative_to(report.plan.folder))}
            for each in report.trials
        ],
        "best": list(report.best),
        "importances": dict(report.importances),
        "confirmed": {slot: [asdict(each) for each in found] for slot, found in report.spreads().items()},
    }
