"""The layout of the demo's page, by Gradio.

Text of visitors, data and models is shown as text: in text boxes, or escaped. The page asks nothing of other servers.
"""

import html
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio

from hflm.core import UserError
from hflm.demo.session import SETTINGS, Session
from hflm.demo.tabs import LONGEST_TEXT, TaskTab
from hflm.inference import score_view

WAITING = 16  # requests in the queue; the model answers one at a time
STYLE = (
    score_view.STYLE
    + """
.gradio-container { max-width: 68rem !important; margin: 0 auto; }
.about h1 { font-size: 1.7rem; font-weight: 650; margin: .2rem 0 .3rem; }
.about p { margin: .15rem 0; max-width: 60rem; overflow-wrap: anywhere; }
.about .facts, .small { font-size: 13px; opacity: .75; }
.legend { opacity: 1; }
.note { border-left: 3px solid var(--color-accent); padding: .4rem .8rem; background: var(--background-fill-secondary); }
.inside table { border: 0 !important; width: auto !important; margin: 1rem 0; display: block; overflow-x: auto; }
.inside tr, .inside th, .inside td { border: 0 !important; }
.inside th, .inside td { border-bottom: 1px solid var(--border-color-primary) !important; }
.inside th, .inside td { padding: .25rem .7rem !important; text-align: left; }
.inside .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.inside img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; padding: 6px; }
.inside h2 { font-size: 1.05rem; font-weight: 600; margin: 1.2rem 0 .3rem; }
.inside .strip { margin: .8rem 0; }
"""
)


def build_page(session: Session) -> gradio.Blocks:
    """The page of a session."""
    with gradio.Blocks(title=f"{session.title} \u00b7 hflm", analytics_enabled=False) as made:
        made.queue(max_size=WAITING, default_concurrency_limit=1)
        about = f"<h1>{html.escape(session.title)}</h1><p>{html.escape(session.line)}</p>"
        _html(f'{about}<p class="facts">{html.escape(session.facts)}</p>', "about")
        with gradio.Tabs():
            with gradio.Tab("Generate"):
                _generate(session)
            for tab in session.tabs:
                with gradio.Tab(tab.title):
                    _ask(session, tab)
            with gradio.Tab("Look inside"):
                _inside(session)
    return made


def _generate(session: Session) -> None:
    with gradio.Row():
        with gradio.Column():
            prompt = _box("Prompt", lines=5, placeholder="The beginning of a text")
            buttons = _buttons("Generate")
            with gradio.Accordion("Settings", open=False):
                sliders = [
                    gradio.Slider(least, most, value, step=step, label=name)
                    for name, (least, most, value, step) in SETTINGS.items()
                ]
                seed = gradio.Number(
                    -1, label="seed", precision=0, minimum=-1, maximum=2**32 - 1, info="-1: another text each time"
                )
        with gradio.Column():
            written = _answer("Text", 12)

    def run(prompt: str, seed: int, *settings: float) -> Iterator[str]:
        yield from session.continuation(
            prompt, None if seed == -1 else seed, dict(zip(SETTINGS, settings, strict=True))
        )

    _wire("generate", run, buttons, prompt, [prompt, seed, *sliders], written)
    _examples(session.examples["generate"], [prompt])


def _ask(session: Session, tab: TaskTab) -> None:
    if tab.note:
        _html(f'<p class="note">{html.escape(tab.note)}</p>', "about")
    verb = tab.title.split(":")[0]
    lines = {"summarization": 8, "qa": 5}.get(tab.task.kind, 3)
    chooses = tab.task.kind == "sentiment"
    with gradio.Row():
        with gradio.Column():
            boxes = [_box(label, lines=1 if place else lines) for place, label in enumerate(tab.labels)]
            buttons = _buttons("Judge" if chooses else verb)
        with gradio.Column():
            answered = gradio.Label(label=tab.answer) if chooses else _answer(tab.answer, lines)

    def run(*texts: str) -> Iterator[Any]:
        if chooses:
            yield session.chosen(tab, texts)
        else:
            yield from session.written(tab, texts)

    _wire(verb.lower(), run, buttons, boxes[-1], boxes, answered)
    _examples(tab.examples, boxes)


def _inside(session: Session) -> None:
    text = _box("Text", lines=3, placeholder="How likely is each token of this text, after those before it?")
    attention = gradio.Checkbox(True, label="Draw each head's attention (short texts)")
    buttons = _buttons("Look inside")
    _examples(session.examples["inside"], [text])

    def run(text: str, attention: bool) -> Iterator[str]:
        yield from session.inside(text, attention)

    _wire("look_inside", run, buttons, text, [text, attention], _html("", "inside"))


def _wire(
    name: str,
    run: Callable[..., Iterator[Any]],
    buttons: tuple[gradio.Button, gradio.Button],
    last: gradio.Textbox,
    inputs: Sequence[Any],
    output: Any,
) -> None:
    """The first button runs, as Shift+Enter (Enter in a single line) in the `last` box does; the second one stops it."""
    start, stop = buttons

    def answer(*values: Any) -> Iterator[Any]:
        shown = None
        try:
            for shown in run(*values):
                yield shown
        except UserError as error:
            line = html.escape(" ".join(str(error).split()))
            raise gradio.Error(line, print_exception=False) from None
        if shown in ("", values[0]):
            gradio.Info("The model ends the text at once: it adds nothing to this.")

    event = gradio.on(
        [start.click, last.submit],
        answer,
        inputs,
        output,
        concurrency_id="model",
        concurrency_limit=1,
        show_progress="minimal",
        api_name=name,
    )
    stop.click(None, cancels=event, api_visibility="private")


def _buttons(name: str) -> tuple[gradio.Button, gradio.Button]:
    with gradio.Row():
        return gradio.Button(name, variant="primary", scale=3), gradio.Button("Stop", scale=1, min_width=80)


def _box(label: str, lines: int, placeholder: str | None = None) -> gradio.Textbox:
    return gradio.Textbox(
        label=label, lines=lines, max_lines=max(lines, 14), placeholder=placeholder, max_length=LONGEST_TEXT
    )


def _answer(label: str, lines: int) -> gradio.Textbox:
    return gradio.Textbox(label=label, lines=lines, max_lines=24, interactive=False)


def _html(text: str, name: str) -> gradio.HTML:
    # The component's template stays its default: its value is HTML, and ${...} in it is text.
    return gradio.HTML(text, elem_classes=[name], js_on_load=None)


def _examples(rows: list[list[str]], boxes: Sequence[Any]) -> None:
    if rows:
        gradio.Examples(rows, boxes, cache_examples=False, api_visibility="private")
