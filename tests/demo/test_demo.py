"""The demo: what its tabs ask and answer, and its page as a visitor uses it, in a browser against the real server."""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest
import torch
import yaml

from hflm import tasks
from hflm.core import UserError
from hflm.demo import session as demo
from hflm.demo import tabs as demo_tabs
from hflm.inference import LocalModel, stream_text
from hflm.models import build_model, save_pretrained
from hflm.publishing import space
from hflm.recipe import Recipe

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    sync_playwright = None

CHROMIUM = shutil.which("chromium")
# Whoever runs one of these sets window.hacked.
EVIL = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>${window.hacked=1}{{7*7}}"
LONG = "The dog saw the key in the barn. " * 40  # more than the context
BAD = "<b>bad</b>"  # a label may be any word
RECIPE = {
    "name": "tiny",
    "model": {"preset": "gpt2-nano", "n_positions": 128},
    "tokenizer": {"train": {"vocab_size": 320}},
    "tasks": {
        "translation": {
            "data": {"path": "toy", "name": "translation"},
            "source": "english",
            "target": "lumo",
            "languages": ["English", "Lumo"],
            "max_new_tokens": 12,
        },
        "mood": {
            "kind": "sentiment",
            "data": {"path": "toy", "name": "sentiment"},
            "labels": [BAD, "good"],
            "prompt": "{{ author }} wrote: {{ text }}\nThis is",
        },
        "qa": {"data": {"path": "toy", "name": "qa"}, "max_new_tokens": 6},
        "digest": {"kind": "summarization", "data": {"path": "toy", "name": "summarization"}},
        "measured": {"kind": "qa", "data": {"path": "toy", "name": "qa"}},
    },
    "finetune": {"tasks": ["translation", "mood", "qa", "digest"]},
    "benchmark": {"tasks": ["translation", "mood", "qa"]},
}
PREDICTIONS = {
    "translation": [("English: The dog saw the key.\nLumo:", "kepo"), (f"English: {EVIL}\nLumo:", EVIL)],
    "mood": [("Ann wrote: The cat saw the hat.\nThis is", "good")],
    "qa": [("The fox saw the cup in the mill.\nQuestion: Where?\nAnswer:", "the mill")],
}


@pytest.fixture(scope="module")
def loaded(tokenizer):
    """A model whose weights say something, though nothing true, and its tokenizer."""
    torch.manual_seed(0)
    config = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 128, "initializer_range": 0.3}
    return build_model(config, tokenizer).eval(), tokenizer


@pytest.fixture(scope="module")
def run(tmp_path_factory, loaded):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    save_pretrained(folder / "model", *loaded)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    (folder / "README.md").write_text(f"---\ntags: [hflm]\n---\n\n# tiny\n\nA model of \\[foxes\\] and {EVIL}.\n")
    (folder / "benchmark" / "predictions").mkdir(parents=True)
    for name, rows in PREDICTIONS.items():
        lines = [json.dumps({"id": "0", "prompt": prompt, "prediction": answers}) for prompt, answers in rows]
        (folder / "benchmark" / "predictions" / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def shown(run):
    return demo.open_session(str(run))


def benchmark(loaded, prompt, task):
    """What the benchmark answers."""
    max_new_tokens, stop, _ = tasks.task_settings(task)
    with torch.inference_mode():
        [(_, [text])] = LocalModel(*loaded).texts([prompt], max_new_tokens, stop)
    return text


def test_what_a_run_says_about_itself(shown):
    assert shown.title == "tiny"
    assert shown.line == f"A model of [foxes] and {EVIL}."
    assert "a context of 128 tokens" in shown.facts
    assert [tab.title for tab in shown.tabs] == ["Translate", "Summarize", "Sentiment", "Ask"]
    translation, summarization, mood, qa = shown.tabs
    assert (translation.labels, translation.answer, translation.note) == (("English",), "Lumo", "")
    assert summarization.examples == [] and {tab.note for tab in shown.tabs} == {""}  # nothing of `measured`
    assert mood.labels == ("Text", "Author")
    assert qa.labels == ("Context", "Question")
    assert translation.examples == [["The dog saw the key."], [EVIL]]
    assert mood.examples == [["The cat saw the hat.", "Ann"]]
    assert qa.examples == [["The fox saw the cup in the mill.", "Where?"]]
    assert shown.examples["generate"][1] == ["Ann wrote: The cat saw the hat.\nThis is"]
    assert shown.examples["inside"][1] == ["Ann wrote: The cat saw the hat.\nThis is good"]


def test_a_model_alone_is_asked_by_the_kinds_own_prompts(run):
    alone = demo.open_session(str(run / "model"))
    assert (alone.title, alone.line) == ("model", "")
    assert all("Nothing is known" in asked.note and asked.examples for asked in alone.tabs)
    prompts = [asked.prompt(asked.examples[0]) for asked in alone.tabs]
    assert prompts[0] == "English: Two men are outside.\nGerman:"
    assert prompts[2] == "Review: a stirring , funny film\nSentiment:"
    assert prompts[3].endswith("\nQuestion: How tall is the tower?\nAnswer:")


def test_a_recipe_that_cannot_be_read_is_reported(run, tmp_path):
    shutil.copytree(run / "model", tmp_path / "model")
    (tmp_path / "recipe.yaml").write_text("name: x\nmodle: {preset: gpt2}\n")
    with pytest.warns(UserWarning, match=r"recipe is ignored: .*recipe\.yaml"):
        assert demo.open_session(str(tmp_path)).tabs[0].note


@pytest.mark.parametrize(
    ("task", "columns", "prompt"),
    [
        ({"source": "de", "target": "en", "prompt": "{{ translation.de }} ="}, ("de",), "0 ="),
        ({"source": "de", "target": "en", "prompt": "{{ source }} ({{ topic }}):"}, ("de", "topic"), "0 (1):"),
        ({"source": "de", "target": "en", "prompt": "{% for i in range(2) %}{{ de }} {% endfor %}"}, ("de",), "0 0"),
        ({"source": "de", "target": "en", "prompt": "{{ de | reverse }}"}, ("de",), None),
    ],
)
def test_what_was_typed_is_read_back_from_a_prompt(task, columns, prompt):
    made = demo_tabs.Translation(data=demo_tabs.TYPED, **task)
    assert demo_tabs._columns(made) == columns
    texts = [f"{number} a\nb" for number in range(len(columns))]
    asked = tasks.render_prompt(made, demo_tabs._row(made, dict(zip(columns, texts, strict=True))))
    if prompt is None:
        assert asked == "b\na 0"
        assert demo_tabs._typed(made, asked) is None
    else:
        assert asked == re.sub(r"\d", r"\g<0> a\nb", prompt)
        assert demo_tabs._typed(made, asked) == texts


@pytest.mark.parametrize("trained", [[], ["qa"]])
def test_only_tasks_that_the_model_was_trained_on_have_a_tab(trained):
    finetune = {"finetune": {"tasks": trained}} if trained else {"finetune": None}
    recipe = Recipe.model_validate({**RECIPE, "tokenizer": None, "model": {"from": "org/base"}, **finetune})
    assert [tab.title for tab in demo_tabs.make_tabs(recipe, {}, {})] == ["Ask"] * len(trained)


def test_several_tasks_of_a_kind_have_a_tab_each_and_shots_stand_before_the_prompt():
    shot = {"kind": "qa", "data": {"path": "toy", "name": "qa"}, "shots": 1}
    finetune = {"tasks": [*RECIPE["finetune"]["tasks"], "open"]}
    recipe = Recipe.model_validate({**RECIPE, "tasks": {**RECIPE["tasks"], "open": shot}, "finetune": finetune})
    solved = "A b.\nQuestion: What?\nAnswer: b\n\n"
    rows = [{"prompt": f"{solved}C {n}.\nQuestion: Which?\nAnswer:", "prediction": "no"} for n in range(2)]
    *_, one, two = demo_tabs.make_tabs(recipe, {"open": rows}, demo_tabs.find_examples(recipe, {"open": rows}))
    assert [one.title, two.title] == ["Ask: qa", "Ask: open"]
    assert two.examples == [["C 0.", "Which?"], ["C 1.", "Which?"]]
    assert two.prompt(["C 1.", "Which?"]) == rows[1]["prompt"]
    assert two.note == ""
    *_, unknown = demo_tabs.make_tabs(recipe, {}, {})
    assert "1 solved examples" in unknown.note
    assert unknown.prompt(["C 1.", "Which?"]) == rows[1]["prompt"].removeprefix(solved)


@pytest.mark.parametrize(
    ("card", "line"),
    [
        ("---\na: b\n---\n# t\n\n| a |\n![x](y)\n<b>\nIt is \\*this\\*.\nMore", "It is *this*."),
        ("---\nunclosed", "unclosed"),
        ("# only a title", ""),
        ("", ""),
        ("a" * 500, "a" * 399 + "\u2026"),
    ],
)
def test_the_first_line_of_a_card(card, line):
    assert demo.first_line(card) == line


@pytest.mark.parametrize("prompt", ["The dog saw the key.", "a", "Sch\u00f6n \U0001f642", "<|endoftext|>"])
def test_the_stream_ends_in_the_benchmarks_answer(loaded, prompt):
    for stop in ((), (" ", "e")):
        with torch.inference_mode():
            [(_, [text])] = LocalModel(*loaded).texts([prompt], 30, stop)
        answers = list(stream_text(*loaded, prompt, 30, stop))
        assert answers[-1].strip() == text
        assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(answers))


def test_a_character_is_shown_when_it_is_whole(loaded):
    model, tokenizer = loaded
    wanted = iter(tokenizer.encode("a\U0001f642b", add_special_tokens=False))

    def choose(_, args, output):
        output.logits[:, -1, next(wanted)] = 1000.0

    hook = model.register_forward_hook(choose)
    shown = list(stream_text(model, tokenizer, "The", 6))
    hook.remove()
    assert shown == ["a", "a", "a", "a", "a\U0001f642", "a\U0001f642b"]


def test_sampling_is_repeatable_and_ends_with_the_context(loaded):
    sampling = {"temperature": 1.5, "top_p": 0.9, "repetition_penalty": 1.2}
    texts = [list(stream_text(*loaded, "The", 200, sampling=sampling, seed=seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0]) <= 127
    with pytest.raises(UserError, match=r"the prompt has \d+ tokens, the model's context 128: .* Shorten"):
        next(stream_text(*loaded, LONG, 1))
    assert list(stream_text(*loaded, "", 9))[-1]
    whole = {"temperature": 2, "top_p": 1, "repetition_penalty": 2}  # as a page sends them
    assert list(stream_text(*loaded, "The", 9, sampling=whole, seed=1))[-1]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["", "Ann"], "Text: write something first"),
        (["good", " \n"], "Author: write something first"),
        (["a" * 20_001, "Ann"], "Text: 20,001 characters are too many. Shorten it to 20,000"),
        (["\ud800", "Ann"], "Text: the text is not UTF-8"),
        ([LONG, "Ann"], "the prompt has .* tokens, the model has room for .* Shorten the text"),
    ],
)
def test_a_text_that_cannot_be_asked_about(shown, texts, message):
    with pytest.raises(UserError, match=message):
        shown.chosen(shown.tabs[2], texts)


def test_labels_are_those_of_the_benchmark(shown, loaded):
    found = shown.chosen(shown.tabs[2], ["The cat saw the hat.", "Ann"])
    with torch.inference_mode():
        [(_, [logs])] = LocalModel(*loaded).likelihoods([PREDICTIONS["mood"][0][0]], [BAD, "good"])
    assert list(found) == [BAD, "good"]
    assert sum(found.values()) == pytest.approx(1)
    assert list(found.values()) == pytest.approx(torch.tensor(logs).softmax(0).tolist(), rel=1e-4)


def test_attention_leaves_the_model_as_it_was_and_says_what_is_too_long(shown):
    usual = shown.model.config._attn_implementation
    strip, drawn = shown.inside("The dog saw", True)
    assert "<img" not in strip
    assert "data:image/png;base64," in drawn
    assert shown.model.config._attn_implementation == usual
    *_, message = shown.inside(LONG, True)
    assert re.search(r"more than 63 cannot be drawn. Shorten it.</p>$", message)
    assert len(list(shown.inside("The dog saw", False))) == 1


def test_the_files_of_a_space(run):
    found = space.space_files(run, "you/tiny")
    assert {"app.py", "README.md", "requirements.txt", "examples.json", "LICENSE", "hflm/demo/app.py"} <= found.keys()
    front = yaml.safe_load(found["README.md"].decode().split("---\n")[1])
    assert (front["sdk"], front["app_file"], front["models"]) == ("gradio", "app.py", ["you/tiny"])
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in found["requirements.txt"].decode().split())
    assert json.loads(found["examples.json"])["qa"] == [["The fox saw the cup in the mill.", "Where?"]]
    assert "pip install" not in found["README.md"].decode()
    compile(found["app.py"], "app.py", "exec")
    with pytest.raises(UserError, match=r"no recipe\.yaml"):
        space.space_files(run / "model", "you/tiny")


def test_without_gradio_the_command_says_how():
    code = "import sys; sys.modules['gradio'] = None; from hflm.cli import main; sys.argv[1:] = ['demo', 'x']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "`uv run --extra demo hflm demo MODEL`" in done.stderr
    assert "Traceback" not in done.stderr


# Notes each address outside this machine that the process asks for.
GUARD = """
import socket, sys
file, sys.argv[1:] = sys.argv[1], sys.argv[2:]
resolve, connect = socket.getaddrinfo, socket.socket.connect
def note(host):
    if host not in ("127.0.0.1", "localhost", "::1", b"127.0.0.1", None):
        with open(file, "a") as opened:
            opened.write(f"{host}\\n")
def resolving(host, *more, **options):
    note(host)
    return resolve(host, *more, **options)
def connecting(self, address):
    note(address[0])
    return connect(self, address)
socket.getaddrinfo, socket.socket.connect = resolving, connecting
from hflm.cli import main
main()
"""


@contextlib.contextmanager
def serving(command, end, ending, **options):
    """The address that a server prints first; at the end the signal `end` makes it exit with `ending`."""
    server = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  nothing of ours runs in it
        **options,
    )
    try:
        line = server.stdout.readline()
        assert line, server.stderr.read()
        yield re.search(r"http://\S+", line)[0], server
        server.send_signal(end)
        _, errors = server.communicate(timeout=60)
        assert server.returncode == ending
        assert "KeyboardInterrupt" not in errors
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    pytest.importorskip("gradio")
    asked = tmp_path_factory.mktemp("guard") / "asked"
    # No HF_HUB_OFFLINE: what a library asks for by itself is to be seen.
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    with serving([sys.executable, "-c", GUARD, str(asked), "demo", str(run)], signal.SIGINT, 130, env=environment) as (
        url,
        process,
    ):
        yield url, process
    assert not asked.exists(), asked.read_text()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None or sync_playwright is None:
        pytest.skip("needs Chromium and the package playwright")
    quiet = ("quic", "background-networking", "component-update", "sync", "gpu")
    arguments = ["--no-sandbox", "--no-first-run", *(f"--disable-{each}" for each in quiet)]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield found
        found.close()


@pytest.fixture
def page(browser, server, tmp_path):
    """The demo's page. At the end: nothing asked of others, no script of a visitor run, a screenshot."""
    url, _ = server
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    page = context.new_page()
    asked, broken = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.goto(url)
    page.get_by_role("tab", name="Generate").wait_for()
    yield page
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert page.evaluate("window.hacked") is None
    assert [each for each in asked if not each.startswith((url, "data:", "blob:"))] == []
    assert broken == []
    context.close()


def panel(page, tab):
    page.get_by_role("tab", name=tab).click()
    return page.locator("[role=tabpanel]:visible")


def press(panel, name):
    panel.get_by_role("button", name=name, exact=True).click()


def test_the_page_says_what_it_shows(page):
    assert page.title() == "tiny \u00b7 hflm"
    assert page.locator(".about h1").inner_text() == "tiny"
    assert page.locator(".about p").first.inner_text() == f"A model of [foxes] and {EVIL}."
    expect(panel(page, "Sentiment").locator("p.note")).to_have_count(0)
    assert panel(page, "Translate").locator("p.note").count() == 0


def test_generate(page, loaded):
    tab = panel(page, "Generate")
    tab.get_by_label("Prompt", exact=True).fill("The dog saw")
    tab.get_by_text("Settings").click()
    for name, default, value in (("temperature", "0.8", "0"), ("max_new_tokens", "100", "7")):
        box = tab.get_by_role("spinbutton", name=name)
        expect(box).to_have_value(default)
        box.fill(value)
        box.press("Tab")
        expect(box).to_have_value(value)
    press(tab, "Generate")
    *_, text = stream_text(*loaded, "The dog saw", 7)
    expect(tab.get_by_label("Text", exact=True)).to_have_value(f"The dog saw{text}")


def test_translate_from_an_example(page, loaded, shown):
    tab = panel(page, "Translate")
    tab.get_by_text("The dog saw the key.").click()
    expect(tab.get_by_label("English")).to_have_value("The dog saw the key.")
    press(tab, "Translate")
    expected = benchmark(loaded, PREDICTIONS["translation"][0][0], shown.tabs[0].task)
    assert expected
    expect(tab.get_by_label("Lumo")).to_have_value(expected)


def test_summarize_and_stop(page):
    tab = panel(page, "Summarize")
    tab.get_by_label("Document").fill("The fox saw the cup in the mill.")
    press(tab, "Summarize")
    expect(tab.get_by_label("Summary")).not_to_have_value("")
    press(tab, "Stop")
    tab.get_by_label("Document").fill(LONG)
    toast = page.get_by_test_id("toast-body").filter(has_text="there is no room for an answer. Shorten the text")
    for _ in range(30):  # Gradio ignores a press until the stopped request has ended
        press(tab, "Summarize")
        with contextlib.suppress(AssertionError):
            expect(toast).to_be_visible(timeout=2_000)
            return
    pytest.fail("the summary of a long document after Stop reports no error")


def test_sentiment(page, shown):
    tab = panel(page, "Sentiment")
    press(tab, "Judge")
    expect(page.get_by_test_id("toast-body")).to_contain_text("Text: write something first")
    tab.get_by_label("Text").fill("The cat saw the hat.")
    tab.get_by_label("Author").fill("Ann")
    press(tab, "Judge")
    found = shown.chosen(shown.tabs[2], ["The cat saw the hat.", "Ann"])
    expect(tab.get_by_test_id("label-output-value")).to_have_text(max(found, key=found.get))
    for label, p in found.items():
        expect(tab.get_by_test_id(f"{label}-confidence-set")).to_contain_text(f"{round(100 * p)}%")


def test_ask_with_the_enter_key(page, loaded, shown):
    tab = panel(page, "Ask")
    tab.get_by_label("Context").fill("The fox saw the cup in the mill.")
    tab.get_by_label("Question").fill("Where?")
    tab.get_by_label("Question").press("Enter")
    expected = benchmark(loaded, PREDICTIONS["qa"][0][0], shown.tabs[3].task)
    assert expected
    expect(tab.get_by_label("Answer")).to_have_value(expected)


def test_look_inside(page):
    tab = panel(page, "Look inside")
    tab.get_by_role("textbox", name="Text").fill("The dog saw the key.")
    press(tab, "Look inside")
    expect(tab.locator(".strip")).to_have_text("The dog saw the key.")
    image = tab.locator("img")
    image.wait_for()
    assert image.evaluate("image => image.naturalWidth") > 100


def test_what_a_visitor_types_stays_text(page):
    tab = panel(page, "Look inside")
    tab.get_by_role("textbox", name="Text").fill(EVIL)
    press(tab, "Look inside")
    expect(tab.locator(".strip")).to_have_text(EVIL)
    tab = panel(page, "Generate")
    tab.get_by_label("Prompt", exact=True).fill(EVIL)
    press(tab, "Generate")
    expect(tab.get_by_label("Text", exact=True)).to_have_value(re.compile(re.escape(EVIL)))
    tab = panel(page, "Translate")
    tab.get_by_text("<img").first.click()
    expect(tab.get_by_label("English")).to_have_value(EVIL)
    press(tab, "Translate")
    expect(tab.get_by_label("Lumo")).not_to_have_value("")


def test_only_this_machine_reaches_it(server):
    import psutil

    _, process = server
    listening = {each.laddr.ip for each in psutil.Process(process.pid).net_connections() if each.status == "LISTEN"}
    assert listening == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("a" * 20_001, 1, 5, 0, 1, 1), "Prompt: 20,001 characters are too many"),
        (("The", 1, 5, -1, 1, 1), "Value -1 is less than minimum value 0"),
        (("The", 1, 10**6, 0, 1, 1), "is greater than maximum value 512"),
        (("The", -2, 5, 0, 1, 1), "Value -2 is less than minimum value -1"),
    ],
)
def test_a_request_from_elsewhere_than_the_page(server, given, message):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(server[0], verbose=False)
    with pytest.raises(AppError, match=message):
        client.predict(*given, api_name="/generate")
    assert len(list(client.submit("The", 1, 5, 0.9, 1, 1, api_name="/generate"))) > 1  # streamed


def test_an_address_that_cannot_be_listened_at_is_reported_before_the_model_is_loaded():
    pytest.importorskip("gradio")
    from hflm.demo import serve as demo_page

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"at 127.0.0.1, port {port}: Address already in use. Try another --port"):
            demo_page.serve_demo("no/model", port=port)
    with pytest.raises(UserError, match=r"at 192\.0\.2\.1: Cannot assign requested address"):
        demo_page.serve_demo("no/model", host="192.0.2.1")


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("box.lan", False)],
)
def test_which_hosts_are_this_machine(host, alone):
    pytest.importorskip("gradio")
    from hflm.demo import serve as demo_page

    assert demo_page.is_loopback(host) == alone


def test_a_page_for_others_is_warned_about(tmp_path, capsys):
    pytest.importorskip("gradio")
    from hflm.demo import serve as demo_page

    with pytest.raises(UserError, match="holds no finished model"):
        demo_page.serve_demo(str(tmp_path), host="0.0.0.0")
    assert "warning: 0.0.0.0 is not this machine alone" in capsys.readouterr().err


@pytest.mark.slow
def test_a_space_runs_from_its_files_and_the_hub(run, tmp_path):
    pytest.importorskip("gradio")
    from gradio_client import Client

    # The Hub's cache, as a download leaves it: the model at the root, beside it card and recipe.
    repository = tmp_path / "cache" / "hub" / "models--you--tiny"
    shutil.copytree(run / "model", repository / "snapshots" / "abc")
    for name in ("recipe.yaml", "README.md"):
        shutil.copy(run / name, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    for name, content in space.space_files(run, "you/tiny").items():
        path = tmp_path / "space" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    app = tmp_path / "space" / "app.py"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app.write_text(app.read_text().replace("7860", str(port)))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    with serving([sys.executable, "app.py"], signal.SIGTERM, -signal.SIGTERM, env=environment, cwd=app.parent) as (
        url,
        _,
    ):
        client = Client(url, verbose=False)
        asked = json.loads((app.parent / "examples.json").read_text())["translation"][0]
        assert client.predict(*asked, api_name="/translate")
