"""The chat template, rendered as transformers does, beside the prompts that the tasks themselves make."""

import pytest
from test_tasks import task

from hflm import tasks
from hflm.tasks import chat_template

SENTIMENT = task("sentiment", text="sentence", prompt="Review {of: 🙂 \"it\" '{{ sentence }}'\n{# no #}Sentiment:")
QA = task("qa")
TRANSLATION = task("translation", languages=("English", "Lumo"))
TASKS = {"sentiment": SENTIMENT, "qa": QA, "translation": TRANSLATION, "stories": task("language_modeling")}
FILM = "Review {of: 🙂 \"it\" 'a film'\nSentiment:"
TOWER = "The tower\nis tall.\nQuestion: How tall?\nAnswer:"


def user(text):
    return {"role": "user", "content": text}


def system(text):
    return {"role": "system", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def rendered(tokenizer, named, messages):
    tokenizer.chat_template = chat_template(named)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)["input_ids"]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert tokenizer.decode(ids) == text, "no token is added"
    return text


ONE = [
    ("sentiment", [user(" a film\n")], FILM),
    ("sentiment", [user(FILM)], FILM),
    ("sentiment", [system("sentiment"), user("a film")], FILM),
    ("sentiment", [system("Be brief."), user("a film")], f"Be brief.\n\n{FILM}"),
    ("sentiment", [user("a film"), assistant("good "), user("a film")], f"{FILM} good\n\n{FILM}"),
    ("sentiment", [user("{{ 7 * 7 }} {% raw %}")], FILM.replace("a film", "{{ 7 * 7 }} {% raw %}")),
    ("translation", [user("It rains.\nNow.")], "English: It rains.\nNow.\nLumo:"),
    ("qa", [user("The tower\nis tall.\nHow tall?")], TOWER),
    ("qa", [user(TOWER)], TOWER),
    ("qa", [user("How tall?")], "How tall?"),
    ("stories", [user("Once")], "Once"),
]


@pytest.mark.parametrize(("name", "messages", "expected"), ONE)
def test_one_task(tokenizer, name, messages, expected):
    assert rendered(tokenizer, {name: TASKS[name]}, messages) == expected


SEVERAL = [
    ([user("a film")], "a film"),
    ([user(FILM)], FILM),
    ([system("sentiment"), user("a film")], FILM),
    ([system(" qa\n"), user("The tower\nis tall.\nHow tall?")], TOWER),
    ([system("stories"), user("Once")], "stories\n\nOnce"),
    (
        [system("sentiment"), user("a film"), assistant("good"), system("translation"), user("Rain.")],
        f"{FILM} good\n\nEnglish: Rain.\nLumo:",
    ),
    ([user("a"), user("b"), assistant("c"), user("d")], "a\n\nb c\n\nd"),
    ([assistant(None), user(None)], " "),
]


@pytest.mark.parametrize(("messages", "expected"), SEVERAL)
def test_several_tasks(tokenizer, messages, expected):
    assert rendered(tokenizer, TASKS, messages) == expected


def test_a_conversation_reads_as_shots_do(tokenizer):
    rows = [{"context": f"{name} is here.", "question": "Who?", "answers": name} for name in ("Ann", "Ben", "Cleo")]
    *shots, last = tasks.read_examples(QA, rows, "")[0]
    messages = [
        message for row in rows for message in (user(f"{row['context']}\n{row['question']}"), assistant(row["answers"]))
    ][:-1]
    assert rendered(tokenizer, {"qa": QA}, messages) == tasks.with_shots(QA, [last], shots)[0].prompt


PIECES = [
    (task("sentiment"), ("Review: ", "\nSentiment:")),
    (task("summarization"), ("", "\nSummary:")),
    (task("generation"), ("name: ", "\nText:")),
    (task("choice"), ("", " So ", "?")),
    (task("choice", prompt="{{ labels | join(', ') }}? {{ text }}"), ("yes, no? ", "")),
    (task("choice", prompt="{{ text }} or {{ text }}"), None),
    (task("choice", prompt="{{ text[:100] }}:"), None),
    (task("choice", prompt="{{ text | upper }}:"), None),
    (task("choice", prompt="{% if text | length > 9 %}Long{% endif %} {{ text }}:"), None),
    (task("choice", prompt="{{ row.text }}:"), None),
    (task("choice", prompt="{{ 1 // text }}:"), None),
    (task("choice", prompt="Choose:"), None),
    (task("language_modeling"), None),
]


@pytest.mark.parametrize(("a_task", "expected"), PIECES)
def test_the_fixed_pieces_of_a_prompt(a_task, expected):
    assert tasks.prompt_segments(a_task) == expected
