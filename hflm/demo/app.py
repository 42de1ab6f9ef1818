"""The demo's page, drawn by Gradio and served on this machine only.

Text of visitors, data and models is shown as text: in text boxes, or escaped. The page asks nothing of other servers,
and Gradio is told to report nothing.
"""

import html
import ipaddress
import os
import socket
import sys
import threading

from hflm.core import MissingExtra, UserError

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it when it is imported
try:
    import gradio
except ImportError:
    raise MissingExtra("demo", "hflm demo", "hflm demo MODEL") from None
import matplotlib

from hflm.demo import session as demo
from hflm.demo import tabs as demo_tabs
from hflm.inference import score_view

WAITING = 16  # requests in the queue; the model answers one at a time
FONT, MONOSPACE = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # nothing to fetch
LAUNCH = {
    "prevent_thread_lock": True,
    "quiet": True,
    "inline": False,
    "share": False,
    "enable_monitoring": False,
    "run_history": False,  # would keep what was typed in the browser
    "mcp_server": False,
    "pwa": False,
    "ssr_mode": False,
    "num_workers": 0,
    "footer_links": [],
    "max_file_size": "1kb",  # nothing is uploaded
}
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


def serve(model, host="127.0.0.1", port=None, revision=None, examples=None):
    """Load a model, serve its page until Ctrl-C, and print the address. `examples` as demo.load takes them.

    Raises UserError when the port is taken, and ModelError.
    """
    _try(host, port)
    if not _loopback(host):
        print(
            f"warning: {host} is not this machine alone: everybody who reaches it can use the demo, without a password.",
            file=sys.stderr,
        )
    shown = demo.load(model, revision, examples)
    # Gradio asks matplotlib for its backend at each request: found out at the first one, that takes seconds.
    matplotlib.use("agg")
    # The first text takes longer than all later ones.
    next(shown.continuation("", 0, {name: value for name, (_, _, value, _) in demo.SETTINGS.items()}))
    made = page(shown)
    try:
        _, address, _ = made.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            css=STYLE,
            theme=gradio.themes.Default(
                primary_hue="blue", secondary_hue="blue", neutral_hue="slate", font=FONT, font_mono=MONOSPACE
            ),
            **LAUNCH,
        )
    except OSError as error:
        raise _unheard(host, port, error) from None
    print(f"{shown.title}: {address}  (Ctrl-C ends it)", flush=True)
    try:
        threading.Event().wait()
    finally:
        made.close(verbose=False)


def page(shown):
    """The gradio.Blocks of a demo.Shown."""
    with gradio.Blocks(title=f"{shown.title} \u00b7 hflm", analytics_enabled=False) as made:
        made.queue(max_size=WAITING, default_concurrency_limit=1)
        about = f"<h1>{html.escape(shown.title)}</h1><p>{html.escape(shown.line)}</p>"
        _html(f'{about}<p class="facts">{html.escape(shown.facts)}</p>', "about")
        with gradio.Tabs():
            with gradio.Tab("Generate"):
                _generate(shown)
            for asked in shown.asked:
                with gradio.Tab(asked.tab):
                    _ask(shown, asked)
            with gradio.Tab("Look inside"):
                _inside(shown)
    return made


def _generate(shown):
    with gradio.Row():
        with gradio.Column():
            prompt = _box("Prompt", lines=5, placeholder="The beginning of a text")
            buttons = _buttons("Generate")
            with gradio.Accordion("Settings", open=False):
                sliders = [
                    gradio.Slider(least, most, value, step=step, label=name)
                    for name, (least, most, value, step) in demo.SETTINGS.items()
                ]
                seed = gradio.Number(
                    -1, label="seed", precision=0, minimum=-1, maximum=2**32 - 1, info="-1: another text each time"
                )
        with gradio.Column():
            written = _answer("Text", 12)

    def run(prompt, seed, *settings):
        yield from shown.continuation(
            prompt, None if seed == -1 else seed, dict(zip(demo.SETTINGS, settings, strict=True))
        )

    _wire("generate", run, buttons, prompt, [prompt, seed, *sliders], written)
    _examples(shown.examples["generate"], [prompt])


def _ask(shown, asked):
    if asked.note:
        _html(f'<p class="note">{html.escape(asked.note)}</p>', "about")
    verb = asked.tab.split(":")[0]
    lines = {"summarization": 8, "qa": 5}.get(asked.task.kind, 3)
    chooses = asked.task.kind == "sentiment"
    with gradio.Row():
        with gradio.Column():
            boxes = [_box(label, lines=1 if place else lines) for place, label in enumerate(asked.labels)]
            buttons = _buttons("Judge" if chooses else verb)
        with gradio.Column():
            answered = gradio.Label(label=asked.answer) if chooses else _answer(asked.answer, lines)

    def run(*texts):
        if chooses:
            yield shown.chosen(asked, texts)
        else:
            yield from shown.written(asked, texts)

    _wire(verb.lower(), run, buttons, boxes[-1], boxes, answered)
    _examples(asked.examples, boxes)


def _inside(shown):
    text = _box("Text", lines=3, placeholder="How likely is each token of this text, after those before it?")
    attention = gradio.Checkbox(True, label="Draw each head's attention (short texts)")
    buttons = _buttons("Look inside")
    _examples(shown.examples["inside"], [text])

    def run(text, attention):
        yield from shown.inside(text, attention)

    _wire("look_inside", run, buttons, text, [text, attention], _html("", "inside"))


def _wire(name, run, buttons, last, inputs, output):
    """The first button runs, as Shift+Enter (Enter in a single line) in the `last` box does; the second one stops it."""
    start, stop = buttons

    def told(*given):
        said = None
        try:
            for said in run(*given):
                yield said
        except UserError as error:
            line = html.escape(" ".join(str(error).split()))
            raise gradio.Error(line, print_exception=False) from None
        if said in ("", given[0]):
            gradio.Info("The model ends the text at once: it adds nothing to this.")

    event = gradio.on(
        [start.click, last.submit],
        told,
        inputs,
        output,
        concurrency_id="model",
        concurrency_limit=1,
        show_progress="minimal",
        api_name=name,
    )
    stop.click(None, cancels=event, api_visibility="private")


def _buttons(name):
    with gradio.Row():
        return gradio.Button(name, variant="primary", scale=3), gradio.Button("Stop", scale=1, min_width=80)


def _box(label, lines, placeholder=None):
    return gradio.Textbox(
        label=label, lines=lines, max_lines=max(lines, 14), placeholder=placeholder, max_length=demo_tabs.LONGEST
    )


def _answer(label, lines):
    return gradio.Textbox(label=label, lines=lines, max_lines=24, interactive=False)


def _html(text, name):
    # The component's template stays its default: what stands in its value is HTML, and ${...} in it is text.
    return gradio.HTML(text, elem_classes=[name], js_on_load=None)


def _examples(rows, boxes):
    if rows:
        gradio.Examples(rows, boxes, cache_examples=False, api_visibility="private")


def _try(host, port):
    """Raises UserError for an address that cannot be listened at, before a model is loaded for nothing."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise _unheard(host, port, error) from None


def _unheard(host, port, error):
    place = host if port is None else f"{host}, port {port}"
    return UserError(f"the page cannot be served at {place}: {error.strerror or error}. Try another --port or --host")


def _loopback(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
