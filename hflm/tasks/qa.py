"""Question answering over a context.

A row      {"context": "The tower is 324 metres tall.", "question": "How tall is the tower?",
            "answers": {"text": ["324 metres", "324"], "answer_start": [13, 13]}}   (or a list of texts, or one text)
its prompt "The tower is 324 metres tall.\\nQuestion: How tall is the tower?\\nAnswer:"
its target "324 metres"

A question without an answer has an empty list: its target is the word `unanswerable`, its reference "".
"""

from hflm.core import split_words
from hflm.tasks import cells
from hflm.tasks.sentences import sentences

COLUMNS = ("context", "question", "answers")
PROMPT = "{{ context }}\nQuestion: {{ question }}\nAnswer:"
LONG = "context"
MAX_NEW_TOKENS = 32
STOP = ("\n",)
METRICS = ("exact_match", "f1")


def fields(task, row):
    return {"context": cells.text(row, task.context), "question": cells.text(row, task.question)}


def references(task, row):
    column, answers = task.answers, cells.cell(row, task.answers)
    if isinstance(answers, dict):
        column = f"{task.answers}.text"
        answers = cells.cell({f"{task.answers}.{key}": value for key, value in answers.items()}, column)
    if isinstance(answers, list | tuple) and not answers:
        return ("",)
    return cells.texts({column: answers}, column)


def baselines(task, examples, contexts):
    return {
        "best sentence": [
            max(sentences(context), key=lambda sentence: _overlap(sentence, example.fields[task.question]), default="")
            for example, context in zip(examples, contexts, strict=True)
        ]
    }


def _overlap(sentence, question):
    return len(set(split_words(sentence)) & set(split_words(question)))
