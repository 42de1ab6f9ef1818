"""The report on a cleaned corpus: what each step left out, as JSON and as the terminal's table."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hflm.core import atomic_write_text, plain_text, shorten

if TYPE_CHECKING:
    from rich.table import Table

SAMPLES = 3  # of what each step left out
LONGEST_SAMPLE = 200  # characters


@dataclass(frozen=True)
class CleaningStep:
    """What one step left out; `samples` are texts cut short, each with its "why" or the near-duplicate that stays:
    {"text": ..., "like": ...}, or "like in validation".
    """

    step: str
    setting: Any
    removed: int
    samples: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class CleaningReport:
    """Documents before and after, how many changed by normalization, and each step."""

    rows_in: int
    rows_out: int
    normalized: int
    steps: tuple[CleaningStep, ...]

    def __str__(self) -> str:
        left = ", ".join(f"{step.step} {step.removed:,}" for step in self.steps if step.removed)
        return f"{self.rows_in:,} documents in, {self.rows_out:,} out" + (f"; left out by {left}" if left else "")


class RemovalCounter:
    """Counts what each step leaves out and keeps its first SAMPLES texts."""

    def __init__(self) -> None:
        self._steps: dict[str, tuple[int, tuple[dict[str, str], ...]]] = {}

    def add(self, step: str, text: str, **details: str) -> None:
        removed, samples = self._steps.get(step, (0, ()))
        if removed < SAMPLES:
            samples = (*samples, {key: _shorten(value) for key, value in {"text": text, **details}.items()})
        self._steps[step] = removed + 1, samples

    def steps(self, settings: dict[str, Any]) -> tuple[CleaningStep, ...]:
        """A CleaningStep for each of {step: setting} that is switched on."""
        return tuple(
            CleaningStep(step, setting, *self._steps.get(step, (0, ())))
            for step, setting in settings.items()
            if setting
        )


def cleaning_table(report: CleaningReport) -> "Table":
    """The terminal's table of a CleaningReport."""
    from rich.table import Table

    table = Table(caption=plain_text(report))
    table.add_column("cleaning")
    table.add_column("left out", justify="right")
    table.add_column("for example")
    for step in report.steps:
        samples = "; ".join(
            " ".join(f"{sample.get('why', '')} {sample['text'][:60]!r}".split()) for sample in step.samples[:1]
        )
        name = f"{step.step} {describe_setting(step.setting)}".strip()
        table.add_row(plain_text(name), f"{step.removed:,}", plain_text(samples))
    return table


def write_report(report: CleaningReport, path: Path) -> None:
    """Write a CleaningReport as JSON."""
    atomic_write_text(path, json.dumps(dataclasses.asdict(report), indent=2, ensure_ascii=False) + "\n")


def describe_setting(setting: Any) -> str:
    """{"min": 0.5, "max": None} -> 'min 0.5', 0.4 -> '0.4', True -> ''."""
    if isinstance(setting, dict):
        return ", ".join(f"{key} {value:g}" for key, value in setting.items() if value is not None)
    return "" if setting is True else f"{setting:g}"


def _shorten(text: str) -> str:
    return shorten(text if len(text) <= LONGEST_SAMPLE else f"{text[:LONGEST_SAMPLE]} [...]")
