"""Conversations as the tokenizer's own chat template writes them: the same ids, and labels on the assistant's turns alone."""

import random

import numpy as np
import pytest
from conftest import TEXTS

from hflm import tasks
from hflm.core import DataError
from hflm.inference import turn_windows
from hflm.preprocessing import (
    IGNORED,
    encode_conversations,
    encode_rendered,
    end_of_turn,
    ensure_chat_template,
    fit_for_answer,
    fit_for_training,
    pack_examples,
    render_chat,
    train_tokenizer,
)
from hflm.tasks import DEFAULT_CHAT_TEMPLATE, Chat

CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' -%}
{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else -%}{{ message['content'] + '<|im_end|>' }}{%- endif -%}
{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""
LLAMA_3 = """\
{{- bos_token -}}
{%- for message in messages -%}
{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
{%- if message['role'] == 'assistant' -%}
{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}
{%- else -%}{{ message['content'] | trim + '<|eot_id|>' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}"""
MISTRAL = """\
{%- if messages[0]['role'] == 'system' -%}
{%- set system = messages[0]['content'] + '\\n\\n' -%}{%- set turns = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- set turns = messages -%}{%- endif -%}
{{- bos_token -}}
{%- for message in turns -%}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('roles must alternate') }}{%- endif -%}
{%- if message['role'] == 'user' -%}
{{ '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}
{%- else -%}{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}{%- endif -%}
{%- endfor -%}"""
ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{{ '\\n' -}}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""  # its roles are plain text, as in Zephyr's vocabulary
OURS = DEFAULT_CHAT_TEMPLATE.replace(
    '{{- message.role | capitalize + ": " + message.content | trim -}}',
    '{%- if message.role == "assistant" -%}Assistant:{% generation %}{{ " " + message.content | trim + eos_token }}'
    '{% endgeneration %}{%- else -%}{{- message.role | capitalize + ": " + message.content | trim -}}{%- endif -%}',
).replace('{%- if message.role == "assistant" -%}{{- eos_token -}}{%- endif -%}\n', "")
TEMPLATES = {"chatml": CHATML, "llama-3": LLAMA_3, "mistral": MISTRAL, "zephyr": ZEPHYR, "ours": OURS}
END = {
    "chatml": "<|im_end|>",
    "llama-3": "<|eot_id|>",
    "mistral": "<|endoftext|>",
    "zephyr": "<|endoftext|>",
    "ours": "<|endoftext|>",
}
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]"]
TASK = Chat(data={"path": "toy", "name": "qa"})


@pytest.fixture(scope="module")
def tokenizer():
    made = train_tokenizer([*TEXTS, "User: system Assistant: user\n\n"], "bpe", 330)
    made.add_special_tokens({"additional_special_tokens": SPECIAL})
    return made


def without_marks(template):
    return template.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def conversations(number, seed=0):
    """Random turns of every kind of text: scripts, emoji, code, line breaks, and words that templates use."""
    choose = random.Random(seed)
    words = [
        "The",
        "dog",
        "saw",
        "324",
        "m.",
        "Zürich",
        "好的",
        "🙂",
        "\n",
        "\n\n",
        "  ",
        "{{ x }}",
        "User:",
        "Assistant:",
        "[x]",
    ]

    def text():
        return " ".join(choose.choices(words, k=choose.randint(1, 9))).strip() or "yes"

    found = []
    for _ in range(number):
        turns = [{"role": "system", "content": text()}] if choose.random() < 0.4 else []
        for _ in range(choose.randint(1, 4)):
            turns += [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]
        found.append(turns)
    return found


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_and_labels_are_those_of_the_template_on_200_conversations(tokenizer, name):
    chats = conversations(200)
    tokenizer.chat_template = TEMPLATES[name]
    options = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    expected = [tokenizer.apply_chat_template(turns, **options) for turns in chats]
    tokenizer.chat_template = without_marks(TEMPLATES[name])
    if name == "ours":
        assert tokenizer.chat_template != DEFAULT_CHAT_TEMPLATE  # the marks needed another way to write the same
        tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
    found = encode_conversations(tokenizer, chats)
    for one, other in zip(found, expected, strict=True):
        assert one.ids == other["input_ids"]
        assert one.labelled().tolist() == [bool(mask) for mask in other["assistant_masks"]]
    block = max(len(one.ids) for one in found)
    packed = pack_examples([("The dog", "saw")], tokenizer, block, 0, found)
    labels = [row["labels"][row["labels"] != IGNORED].tolist() for row in packed.rows]
    pair = encode_rendered(tokenizer, [" saw"])[0] + [tokenizer.eos_token_id]
    trained = pair + [token for one in found for token in np.array(one.ids)[one.labelled()]]
    assert sorted(token for row in labels for token in row) == sorted(trained)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_is_what_precedes_the_answer_in_training(tokenizer, name):
    tokenizer.chat_template = without_marks(TEMPLATES[name])
    assert tokenizer.decode([end_of_turn(tokenizer)]) == END[name]
    for turns in conversations(20, seed=1):
        [whole] = encode_conversations(tokenizer, [turns])
        [prompt] = encode_rendered(tokenizer, [render_chat(tokenizer, turns[:-1])])
        assert whole.ids[: len(prompt)] == prompt and whole.turns[-1][0] == len(prompt)
        windows = turn_windows(whole, 10_000)
        assert [window.scored for window in windows] == [end - start for start, end in whole.turns]
        assert [window.text for window in windows] == [each["content"] for each in turns if each["role"] == "assistant"]


def test_a_tokenizer_without_a_template_gets_one_that_is_saved_with_it(tokenizer, tmp_path):
    tokenizer.chat_template = None
    ensure_chat_template(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    saved = AutoTokenizer.from_pretrained(tmp_path)
    turns = conversations(1)[0][:-1]
    served = saved.apply_chat_template(turns, add_generation_prompt=True, tokenize=True)["input_ids"]
    assert served == encode_rendered(tokenizer, [render_chat(tokenizer, turns)])[0]


def examples(*chats):
    return tasks.read_examples(TASK, [{"messages": turns} for turns in chats], "rows.jsonl")[0]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def contents(fitted):
    return [[each["content"] for each in tasks.conversation(example)] for example in fitted.examples]


LONG = [
    {"role": "system", "content": "S"},
    user("a"),
    assistant("b"),
    user("c"),
    assistant("d"),
    user("e"),
    assistant("f"),
]


def test_long_conversations_are_cut_at_borders_of_turns_and_counted(tokenizer):
    tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
    whole = [len(one.ids) for one in encode_conversations(tokenizer, [LONG, LONG[:5]])]
    trained = fit_for_training(TASK, examples(LONG, LONG[:3]), tokenizer, whole[1], "rows.jsonl")
    assert contents(trained) == [["S", "a", "b", "c", "d"], ["S", "a", "b"]] and trained.cut == 1
    [prompt] = encode_rendered(tokenizer, [render_chat(tokenizer, [LONG[0], *LONG[3:6]])])
    asked = fit_for_answer(TASK, examples(LONG, LONG[:3]), tokenizer, len(prompt), "rows.jsonl")
    assert contents(asked) == [["S", "c", "d", "e", "f"], ["S", "a", "b"]] and asked.cut == 1
    refusing = TASK.model_copy(update={"too_long": "refuse"})
    with pytest.raises(
        DataError, match=r"1 of 2 conversations are longer than the \d+ tokens .*: row 1. too_long: trunc"
    ):
        fit_for_training(refusing, examples(LONG, LONG[:3]), tokenizer, whole[1], "rows.jsonl")


def test_what_cannot_be_cut_is_a_bad_row(tokenizer):
    tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
    chats = [user("a " * 99), assistant("b")], LONG[1:3], [user("<|im_end|>"), assistant("b")]
    with pytest.raises(DataError) as caught:
        fit_for_training(TASK, examples(*chats), tokenizer, 40, "rows.jsonl")
    lines = str(caught.value).split("\n")
    assert lines[0] == "rows.jsonl: 2 of 3 rows cannot be used (on_bad_row: skip leaves bad rows out)"
    assert "row 0: a user's turn and its answer alone have" in lines[1]
    assert "row 2: a turn spells the special token <|im_end|>" in lines[2]
    skipping = TASK.model_copy(update={"on_bad_row": "skip"})
    fitted = fit_for_training(skipping, examples(*chats), tokenizer, 40, "rows.jsonl")
    assert (contents(fitted), fitted.numbers, len(fitted.skipped)) == ([["a", "b"]], [1], 2)


UNUSABLE = {
    "{% if messages | length > 2 %}later: {% endif %}{% for m in messages %}{{ m.content }}{% endfor %}": "writes earlier turns",
    "{{ raise_exception('no system turns') }}": "refuses a conversation: no system turns",
}


def test_a_conversation_that_the_template_refuses_is_a_bad_row(tokenizer):
    tokenizer.chat_template = without_marks(MISTRAL).replace(
        "set system = messages[0]", "set system = raise_exception('no') or [0]"
    )
    skipping = TASK.model_copy(update={"on_bad_row": "skip"})
    fitted = fit_for_training(skipping, examples(LONG, LONG[1:3]), tokenizer, 99, "rows.jsonl")
    assert fitted.numbers == [1]
    assert fitted.skipped == ["rows.jsonl, row 0: the chat template of the tokenizer refuses a conversation: no"]


@pytest.mark.parametrize("template", UNUSABLE)
def test_a_template_that_cannot_be_trained_on_says_so(tokenizer, template):
    tokenizer.chat_template = template
    with pytest.raises(DataError, match=UNUSABLE[template]):
        encode_conversations(tokenizer, [LONG])
