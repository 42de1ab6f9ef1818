"""Translation.

A row      {"translation": {"en": "Two men are outside.", "de": "Zwei Männer sind im Freien."}}
           (or the two languages as columns of their own; the target may be a list of several references)
its recipe  kind: translation, source: en, target: de, languages: [English, German]
its prompt "English: Two men are outside.\\nGerman:"
its target "Zwei Männer sind im Freien."
"""

from hflm.tasks import cells

COLUMNS = ("source", "target")
PROMPT = "{{ languages[0] }}: {{ source }}\n{{ languages[1] }}:"
LONG = "source"
MAX_NEW_TOKENS = 128
STOP = ("\n",)
METRICS = ("bleu", "chrf", "ter")


def fields(task, row):
    return {"source": cells.text(row, task.source), "languages": tuple(task.languages or (task.source, task.target))}


def references(task, row):
    return cells.texts(row, task.target)


def baselines(task, examples, sources):
    return {"copy": list(sources)}
