"""What a run wrote down line by line, read back: a stage's metrics.jsonl and a task's predictions."""

import json
import re
import statistics

from hflm.evaluation import plots, results


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
    """Rows of a task's predictions, as (why it is shown, row): the first, the two best and the two worst.

    By the main metrics of each row; a choice among labels by its margin: how many nats the right label is likelier
    than the best of the others. Fewer than four rows have one best and one worst.
    """
    rows = [row for row in read_lines(run / "benchmark" / "predictions" / f"{name}.jsonl") if "prompt" in row]
    if not rows:
        return []
    metrics = [metric for metric in task.main() if all(metric in row.get("scores", {}) for row in rows)]
    margins = [_margin(row) for row in rows] if all("log_likelihoods" in row for row in rows) else None
    chosen = {0: ["First"]}
    if metrics or margins:

        def rank(index):
            if margins:
                return [margins[index]]
            scores = rows[index]["scores"]
            return [-scores[metric] if metric in results.LOWER_IS_BETTER else scores[metric] for metric in metrics]

        count = 2 if len(rows) > 3 else 1
        # Among equals a row that is not shown yet says more.
        best = sorted(range(len(rows)), key=lambda index: (rank(index), index not in chosen), reverse=True)[:count]
        rest = sorted(set(range(len(rows))) - set(best)) or best
        worst = sorted(rest, key=lambda index: (rank(index), index in chosen))[:count]
        for index in best:
            chosen.setdefault(index, []).append("best")
        for index in worst:
            chosen.setdefault(index, []).append("worst")
    shown = []
    for index, why in chosen.items():
        values = [f"{metric} {results.number(metric, rows[index]['scores'][metric])}" for metric in metrics]
        values += [f"margin {margins[index]:.2f}"] if margins else []
        title = f"{' and '.join(why).capitalize()} row"
        shown.append((f"{title} ({', '.join(values)})" if values else title, rows[index]))
    return shown


def _margin(row):
    likelihoods, [right, *_] = row["log_likelihoods"], row["references"]
    return likelihoods[right] - max(value for label, value in likelihoods.items() if label != right)
