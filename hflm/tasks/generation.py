"""Generation: any prompt over any columns, and a text to be written after it.

A row      {"name": "The Punter", "food": "Italian", "text": "The Punter serves Italian food."}
its recipe  kind: generation, prompt: "name: {{ name }}, food: {{ food }}\\nText:", target: text
its prompt "name: The Punter, food: Italian\\nText:"
its target "The Punter serves Italian food."   (the column may hold a list of several references)
"""

from hflm.tasks import cells

COLUMNS = ("target",)
PROMPT = None  # the recipe's own
LONG = None  # the longest text that the prompt shows
MAX_NEW_TOKENS = 128
STOP = ("\n\n",)
METRICS = ("rougeL", "chrf", "exact_match")


def fields(task, row):
    return {}


def references(task, row):
    return cells.texts(row, task.target)


def baselines(task, examples, longest):
    return {}
