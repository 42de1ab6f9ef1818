"""Choice: any prompt over any columns, and one of a few labels after it, as in sentiment.

A row      {"premise": "A man sleeps.", "hypothesis": "A man is awake.", "label": 2}
its recipe  kind: choice, prompt: "{{ premise }} Question: {{ hypothesis }} Yes, maybe or no?\\nAnswer:",
            labels: ["yes", "maybe", "no"]                     (quoted: a bare yes is a truth value in YAML)
its prompt "A man sleeps. Question: A man is awake. Yes, maybe or no?\\nAnswer:"
its target "no"
"""

from hflm.tasks import cells, sentiment

COLUMNS = ("label",)
PROMPT = None  # the recipe's own
LONG = None  # the longest text that the prompt shows
MAX_NEW_TOKENS = None
STOP = ()
METRICS = ("accuracy", "macro_f1", "mcc")
baselines = sentiment.baselines


def fields(task, row):
    return {"labels": tuple(task.labels)}


def references(task, row):
    return (cells.label(row, task.label, tuple(task.labels)),)
