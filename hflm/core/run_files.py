"""What a run wrote, read back: .json files, .jsonl files, a stage's metrics.jsonl."""

import json
import math
import re
import statistics


def read_json(path):
    """The object in a .json file, or {} when there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def read_lines(path):
    """The objects of a .jsonl file, [] without one. A line that a killed process left torn is passed over."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def learning(path):
    """A stage's curves by step, and its median speed. A resumed run logs some steps twice: the last one counts."""
    curves, speeds = {}, []
    for row in read_lines(path):
        for key, value in row.items():
            validation = re.fullmatch(r"eval_(?:(.+)_)?loss", key)
            name = "training" if key == "loss" else "validation" if validation else None
            if name and "step" in row and finite(value):
                name += f" ({validation[1]})" if validation and validation[1] else ""
                curves.setdefault(name, {})[row["step"]] = value
        if finite(row.get("tokens_per_second")):
            speeds.append(row["tokens_per_second"])
    return {"curves": curves, "speed": statistics.median(speeds) if speeds else None}


def finite(value):
    """Whether a logged value is a number that can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)
