"""Reads what a run wrote: .json files, .jsonl files, the loss curves of a stage's metrics.jsonl."""

import json
import math
import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard


@dataclass(frozen=True)
class LossCurves:
    """A stage's losses, {"training": {step: loss}, "validation": ...}, and its median speed in tokens per second.

    `scores` are the other metrics of its evaluations: {"sentiment_accuracy": {step: value}, "bits_per_byte": ...}.
    """

    curves: dict[str, dict[int, float]]
    tokens_per_second: float | None
    scores: dict[str, dict[int, float]] = field(default_factory=dict)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a .json file, or {} when there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, [] without one. A line that a killed process left incomplete is skipped."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def read_loss_curves(path: Path) -> LossCurves:
    """The LossCurves of a metrics.jsonl. A resumed run logs some steps twice: the last value counts."""
    curves: dict[str, dict[int, float]] = {}
    scores: dict[str, dict[int, float]] = {}
    speeds = []
    for row in read_json_lines(path):
        for key, value in row.items():
            validation = re.fullmatch(r"eval_(?:(.+)_)?loss", key)
            name = "training" if key == "loss" else "validation" if validation else None
            if name and "step" in row and is_finite_number(value):
                name += f" ({validation[1]})" if validation and validation[1] else ""
                curves.setdefault(name, {})[row["step"]] = value
            elif key.startswith("eval_") and key != "eval_runtime" and "step" in row and is_finite_number(value):
                scores.setdefault(key.removeprefix("eval_"), {})[row["step"]] = value
        if is_finite_number(row.get("tokens_per_second")):
            speeds.append(row["tokens_per_second"])
    return LossCurves(curves, statistics.median(speeds) if speeds else None, scores)


def is_finite_number(value: object) -> TypeGuard[int | float]:
    """Whether a logged value is a number that can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)
