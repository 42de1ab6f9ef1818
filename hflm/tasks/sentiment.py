"""Sentiment: a text and one of a few words. The words are scored by the model, nothing is generated.

A row      {"text": "a stirring , funny film", "label": 1}       (or the label's word itself)
its recipe  kind: sentiment, labels: [negative, positive]
its prompt "Review: a stirring , funny film\\nSentiment:"
its target "positive"
"""

from collections import Counter

from hflm.tasks import cells

COLUMNS = ("text", "label")
PROMPT = "Review: {{ text }}\nSentiment:"
LONG = "text"
MAX_NEW_TOKENS = None
STOP = ()
METRICS = ("accuracy", "macro_f1", "mcc")


def fields(task, row):
    return {"text": cells.text(row, task.text), "labels": tuple(task.labels)}


def references(task, row):
    return (cells.label(row, task.label, tuple(task.labels)),)


def baselines(task, examples, texts):
    counts = Counter(example.target for example in examples)
    return {"majority": [max(task.labels, key=counts.__getitem__)] * len(examples)}
