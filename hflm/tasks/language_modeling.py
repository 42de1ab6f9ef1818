"""Language modelling: no prompt, the whole text is the target; nothing is generated.

A row      {"text": " = Robert Boulter = \\n"}
its prompt ""
its target " = Robert Boulter = \\n"            (unstripped: bits per byte count every byte)

Blank documents are left out. With `rows: lines` the rows are one running text, each closed by one line break: a
single example.
"""

from hflm.tasks import cells

COLUMNS = ("text",)
PROMPT = ""
LONG = None
MAX_NEW_TOKENS = None
STOP = ()
METRICS = ("perplexity", "bits_per_byte")


def fields(task, row):
    return {}


def references(task, row):
    text = cells.cell(row, task.text)
    if not isinstance(text, str):
        raise cells.BadValue(f"{task.text} is {cells.shown(text)}, not text")
    return (text.removesuffix("\n") + "\n" if task.rows == "lines" else text,)


def baselines(task, examples, texts):
    return {}
