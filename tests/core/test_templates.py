"""Templates render as jinja renders them, until they ask for too much."""

import pytest
from jinja2.exceptions import SecurityError, UndefinedError

from hflm.core.templates import compile_template, render_template, template_fields

ROW = {"text": "a film", "items": [1, 2, 3], "n": 1234567, "pairs": {"a": 1}}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ text | upper }}: {{ items | join(', ') }}", "A FILM: 1, 2, 3"),
        ("{% for x in items %}{{ loop.index }}={{ x }}{{ ';' if not loop.last }}{% endfor %}", "1=1;2=2;3=3"),
        ("{% for k, v in pairs.items() %}{{ k }}{{ v }}{% endfor %}", "a1"),
        (
            "{{ n + 1 }} {{ n * n }} {{ 2 ** 10 }} {{ '-' * 3 }} {{ text ~ '!' }}",
            "1234568 1524155677489 1024 --- a film!",
        ),
        ("{{ '%05d' % n }} {{ '{:,}'.format(n) }} {{ '%s' | format(n) }}", "1234567 1,234,567 1234567"),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(text) }}{% set y = items[0] %}{{ y }}", "<a film>1"),
        ("{{ text.replace('film', 'play').split()[1] }} {{ range(3) | list }}", "play [0, 1, 2]"),
        ("{{ n | default(10000000) }} {{ text.center(10) }}|", "1234567   a film  |"),
    ],
)
def test_what_a_template_renders(template, text):
    assert render_template(compile_template(template), ROW) == text


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "{% for x in items recursive %}{{ loop(items) }}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(50) }}",
        "{{ 9 ** 99999 ** 9 }}",
        "{{ 2 ** (9 ** 9) }}",
        "{{ 'a' * 10 ** 9 }}",
        "{{ [1] * 10 ** 9 }}",
        "{% set ns = namespace(x=3) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x | replace('a', 'aa') %}{% endfor %}",
        "{{ 'a'.center(10 ** 9) }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ 'a' | indent(10 ** 9, true) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{w}}'.format(1, w=1000000000) }}",
        "{{ lipsum(n=10 ** 9) }}",
        "{{ ''.__class__.__mro__ }}",
    ],
)
def test_what_asks_for_too_much_is_refused(template):
    with pytest.raises(SecurityError):
        render_template(compile_template(template), ROW)


def test_a_missing_field_is_an_error():
    with pytest.raises(UndefinedError, match="'txt' is undefined"):
        render_template(compile_template("{{ txt }}"), ROW)


def test_the_fields_of_a_template():
    assert template_fields("{{ a }} {{ b.c }} {% for x in range(3) %}{{ x }}{% endfor %}") == {"a", "b"}
