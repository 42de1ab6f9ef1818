"""Read the predictions of a run, row by row, for a comparison."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from hflm.core import UserError

Row = dict[str, Any]  # one line of predictions
RowKey = tuple[str, int]  # the row's id, and its position among the rows with that id


def read_predictions(path: Path, is_text: bool) -> dict[RowKey, Row]:
    """The rows of a predictions file; `is_text` for language modelling. UserError names the file and line."""
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Run the benchmark again: it writes the predictions.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    rows: dict[RowKey, Row] = {}
    seen: Counter[str] = Counter()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: not JSON: {error}") from None
        if problem := _problem(row, is_text):
            raise UserError(f"{path}:{number}: not a line of predictions: {problem}")
        rows[row["id"], seen[row["id"]]] = row
        seen[row["id"]] += 1
    return rows


def _problem(row: Any, is_text: bool) -> str | None:
    """What is wrong with one line of predictions, or None."""
    if not isinstance(row, dict):
        return "it is not a JSON object"
    kinds = {"nats": (int, float), "tokens": int, "bytes": int} if is_text else {"prompt": str, "prediction": str}
    for key, kind in {"id": str, **kinds}.items():
        if not isinstance(row.get(key), kind):
            return f"{key} is missing" if key not in row else f"{key} cannot be {json.dumps(row[key])[:60]}"
    if is_text:
        valid = math.isfinite(row["nats"]) and row["tokens"] > 0 and row["bytes"] >= 0
        return None if valid else "nats must be finite, tokens above 0 and bytes not below"
    references = row.get("references")
    if not isinstance(references, list) or not references or not all(isinstance(text, str) for text in references):
        return "references must be a list of texts"
    return None if isinstance(row.get("log_likelihoods", {}), dict) else "log_likelihoods must be an object"
