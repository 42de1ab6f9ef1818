"""Summarization.

A row      {"document": "#Person1#: Have you had enough time?\\n#Person2#: Yes, we are ready to order.",
            "summary": "#Person2# is ready to order."}   (or a list of several reference summaries)
its prompt "#Person1#: Have you had enough time?\\n#Person2#: Yes, we are ready to order.\\nSummary:"
its target "#Person2# is ready to order."
"""

from hflm.tasks import cells
from hflm.tasks.sentences import lead

COLUMNS = ("document", "summary")
PROMPT = "{{ document }}\nSummary:"
LONG = "document"
MAX_NEW_TOKENS = 128
STOP = ("\n\n",)  # a summary may have lines (CNN/DailyMail's highlights); shots are separated by a blank line
METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def fields(task, row):
    return {"document": cells.text(row, task.document)}


def references(task, row):
    return cells.texts(row, task.summary)


def baselines(task, examples, documents):
    return {"lead-3": [lead(document, 3) for document in documents]}
