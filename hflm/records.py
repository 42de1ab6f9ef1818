"""What a run wrote down line by line, read back: a stage's metrics.jsonl and a task's predictions."""

import json
import re
import statistics

from hflm import plots, results


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
            if name and "step" in row and plots.finite(value):
                name += f" ({validation[1]})" if validation and validation[1] else ""
                curves.setdefault(name, {})[row["step"]] = value
        if plots.finite(row.get("tokens_per_second")):
            speeds.append(row["tokens_per_second"])
    return {"curves": curves, "speed": statistics.median(speeds) if speeds else None}


def samples(run, name, task):
    """Up to three rows of a task's predictions, as (why it is shown, row): the first, the best and the worst."""
    rows = read_lines(run / "benchmark" / "predictions" / f"{name}.jsonl")
    if not rows:
        return []
    metrics = [metric for metric in task.main() if all(metric in row.get("scores", {}) for row in rows)]
    chosen = {0: ["First"]}
    if metrics:

        def rank(index):
            scores = rows[index]["scores"]
            return [-scores[metric] if metric in results.LOWER_IS_BETTER else scores[metric] for metric in metrics]

        # Among equals a row that is not shown yet says more.
        best = max(range(len(rows)), key=lambda index: (rank(index), index not in chosen))
        chosen.setdefault(best, []).append("best")
        worst = min(range(len(rows)), key=lambda index: (rank(index), index in chosen))
        chosen.setdefault(worst, []).append("worst")
    shown = []
    for index, why in chosen.items():
        values = ", ".join(f"{metric} {results.number(metric, rows[index]['scores'][metric])}" for metric in metrics)
        title = f"{' and '.join(why).capitalize()} row"
        shown.append((f"{title} ({values})" if values else title, rows[index]))
    return shown
