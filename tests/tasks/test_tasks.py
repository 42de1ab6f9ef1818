import doctest
import importlib
import subprocess
import sys

import pytest

from hflm import tasks
from hflm.core import DataError
from hflm.data import load_rows, resolve_data
from hflm.recipe import Data, kind_names, kind_sections
from hflm.tasks._cells import BadValue, label
from hflm.tasks._sentences import lead, sentences

KINDS = dict(zip(kind_names(), kind_sections(), strict=True))
COLUMNS = {
    "translation": {"source": "en", "target": "de"},
    "summarization": {"document": "document", "summary": "summary"},
    "sentiment": {"text": "text", "label": "label", "labels": ("negative", "positive")},
    "qa": {"context": "context", "question": "question", "answers": "answers"},
    "generation": {"prompt": "name: {{ name }}\nText:", "target": "text"},
    "choice": {"prompt": "{{ premise }} So {{ hypothesis }}?", "label": "label", "labels": ("yes", "no")},
    "language_modeling": {"text": "text", "rows": "documents"},
    "chat": {},
}


def task(kind, **changes):
    return KINDS[kind](**{"data": {"path": "some/data"}, **COLUMNS[kind], **changes})


def one(a_task, row):
    (example,), skipped = tasks.read_examples(a_task, [row], "rows.jsonl")
    assert skipped == []
    return example


CONTEXT = "The tower is 324 metres tall."
QUESTION = "How tall is the tower?"
QA_PROMPT = f"{CONTEXT}\nQuestion: {QUESTION}\nAnswer:"


@pytest.mark.parametrize(
    "a_task, row, prompt, target, references",
    [
        (
            task("translation"),
            {"translation": {"en": "Two men are outside.", "de": "Zwei Männer sind im Freien. "}},
            "en: Two men are outside.\nde:",
            "Zwei Männer sind im Freien.",
            None,
        ),
        (
            task("translation", source="zh", target="en", languages=("Chinese", "English")),
            {"zh": "他在北京工作。", "en": ["He works in Beijing.", " His job is in Beijing."]},
            "Chinese: 他在北京工作。\nEnglish:",
            "He works in Beijing.",
            ("He works in Beijing.", "His job is in Beijing."),
        ),
        (  # columns whose names are the other way round
            task("translation", source="target", target="source", languages=("de", "en")),
            {"source": "A dog", "target": "Ein Hund"},
            "de: Ein Hund\nen:",
            "A dog",
            None,
        ),
        (task("summarization"), {"document": " a\nb ", "summary": ["s", "t"]}, "a\nb\nSummary:", "s", ("s", "t")),
        (task("sentiment"), {"text": "dull ", "label": 0}, "Review: dull\nSentiment:", "negative", None),
        (task("sentiment"), {"text": "good", "label": "positive"}, "Review: good\nSentiment:", "positive", None),
        (
            task("qa"),
            {
                "context": CONTEXT,
                "question": f" {QUESTION}",
                "answers": {"text": ["324 metres", "324"], "answer_start": [13, 13]},
            },
            QA_PROMPT,
            "324 metres",
            ("324 metres", "324"),
        ),
        (task("qa"), {"context": CONTEXT, "question": QUESTION, "answers": ["324"]}, QA_PROMPT, "324", None),
        (task("qa"), {"context": CONTEXT, "question": QUESTION, "answers": "324"}, QA_PROMPT, "324", None),
        (
            task("qa"),
            {"context": CONTEXT, "question": QUESTION, "answers": {"text": [], "answer_start": []}},
            QA_PROMPT,
            "unanswerable",
            ("",),
        ),
        (task("qa"), {"context": CONTEXT, "question": QUESTION, "answers": []}, QA_PROMPT, "unanswerable", ("",)),
        (task("generation"), {"name": "Punter", "text": "A pub."}, "name: Punter\nText:", "A pub.", None),
        (task("choice"), {"premise": "A.", "hypothesis": "B", "label": "1"}, "A. So B?", "no", None),
        (task("language_modeling"), {"text": " = A = \n"}, "", " = A = \n", None),
    ],
)
def test_a_row_becomes_prompt_target_and_references(a_task, row, prompt, target, references):
    example = one(a_task, row)
    assert (example.prompt, example.target) == (prompt, target)
    assert example.references == (references or (target,))


@pytest.mark.parametrize(
    "kind, prompt, row, expected",
    [
        ("sentiment", "{{ sentence }} =>  \n", {"sentence": "good", "label": 1}, "good =>"),
        (
            "sentiment",
            "{{ text }} {{ labels | join('/') }}?",
            {"sentence": "good", "label": 1},
            "good negative/positive?",
        ),
        ("sentiment", "{{ text }}", {"sentence": "good", "text": "the row's own", "label": 1}, "the row's own"),
        ("sentiment", "{{ a }}", {"sentence": "x", "label": 1, "a": "{{ 7 * 7 }}{% for %}"}, "{{ 7 * 7 }}{% for %}"),
        ("sentiment", "{{ sentence | upper }}<b>&", {"sentence": "a & b", "label": 1}, "A & B<b>&"),
        ("sentiment", "{% if x is defined %}x{% else %}y{% endif %}", {"sentence": "s", "label": 0}, "y"),
    ],
)
def test_custom_prompts(kind, prompt, row, expected):
    assert one(task(kind, prompt=prompt, text="sentence"), row).prompt == expected


@pytest.mark.parametrize(
    "prompt, message",
    [
        ("{{ sentense }}", "'sentense' is undefined.*The columns are: .*sentence"),
        ("{{ sentence.nothing.more }}", "nothing"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ sentence + 1 }}", "row 1: prompt"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ labels.append('x') }}", "row 1: prompt"),
    ],
)
def test_prompts_that_do_not_render(prompt, message):
    with pytest.raises(DataError, match=message):
        one(task("sentiment", prompt=prompt, text="sentence"), {"sentence": "good", "label": 1})


def test_default_prompts_do_not_render_the_data_either():
    text = "{{ 7 * 7 }} {% raw %} {{ undefined }}"
    assert one(task("sentiment"), {"text": text, "label": 1}).prompt == f"Review: {text}\nSentiment:"
    shot = one(task("sentiment"), {"text": text, "label": 0})
    (example,) = tasks.with_shots(task("sentiment"), [shot], [shot])
    assert example.prompt == f"Review: {text}\nSentiment: negative\n\nReview: {text}\nSentiment:"


@pytest.mark.parametrize(
    "row, identity", [({"id": "5733e"}, "5733e"), ({"id": 7}, "7"), ({"id": None}, "0"), ({}, "0")]
)
def test_ids(row, identity):
    assert one(task("sentiment"), {"text": "good", "label": 1, **row}).id == identity


@pytest.mark.parametrize(
    "value, labels, expected",
    [
        (0, ("negative", "positive"), "negative"),
        ("1", ("negative", "positive"), "positive"),
        (" positive ", ("negative", "positive"), "positive"),
        (1, ("1", "2", "3"), "1"),
        ("3", ("1", "2", "3"), "3"),
        ("积极", ("消极", "积极"), "积极"),
        ("cafe\u0301", ("the", "caf\u00e9"), "caf\u00e9"),
    ],
)
def test_labels(value, labels, expected):
    assert label({"label": value}, "label", labels) == expected


@pytest.mark.parametrize("value", [2, -1, "-1", True, None, 1.0, "Positive", "", "²", [1]])
def test_labels_that_are_none(value):
    with pytest.raises(BadValue, match="expected one of negative, positive, or a number from 0 to 1") as error:
        label({"label": value}, "label", ("negative", "positive"))
    assert ("no labels" in str(error.value)) is (value in (-1, "-1"))


@pytest.mark.parametrize(
    "value, labels", [(0, ("1", "2", "3", "4", "5")), ("0", ("1", "2")), (2, ("0", "1", "many")), (0, ("-1", "1"))]
)
def test_labels_that_are_numbers_are_never_positions(value, labels):
    with pytest.raises(
        BadValue, match=f"expected one of {', '.join(labels)}\\. Labels that are numbers are the column"
    ):
        label({"label": value}, "label", labels)


@pytest.mark.parametrize(
    "kind, row, message",
    [
        ("sentiment", {"text": None, "label": 0}, "row 2: text is null"),
        ("sentiment", {"text": "  ", "label": 0}, "row 2: text is empty"),
        ("sentiment", {"text": {"a": 1}, "label": 9}, "row 2: text is {'a': 1}, not text; label is 9; expected one of"),
        ("sentiment", {"label": 0}, "row 2: text is missing"),
        ("summarization", {"document": "d", "summary": []}, "row 2: summary is an empty list"),
        ("summarization", {"document": "d", "summary": ["a", None]}, r"row 2: summary\[1\] is null"),
        ("qa", {"context": "c", "question": "q", "answers": {"text": [""]}}, r"row 2: answers.text\[0\] is empty"),
        ("qa", {"context": "c", "question": "q", "answers": None}, "row 2: answers is null"),
        ("qa", {"context": "c", "question": "q", "answers": {"start": 1}}, "row 2: answers.text is missing"),
        ("translation", {"translation": {"en": "a", "de": ""}}, "row 2: de is empty"),
        ("generation", {"name": "n", "text": " "}, "row 2: text is empty"),
    ],
)
def test_bad_rows_are_named_or_skipped(kind, row, message):
    good = {
        "sentiment": {"text": "t", "label": 1},
        "summarization": {"document": "d", "summary": "s"},
        "qa": {"context": "c", "question": "q", "answers": "a"},
        "translation": {"translation": {"en": "a", "de": "b"}},
        "generation": {"name": "n", "text": "t"},
    }[kind]
    with pytest.raises(DataError, match=rf"(?s)^rows.jsonl: 1 of 3 rows cannot be used.*\n  {message}"):
        tasks.read_examples(task(kind), [good, row, good], "rows.jsonl")
    examples, skipped = tasks.read_examples(task(kind, on_bad_row="skip"), [good, row, good], "rows.jsonl")
    assert [example.id for example in examples] == ["0", "2"]
    assert len(skipped) == 1
    assert skipped[0].startswith("rows.jsonl, row 2: ")


def test_an_empty_prompt_is_a_bad_row_where_the_kind_has_a_prompt_of_its_own():
    with pytest.raises(DataError, match="the prompt is empty"):
        one(task("sentiment", prompt="{{ name }}"), {"name": " ", "text": "t", "label": 0})


def test_an_empty_prompt_of_the_recipe_is_the_beginning_of_a_text():
    prompt = "{% for key, value in attrs.items() %}{{ key }}={{ value }}; {% endfor %}"
    rows = [{"attrs": {"a": "x"}, "text": "t"}, {"attrs": {"b": None, "c": 1}, "text": "t"}, {"attrs": {}, "text": "t"}]
    examples, skipped = tasks.read_examples(task("generation", prompt=prompt), rows, "rows.jsonl")
    assert [example.prompt for example in examples] == ["a=x;", "b=; c=1;", ""] and not skipped
    [choice] = tasks.read_examples(task("choice", prompt="{{ q }}"), [{"q": None, "label": 1}], "rows.jsonl").examples
    assert choice.prompt == ""


def test_many_bad_rows_are_reported_once():
    rows = [{"text": "t", "label": 0}] + [{"text": "t", "label": -1}] * 14
    with pytest.raises(DataError) as error:
        tasks.read_examples(task("sentiment"), rows, "reviews [test]")
    lines = str(error.value).splitlines()
    assert lines[0].startswith("reviews [test]: 14 of 15 rows cannot be used")
    assert lines[1].startswith("  row 2: label is -1")
    assert lines[-1] == "  ... and 4 more"
    assert len(lines) == 12


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_a_missing_column_is_one_error_that_lists_the_columns(on_bad_row):
    rows = [{"sentence": "s", "gold": 1}] * 5
    with pytest.raises(DataError) as error:
        tasks.read_examples(task("sentiment", on_bad_row=on_bad_row), rows, "x")
    assert str(error.value) == (
        "x: the rows have no column for text: text, label: label. Their columns are: sentence, gold. "
        "Set text and label in the task to the right one."
    )


@pytest.mark.parametrize("rows, message", [([], "no rows"), ([{"text": " ", "label": 0}], "its only row")])
def test_nothing_to_read(rows, message):
    with pytest.raises(DataError, match=message):
        tasks.read_examples(task("sentiment", on_bad_row="skip"), rows, "x")


@pytest.mark.parametrize(
    "rows, column, expected",
    [
        ("documents", ["a\n", "", " ", "b"], ["a\n", "b"]),
        ("lines", [" = A = ", "", "text\n"], [" = A = \n\ntext\n"]),
    ],
)
def test_language_modeling_texts(rows, column, expected):
    examples, _ = tasks.read_examples(task("language_modeling", rows=rows), [{"text": text} for text in column], "x")
    assert [example.target for example in examples] == expected
    assert all(example.prompt == "" for example in examples)


def test_language_modeling_without_text():
    with pytest.raises(DataError, match="no text in column text"):
        tasks.read_examples(task("language_modeling"), [{"text": "\n"}], "x")
    with pytest.raises(DataError, match=r"text is \[3\], not text"):
        tasks.read_examples(task("language_modeling"), [{"text": [3]}], "x")


@pytest.mark.parametrize(
    "a_task, row, lengths, prompt",
    [
        (task("sentiment"), {"text": "good film", "label": 1}, {"good film": 4}, "Review: good\nSentiment:"),
        (task("sentiment"), {"text": "good film", "label": 1}, {"good film": 5}, "Review: good\nSentiment:"),
        (task("sentiment"), {"text": "good film", "label": 1}, {"good film": 0}, "Review: \nSentiment:"),
        (task("sentiment"), {"text": "good", "label": 1}, {"good": 99}, "Review: good\nSentiment:"),
        (task("summarization"), {"document": "北京很大。", "summary": "s"}, {"北京很大。": 2}, "北京\nSummary:"),
        (
            task("qa"),
            {"context": CONTEXT, "question": QUESTION, "answers": "324"},
            {CONTEXT: 9, QUESTION: 99},
            f"The tower\nQuestion: {QUESTION}\nAnswer:",
        ),
        (task("translation"), {"translation": {"en": "One two", "de": "Eins"}}, {"One two": 3}, "en: One\nde:"),
        (
            task("translation", prompt="{{ translation.en }} / {{ en }} / {{ source }}"),
            {"translation": {"en": "One two", "de": "Eins"}},
            {"One two": 3},
            "One / One / One",
        ),
        (
            task("generation"),
            {"name": "The Punter", "text": "t", "unused": "x" * 50},
            {"The Punter": 3},
            "name: The\nText:",
        ),
        (
            task("choice"),
            {"premise": "A man sleeps.", "hypothesis": "No one", "label": 0},
            {"No one": 2, "A man sleeps.": 5},
            "A man So No?",
        ),
        (
            task("generation", prompt="{{ meta.title }}: {{ tags | join(', ') }}"),
            {"meta": {"title": "Red dog"}, "tags": ["good one", "x"], "text": "t"},
            {"Red dog": 3, "good one": 4, "x": 1},
            "Red: good, x",
        ),
    ],
)
def test_shorten_cuts_the_long_texts_and_nothing_else(a_task, row, lengths, prompt):
    example = one(a_task, row)
    assert tasks.long_texts(a_task, example) == list(lengths)
    shorter = tasks.shorten(a_task, example, list(lengths.values()))
    assert shorter.prompt == prompt
    assert (shorter.target, shorter.references, shorter.id) == (example.target, example.references, example.id)


def test_shots_stand_before_every_prompt():
    a_task = task("translation")
    rows = [{"en": "One", "de": "Eins"}, {"en": "Two", "de": ["Zwei", "Zwo"]}, {"en": "Three", "de": "Drei"}]
    examples, _ = tasks.read_examples(a_task, rows, "x")
    (solved,) = tasks.with_shots(a_task, examples[2:], examples[:2])
    assert solved.prompt == "en: One\nde: Eins\n\nen: Two\nde: Zwei\n\nen: Three\nde:"
    assert solved.target == "Drei"
    assert tasks.with_shots(a_task, examples, []) == examples


@pytest.mark.parametrize(
    "a_task, rows, expected",
    [
        (task("translation"), [{"en": "One ", "de": "Eins"}], {"copy": ["One"]}),
        (task("translation", prompt="{{ en }}:"), [{"en": "One ", "de": "Eins", "source": "web"}], {"copy": ["One"]}),
        (task("summarization"), [{"document": "A b. C? D! E.", "summary": "s"}], {"lead-3": ["A b. C? D!"]}),
        (
            task("sentiment"),
            [{"text": "t", "label": label} for label in (1, 0, 1)],
            {"majority": ["positive", "positive", "positive"]},
        ),
        (
            task("choice"),
            [{"premise": "p", "hypothesis": "h", "label": label} for label in (1, 0)],
            {"majority": ["yes", "yes"]},
        ),
        (
            task("qa"),
            [
                {"context": f"Paris is old. {CONTEXT} It rains.", "question": QUESTION, "answers": "324"},
                {"context": "他走了。北京大学在北京。天黑了。", "question": "北京大学在哪里？", "answers": "北京"},
            ],
            {"best sentence": [CONTEXT, "北京大学在北京。"]},
        ),
        (
            task("qa"),
            [
                {"context": CONTEXT, "question": QUESTION, "answers": "324"},
                {"context": CONTEXT, "question": "Who built it?", "answers": []},
            ],
            {"best sentence": [CONTEXT, CONTEXT], "never answers": ["", ""]},
        ),
        (task("generation"), [{"name": "n", "text": "t"}], {}),
        (task("language_modeling"), [{"text": "t"}], {}),
    ],
)
def test_baselines(a_task, rows, expected):
    examples, _ = tasks.read_examples(a_task, rows, "x")
    assert tasks.baseline_predictions(a_task, examples) == expected


@pytest.mark.parametrize(
    "a_task, expected",
    [
        (task("translation"), (128, ("\n",), ("bleu", "chrf", "ter"))),
        (task("qa", stop=[], max_new_tokens=7), (7, (), ("exact_match", "f1"))),
        (task("sentiment"), (None, (), ("accuracy", "macro_f1", "mcc"))),
        (task("summarization", metrics=["rouge1"]), (128, ("\n\n",), ("rouge1",))),
        (task("language_modeling"), (None, (), ("perplexity", "bits_per_byte"))),
    ],
)
def test_defaults(a_task, expected):
    assert tasks.task_settings(a_task) == expected


@pytest.mark.parametrize("kind", COLUMNS)
def test_choices(kind):
    expected = {"sentiment": ("negative", "positive"), "choice": ("yes", "no")}.get(kind)
    assert tasks.choices(task(kind)) == expected


@pytest.mark.parametrize(
    "a_task, expected",
    [
        (task("sentiment", labels=("b", "a")), {"labels": ("b", "a")}),
        (task("qa"), {}),
        (task("qa", language="de"), {"language": "de"}),
        (task("qa", metrics=("bertscore",), bertscore_model="m"), {"bertscore_model": "m"}),
    ],
)
def test_scoring(a_task, expected):
    assert tasks.metric_options(a_task) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("One. Two? Three!", ["One.", "Two?", "Three!"]),
        ("It costs 3.50 dollars. Mr. J. Lee pays.", ["It costs 3.50 dollars.", "Mr. J. Lee pays."]),
        ("他走了。“天黑了！”她说。好", ["他走了。", "“天黑了！”", "她说。", "好"]),
        ("He said “Go.” Then left", ["He said “Go.”", "Then left"]),
        ("no end", ["no end"]),
        ("one\n\ntwo. Three", ["one", "two.", "Three"]),
        (" ", []),
    ],
)
def test_sentences(text, expected):
    assert sentences(text) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("他走了。天黑了！下雨？好。", "他走了。天黑了！下雨？"),
        ("#1#: Hi. Ready?\n#2#: Yes.\n\n#1#: Good.\n#2#: Bye.", "#1#: Hi. Ready?\n#2#: Yes.\n\n#1#: Good."),
        ("Only one", "Only one"),
        ("a. a. a. a.", "a. a. a. a."),
    ],
)
def test_lead(text, expected):
    assert lead(text, 3) == expected


@pytest.mark.parametrize("module", ["_cells", "_sentences"])
def test_the_documentation_is_right(module):
    found = doctest.testmod(importlib.import_module(f"hflm.tasks.{module}"))
    assert found.attempted and not found.failed


@pytest.mark.parametrize("kind", COLUMNS)
def test_every_kind_opens_with_a_real_row_its_prompt_and_target(kind):
    text = importlib.import_module(f"hflm.tasks.{kind}").__doc__
    assert all(part in text for part in ("A row", "its prompt", "its target"))


NULLS = [
    ("{{ a }}|{{ b }}", {"a": None}),
    ("{{ a }}|{{ b }}", {}),
    ("{{ a }}|{{ b }}", {"a": ""}),
    ("{{ a }}|{{ b }}", {"a": float("nan")}),
    ("{{ a | upper }}|{{ b }}", {"a": None}),
    ("{{ a ~ '' }}|{{ b }}", {"a": None}),
    ("{{ '%s' | format(a) }}|{{ b }}", {"a": None}),
    ("{{ a.x.y }}|{{ b }}", {"a": {"x": None}}),
    ("{{ a.x }}|{{ b }}", {"a": {}}),
    ("{{ a.x }}|{{ b }}", {"a": None}),
    ("{{ a['x'] }}|{{ b }}", {"a": None}),
    ("{{ a | join(' ') }}|{{ b }}", {"a": [None, None]}),
    ("{% for each in a %}{{ each }}{% endfor %}|{{ b }}", {"a": None}),
    ("{% if a is none or a is not defined %}{% else %}wrong{% endif %}|{{ b }}", {"a": None}),
    ("{% if a is none or a is not defined %}{% else %}wrong{% endif %}|{{ b }}", {}),
    ("{% if a == none %}{% else %}wrong{% endif %}|{{ b }}", {"a": None}),
    ("{{ a or '' }}|{{ b }}", {"a": None}),
    ("{{ a[0] }}|{{ b }}", {"a": []}),
]


@pytest.mark.parametrize("prompt, row", NULLS)
@pytest.mark.parametrize("kind", ["generation", "choice"])
def test_null_missing_and_empty_values_are_the_empty_text_in_every_prompt(kind, prompt, row):
    full = {"a": {"x": {"y": "full"}}} if "a.x.y" in prompt else {"a": {"x": "full", 0: "full"}}
    common = {"b": "b", "text": "t", "label": 0}
    examples, skipped = tasks.read_examples(task(kind, prompt=prompt), [{**full, **common}, {**row, **common}], "x")
    assert examples[1].prompt.replace(" ", "") == "|b"
    assert skipped == []


def test_a_null_of_a_named_column_is_a_bad_row_by_number():
    rows = [{"text": "t", "label": 1}, {"text": None, "label": 1}, {"text": float("nan"), "label": 1}]
    with pytest.raises(DataError, match=r"2 of 3 rows.*\n  row 2: text is null\n  row 3: text is null$"):
        tasks.read_examples(task("sentiment"), rows, "x")


def test_a_prompt_that_fails_on_some_rows_makes_those_rows_bad():
    rows = [{"n": 2, "text": "t"}, {"n": None, "text": "t"}, {"n": 0, "text": "t"}]
    examples, skipped = tasks.read_examples(
        task("generation", prompt="{{ 4 // n }}", on_bad_row="skip"), rows, "rows.jsonl"
    )
    assert [example.prompt for example in examples] == ["2"]
    assert [line.split(": prompt: ")[0] for line in skipped] == ["rows.jsonl, row 2", "rows.jsonl, row 3"]


@pytest.mark.parametrize(
    "prompt, message",
    [
        ("{{ a }}{{ mising }}", "^x: prompt: 'mising' is undefined. The columns are: a, text, c."),
        ("{{ a }}{{ mising and mistyped }}", "'mising' is undefined"),
        ("{% if mising == 1 %}{% endif %}{{ a }}", "'mising' is undefined"),
        ("{{ a }}{{ c.d }}", None),
    ],
)
def test_a_name_that_no_row_has_is_an_error_of_the_prompt(prompt, message):
    rows = [{"a": "1", "text": "t"}, {"a": "2", "text": "t", "c": {"d": 1}}]
    if message is None:
        assert [example.prompt for example in tasks.read_examples(task("generation", prompt=prompt), rows, "x")[0]]
        return
    with pytest.raises(DataError, match=message):
        tasks.read_examples(task("generation", prompt=prompt, on_bad_row="skip"), rows, "x")


@pytest.mark.parametrize(
    "value, shown", [(5, "5"), (1.5, "1.5"), (True, "true"), (False, "false"), (10**20, str(10**20))]
)
def test_numbers_and_truth_values_are_text(value, shown):
    example = one(task("generation", prompt="{{ q }}"), {"q": value, "text": value})
    assert (example.prompt, example.target) == (shown, shown)


def test_json_in_a_prompt_is_what_the_row_says(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"v": [1.50, true, null, {"b": "x", "a": -0}], "text": "t"}\n')
    row = next(iter(load_rows(resolve_data(Data(path=str(tmp_path / "a.jsonl"))))))
    assert one(task("generation", prompt="{{ v | tojson }}"), row).prompt == '[1.50, true, null, {"a": -0, "b": "x"}]'


def test_columns_whose_names_hide_white_space_are_shown_with_it():
    with pytest.raises(DataError, match="Their columns are: name, ' text', '\\\\udcff'"):
        tasks.read_examples(task("generation"), [{"name": "a", " text": "b", "\udcff": "c"}], "rows.csv")


@pytest.mark.parametrize("value, expected", [(True, "true"), ("false", "false")])
def test_truth_values_are_labels(value, expected):
    assert label({"label": value}, "label", ("false", "true")) == expected


def test_a_label_of_another_case_is_suggested():
    with pytest.raises(BadValue, match=r"'Positive'; expected one of .*did you mean positive\?"):
        label({"label": "Positive"}, "label", ("negative", "positive"))


@pytest.mark.parametrize(
    "a_task, row",
    [
        (task("generation", target=["a", "b", "c"]), {"name": "n"}),
        (task("translation", target=["a", "b", "c"]), {"en": "n"}),
        (task("summarization", summary=["a", "b", "c"]), {"document": "n"}),
        (task("qa", answers=["a", "b", "c"]), {"context": "n", "question": "q"}),
    ],
)
def test_references_from_several_columns(a_task, row):
    example = one(a_task, {**row, "a": " one ", "b": "", "c": "two"})
    assert (example.target, example.references) == ("one", ("one", "two"))
    assert one(a_task, {**row, "a": None, "b": "", "c": "two"}).target == "two"
    with pytest.raises(DataError, match="a, b, c are all empty"):
        one(a_task, {**row, "a": None, "b": "", "c": "  "})
    with pytest.raises(DataError, match=r"no column for \w+: c\. Their columns"):
        one(a_task, {**row, "a": "x", "b": ""})


def test_references_that_are_lists_written_as_text_get_a_warning(caplog):
    rows = [{"name": "n", "text": "['a', \"b\"]"}, {"name": "n", "text": "['c']"}, {"name": "n", "text": "d"}]
    tasks.read_examples(task("generation"), rows, "rows.csv")
    assert "rows.csv: the column 'text' holds lists written as text, such as " in caplog.text
    caplog.clear()
    answers = str({"text": ["324 metres"], "answer_start": [13]})
    tasks.read_examples(task("qa"), [{"context": CONTEXT, "question": QUESTION, "answers": answers}], "rows.csv")
    assert "the column 'answers' holds lists written as text, such as " in caplog.text
    caplog.clear()
    tasks.read_examples(task("generation"), [*rows, {"name": "n", "text": "[1]"}], "rows.csv")
    tasks.read_examples(task("language_modeling"), rows, "rows.csv")
    assert not caplog.text


def test_a_task_kind_is_one_file(tmp_path):
    (tmp_path / "shout.py").write_text(
        """
from typing import Literal
from hflm.recipe import GeneratingTask

COLUMNS = ("text",)
PROMPT = "Shout: {{ text }}"
SUBJECT = "text"
MAX_NEW_TOKENS = 9
STOP = ()
METRICS = ("exact_match",)


class Shout(GeneratingTask):
    kind: Literal["shout"] = "shout"
    text: str = "text"


def fields(task, row):
    return {"text": row[task.text]}


def references(task, row):
    return (row[task.text].upper(),)


def baselines(task, examples, subjects):
    return {"copy": list(subjects)}
"""
    )
    recipe = "{name: n, model: {from: m}, tasks: {shout: {data: {path: d}}}, benchmark: {tasks: [shout]}}"
    (tmp_path / "recipe.yaml").write_text(recipe)
    script = f"""
import hflm.tasks
hflm.tasks.__path__.append({str(tmp_path)!r})
from hflm import recipe, tasks
task = recipe.load_recipe({str(tmp_path / "recipe.yaml")!r}).tasks["shout"]
(example,), _ = tasks.read_examples(task, [{{"text": "hey"}}], "x")
print(example.prompt, "->", example.target, tasks.task_settings(task), tasks.baseline_predictions(task, [example]))
print("shout" in recipe.recipe_json_schema()["properties"]["tasks"]["properties"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "Shout: hey -> HEY TaskSettings(max_new_tokens=9, stop=(), metrics=('exact_match',)) {'copy': ['hey']}\nTrue\n"
    )


def test_a_task_without_a_language_keeps_the_key_of_its_stages():
    assert "language" not in task("qa").model_dump(mode="json")
    assert task("qa", language="de").model_dump(mode="json")["language"] == "de"
