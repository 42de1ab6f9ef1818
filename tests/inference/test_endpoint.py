"""A model behind an endpoint: real requests to a server on loopback that misbehaves on demand, and to transformers'."""

import contextlib
import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import LABELS_THAT_BEGIN_ANOTHER

from hflm.core import EndpointError, MissingExtra, UserError, read_json_lines
from hflm.evaluation import read_results
from hflm.inference import Endpoint, find_endpoint, request_options
from hflm.inference.endpoint import choice_of
from hflm.pipeline import bench, resolve_inputs, run_recipe
from hflm.pipeline.bench import benchmark_model
from hflm.pipeline.stage_keys import dependencies_key, stage_dependencies
from hflm.recipe import load_recipe

SECRET = "sk-" + "q7" * 12


def written(text):
    return 200, {}, json.dumps({"choices": [{"text": text, "message": {"role": "assistant", "content": text}}]})


def failed(status, headers=(), message="no luck"):
    # Servers do quote what they were sent.
    return status, dict(headers), json.dumps({"error": {"message": f"{message} for Bearer {SECRET}"}})


OK = written(" Paris\nQuestion: and")


class Model(BaseHTTPRequestHandler):
    """Answers the n-th request with the server's n-th answer, the last one ever after; None is silence."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.log.append((self.path, self.headers, body))
            server.flying += 1
            server.most = max(server.most, server.flying)
            answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        if server.raw is not None:
            self.close_connection = True
            server.raw(self)
            return
        if server.together is not None:  # as many requests as the client may send are here before any is answered
            server.together.wait(30)
        if callable(answer):
            answer = answer(body)
        if answer is None:
            server.over.wait(30)
            self.close_connection = True
            return
        with server.lock:
            server.flying -= 1
        status, headers, text = answer
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        content = text.encode()
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Model) as server:
        server.daemon_threads = True
        server.lock, server.over, server.together = threading.Lock(), threading.Event(), None
        server.raw = None
        server.log, server.answers, server.flying, server.most = [], [OK], 0, 0
        server.url = f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.over.set()
        server.shutdown()


@pytest.mark.parametrize("chat", [False, True], ids=["completions", "chat"])
def test_a_prompt_goes_out_greedily_and_its_text_is_cut_and_stripped(server, chat):
    asked = find_endpoint("openai:tiny", server.url, chat)
    assert list(asked.texts(["The capital:"], 7, ("\n",))) == [(0, "Paris")]
    [(path, headers, body)] = server.log
    prompt = {"messages": [{"role": "user", "content": "The capital:"}]} if chat else {"prompt": "The capital:"}
    assert body == {"model": "tiny", "max_tokens": 7, "temperature": 0, "stop": ["\n"], **prompt}
    assert path == ("/v1/chat/completions" if chat else "/v1/completions")
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert SECRET not in repr(asked)


def test_sampling_is_asked_for_by_the_names_of_the_api(server):
    asked = find_endpoint("openai:tiny", server.url)
    options = request_options({"do_sample": True, "top_p": 0.9})
    found = asked.texts(["one", "two"], 7, (), options, [11, 12])
    assert sorted(found) == [(0, "Paris\nQuestion: and"), (1, "Paris\nQuestion: and")]
    sent = [{key: body[key] for key in ("prompt", "seed", "temperature", "top_p")} for _, _, body in server.log]
    assert sorted(sent, key=lambda body: body["prompt"]) == [
        {"prompt": "one", "seed": 11, "temperature": 1.0, "top_p": 0.9},
        {"prompt": "two", "seed": 12, "temperature": 1.0, "top_p": 0.9},
    ]


GOOD = [
    ("500 twice, then an answer", [failed(500), failed(500), OK], "Paris", 3),
    ("429 with Retry-After: 0", [failed(429, {"Retry-After": "0"}), OK], "Paris", 2),
    ("silence, then an answer", [None, OK], "Paris", 2),
    ("null is the empty text", [written(None)], "", 2),
    # The endpoint ends at a stop string that the model opens with, cut_at does not.
    ("a line break first", [written(""), written("\n Rome\nQuestion:")], "Rome", 2),
]


@pytest.mark.parametrize(("answers", "text", "requests"), [row[1:] for row in GOOD], ids=[row[0] for row in GOOD])
def test_an_answer_in_the_end(server, answers, text, requests):
    server.answers = answers
    asked = Endpoint("tiny", server.url, timeout=1, retries=2)
    assert list(asked.texts(["x"], 7, ("\n",))) == [(0, text)]
    assert len(server.log) == requests


BAD = [
    ("silence", None, 2, "no answer within 0.3 seconds, tried 2 times"),
    ("busy", failed(429, {"Retry-After": "0"}), 2, "too many requests (429), tried 2 times: no luck"),
    ("broken", failed(503), 2, "refused with 503: no luck"),
    ("wrong key", failed(401), 1, "refused with 401. Check the key in OPENAI_API_KEY"),
    ("forbidden", failed(403), 1, "refused with 403. Check the key in OPENAI_API_KEY"),
    ("unknown model", failed(404), 1, "not found (404): no luck for Bearer (key). Check the model's name"),
    ("bad request", failed(400), 1, "refused with 400: no luck for Bearer (key)"),
    ("a page", (200, {"Content-Type": "text/html"}, f"<html>\n{SECRET}"), 1, "the answer is no JSON: <html> (key)"),
    ("no choices", (200, {}, '{"choices": []}'), 1, 'the answer has no choices: {"choices": []}'),
    ("an error that says 200", (200, {}, '{"error": "x"}'), 1, 'the answer has no choices: {"error": "x"}'),
    ("a list", (200, {}, "[1]"), 1, "the answer has no choices: [1]"),
    ("text that is no string", written(5), 1, "the answer's text is not a string"),
]


def endless(handler):
    """A body without an end, in chunks."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")


def slow(handler):
    """A body that comes byte by byte."""
    handler.send_response(500)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(1000):
            handler.wfile.write(b"x")
            time.sleep(0.05)


def compressed(handler):
    body = gzip.compress(b"x" * 10_000_000)
    handler.send_response(200)
    handler.send_header("Content-Encoding", "gzip")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


HOSTILE_BODIES = [
    (endless, "the answer is longer than 4,194,304 bytes"),
    (slow, "the answer does not end in time"),
    (compressed, "the answer is compressed"),
]


@pytest.mark.parametrize(("body", "words"), HOSTILE_BODIES, ids=lambda each: getattr(each, "__name__", ""))
def test_a_body_is_limited_in_size_and_time(server, body, words):
    server.raw = body
    with pytest.raises(EndpointError, match=words):
        list(Endpoint("tiny", server.url, timeout=1, retries=0).texts(["x"], 7, ()))


def test_a_redirect_is_not_followed(server):
    elsewhere = failed(307, {"Location": f"http://localhost:{server.server_port}/v1/elsewhere?key={SECRET}"})
    server.answers = [elsewhere, OK]
    with pytest.raises(
        EndpointError, match=rf"redirects to http://localhost:{server.server_port}, which is not"
    ) as raised:
        list(Endpoint("tiny", server.url, retries=1).texts(["x"], 7, ()))
    assert len(server.log) == 1 and SECRET not in str(raised.value)


def test_a_servers_message_cannot_write_to_the_terminal(server):
    server.answers = [failed(400, message="\x1b[2J\x1b]0;title\x07 no")]
    with pytest.raises(EndpointError) as raised:
        list(Endpoint("tiny", server.url).texts(["x"], 7, ()))
    assert str(raised.value).isprintable() and "u001b[2J" in str(raised.value)


@pytest.mark.parametrize("chat", [False, True], ids=["completions", "chat"])
@pytest.mark.parametrize(("answer", "requests", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_failure_is_one_clear_line_without_the_key(server, capfd, answer, requests, words, chat):
    server.answers = [answer]
    with pytest.raises(EndpointError) as raised:
        list(Endpoint("tiny", server.url, chat, timeout=0.3, retries=1).texts(["x"], 7, ()))
    message = str(raised.value)
    assert message.startswith(f"openai:tiny at {server.url}: {words}")
    assert len(message.splitlines()) == 1 and len(message) < 400
    assert SECRET not in message + "".join(capfd.readouterr())
    assert len(server.log) == requests


def test_a_refused_connection():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        with pytest.raises(EndpointError, match="no connection, tried once: .*refused.*Is the server running"):
            list(Endpoint("tiny", url, retries=0).texts(["x"], 7, ()))


def test_requests_in_flight_are_bounded_and_prompts_are_taken_as_they_are_needed(server):
    server.together = threading.Barrier(3)
    server.answers = [lambda body: written(f"{body['prompt']}!")]
    taken = []
    prompts = (taken.append(number) or str(number) for number in range(12))
    found = {}
    for index, text in Endpoint("tiny", server.url, concurrency=3).texts(prompts, 7, ()):
        found[index] = text
        assert len(taken) <= len(found) + 3
    assert found == {number: f"{number}!" for number in range(12)}
    assert server.most == 3


def test_what_has_ended_is_yielded_before_a_failure_and_nothing_new_is_sent(server):
    server.together = threading.Barrier(3)
    server.answers = [lambda body: failed(400) if body["prompt"] == "1" else written(body["prompt"])]
    found = []
    with pytest.raises(EndpointError, match="refused with 400"):
        for index, text in Endpoint("tiny", server.url, concurrency=3).texts(map(str, range(3)), 7, ()):
            found.append((index, text))
    assert sorted(found) == [(0, "0"), (2, "2")]
    server.together, server.log[:] = None, []
    with pytest.raises(EndpointError):
        list(Endpoint("tiny", server.url, concurrency=1).texts(map(str, range(9)), 7, ()))
    assert [body["prompt"] for _, _, body in server.log] == ["0", "1"]


CHOSEN = [
    (" positive.", "positive"),
    ("**Very Positive**\n", "very positive"),
    ('"Positive" it is', "positive"),
    ("Positively", ""),
    ("It is positive", ""),
    ("", ""),
    ("正面的评论", "正面"),
    ("10 of 10", ""),
    ("1.", "1"),
    ("1.5", ""),
    ("1/10", ""),
    ("positive, I think", "positive"),
    ("positive/negative", ""),
]


@pytest.mark.parametrize(("text", "choice"), CHOSEN)
def test_the_choice_that_a_text_begins_with(text, choice):
    assert choice_of(text, ("positive", "very positive", "正面", "1")) == choice


@pytest.mark.parametrize(
    ("labels", "text", "choice"),
    [
        (("e", "\u00e9"), "e\u0301", "\u00e9"),
        (("e", "e\u0301"), "\u00c9.", "e\u0301"),
        (("\u0939\u093e",), "\u0939\u093e\u0901 \u091c\u0940", ""),  # a letter and the same with a mark
        ((".NET", "NET"), ".net", ".NET"),
        (("1", "-1"), "-1", "-1"),
        (("class 1", "class 10"), "Class 1.", "class 1"),
    ],
)
def test_marks_and_signs_belong_to_a_choice(labels, text, choice):
    assert choice_of(text, labels) == choice


@pytest.mark.parametrize("labels", LABELS_THAT_BEGIN_ANOTHER, ids=" ".join)
@pytest.mark.parametrize("chat", [False, True], ids=["completions", "chat"])
def test_an_endpoint_that_answers_as_trained_is_always_right(server, chat, labels):
    def answer(body):
        prompt = body["messages"][0]["content"] if chat else body["prompt"]
        return written(f" {labels[int(prompt)]}")

    server.answers = [answer]
    answers = dict(Endpoint("tiny", server.url, chat).choices(map(str, range(len(labels))), labels))
    assert [answers[row] for row in range(len(labels))] == list(labels)


def test_an_endpoint_that_refuses_an_empty_prompt_is_named_with_that_reason(server):
    server.answers = [failed(400)]
    with pytest.raises(
        EndpointError, match=r"refused with 400: .*\. The prompt is empty, which not every endpoint takes"
    ):
        list(Endpoint("tiny", server.url).texts([""], 3, ()))


def test_choices_are_asked_without_stop_and_with_room_for_the_longest(server):
    server.answers = [written("\n\nGOOD")]
    asked = Endpoint("tiny", server.url)
    assert list(asked.choices(["x"], ("good", "schön"))) == [(0, "good")]
    assert "stop" not in server.log[0][2] and server.log[0][2]["max_tokens"] >= len("schön".encode())


PLACES = [
    ("http://localhost:1/v1/", "", "http://localhost:1/v1"),
    ("http://127.0.0.1:1/v1", SECRET, "http://127.0.0.1:1/v1"),
    ("http://[::1]:1/v1", "", "http://[::1]:1/v1"),
    ("https://api.example.com/v1", SECRET, "https://api.example.com/v1"),
    (None, SECRET, "https://api.openai.com/v1"),
    ("https://api.example.com/v1", "", "OPENAI_API_KEY is not set, and api.example.com is another machine"),
    (None, "", "OPENAI_API_KEY is not set, and api.openai.com is another machine"),
    ("https://api.example.com/v1", f"{SECRET}\n", "OPENAI_API_KEY: it contains white space"),
    ("https://api.example.com/v1", f"{SECRET}é", "OPENAI_API_KEY: it contains white space"),
    ("localhost:8000/v1", SECRET, "--base-url: not the URL of an endpoint"),
    ("ftp://localhost/v1", SECRET, "--base-url: not the URL of an endpoint"),
    ("http://[::1", SECRET, "--base-url: not the URL of an endpoint"),
    ("", SECRET, "--base-url: not the URL of an endpoint"),
    (f"https://me:{SECRET}@api.example.com/v1", SECRET, "--base-url: the URL is written to the run's files"),
    (f"https://api.example.com/v1?key={SECRET}", SECRET, "--base-url: the URL is written to the run's files"),
]


@pytest.mark.parametrize(("base_url", "key", "outcome"), PLACES)
def test_where_an_endpoint_is_and_what_it_needs(monkeypatch, base_url, key, outcome):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    if outcome.startswith("http"):
        assert find_endpoint("openai:org/m", base_url) == Endpoint("org/m", outcome)
        return
    with pytest.raises(UserError) as raised:
        find_endpoint("openai:org/m", base_url)
    assert outcome in str(raised.value) and SECRET not in str(raised.value)


def test_the_environments_base_url_and_a_missing_name(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:7/v1")
    assert find_endpoint("openai:m", chat=True) == Endpoint("m", "http://localhost:7/v1", chat=True)
    monkeypatch.setenv("OPENAI_BASE_URL", "nowhere")
    with pytest.raises(UserError, match="OPENAI_BASE_URL: not the URL"):
        find_endpoint("openai:m")
    with pytest.raises(UserError, match="write the model's name"):
        find_endpoint("openai:")


def test_an_unencrypted_endpoint_on_another_machine_is_warned_of():
    with pytest.warns(UserWarning, match="http://192.0.2.1/v1 is not encrypted") as warned:
        find_endpoint("openai:m", "http://192.0.2.1/v1")
    assert SECRET not in str(warned[0].message)


def test_a_server_on_this_machine_is_sent_no_key_where_none_is_set(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert list(find_endpoint("openai:tiny", server.url).texts(["x"], 7, ("\n",))) == [(0, "Paris")]
    assert server.log[0][1]["Authorization"] == "Bearer none"


def test_without_the_package_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtra, match=r"uv sync --extra api \(or pip install 'hflm-recipes\[api\]'\)"):
        find_endpoint("openai:m", "http://localhost:1/v1")


RECIPE = """
name: good
model: {from: org/base}
benchmark: {tasks: [reviews, stories]}
tasks:
  reviews: {kind: sentiment, data: {path: toy, name: sentiment, size: 9}, labels: [negative, neutral, positive]}
  stories: {kind: language_modeling, data: {path: toy, name: stories, size: 9}}
"""


def test_bench_refuses_text_likelihoods_before_any_request(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(RECIPE)
    with pytest.raises(UserError, match="stories needs the likelihood of its text"):
        benchmark_model("openai:tiny", load_recipe("good.yaml"), base_url=server.url)
    assert not server.log and not Path("runs").exists()


def test_bench_refuses_what_the_api_has_no_name_for_before_any_request(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = RECIPE.replace("tasks: [reviews, stories]", "tasks: [answers]")
    text += (
        "  answers: {kind: qa, data: {path: toy, name: qa, size: 9}, generation: {num_beams: 5, length_penalty: 0.6}}\n"
    )
    Path("good.yaml").write_text(text)
    message = "tasks.answers.generation: num_beams and length_penalty: an OpenAI-compatible endpoint has no such option"
    with pytest.raises(UserError, match=message):
        benchmark_model("openai:tiny", load_recipe("good.yaml"), base_url=server.url)
    assert not server.log
    sampled = load_recipe("good.yaml", ["tasks.answers.generation={do_sample: true, temperature: 0.5}"])
    benchmark_model("openai:tiny", sampled, "bench", base_url=server.url)
    assert {body["temperature"] for _, _, body in server.log} == {0.5}
    assert len({body["seed"] for _, _, body in server.log}) == 9
    task = read_results(Path("bench/benchmark/results.json")).tasks["answers"]
    assert task.decoding.startswith("sampled with a seed a row (temperature 0.5), at most 32 tokens")


def test_bench_sends_conversations_turn_by_turn_to_a_chat(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    Path("chats.jsonl").write_text(json.dumps({"messages": [*turns, {"role": "assistant", "content": "Paris"}]}) + "\n")
    text = "name: good\nmodel: {from: org/base}\nbenchmark: {tasks: [chat]}\n"
    text += "tasks: {chat: {data: {path: chats.jsonl}, splits: {test: train}, stop: [Question]}}\n"
    Path("good.yaml").write_text(text)
    refused = {
        (): "chat are conversations, which an endpoint takes by chat. Add --chat",
        (True,): "tasks.chat.metrics: bits_per_byte and perplexity need likelihoods, which an endpoint does not give",
    }
    for chat, message in refused.items():
        with pytest.raises(UserError, match=message):
            benchmark_model("openai:tiny", load_recipe("good.yaml"), "bench", server.url, *chat)
    scored = load_recipe("good.yaml", ["tasks.chat.metrics=[exact_match]"])
    benchmark_model("openai:tiny", scored, "bench", server.url, True)
    assert [body["messages"] for _, _, body in server.log] == [turns]
    task = read_results(Path("bench/benchmark/results.json")).tasks["chat"]
    assert task.metrics["exact_match"].value == 100 and task.decoding.endswith("by the endpoint's chat template")


def test_bench_hands_the_endpoint_on_in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(RECIPE)
    handed = []
    monkeypatch.setattr(bench, "run_recipe", lambda recipe, folder, endpoint: handed.append((folder, endpoint)))
    loaded = load_recipe("good.yaml", ["benchmark.tasks=[reviews]"])
    benchmark_model("openai:org/tiny", loaded, base_url="http://localhost:1/v1", chat=True)
    folder = Path("runs/good-bench-openai--org--tiny")
    assert handed == [(folder, Endpoint("org/tiny", "http://localhost:1/v1", chat=True))]
    endpoints = (None, handed[0][1], Endpoint("org/tiny", "http://localhost:2/v1"))
    keys = [stage_dependencies(loaded, resolve_inputs(loaded), endpoint) for endpoint in endpoints]
    assert len({dependencies_key(key["benchmark/reviews"]) for key in keys}) == 3


@contextlib.contextmanager
def served(folder):
    """The base URL of `transformers serve` for the model in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
    log = folder.with_suffix(".log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)],
            stdout=out,
            stderr=out,
            env={**os.environ, "HF_HOME": str(folder.parent / "hf")},
        )
    try:
        for _ in range(240):
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


TUNED = """
name: tuned
tokenizer: {train: {vocab_size: 400}}
model: {preset: gpt2-nano, n_layer: 2, n_head: 2, n_embd: 32, n_positions: 64, initializer_range: 0.3}
finetune: {tasks: [qa], args: {max_steps: 1}}  # wild weights and no training: what is written hangs on every token
benchmark: {tasks: [qa], resamples: 20, contamination: false}  # which the run itself alone could tell
tasks:
  qa:
    data: {path: toy, name: qa, size: 40}
    splits: {train: train, test: "test[:12]"}
    prompt: "Q: {{ question }}\\nA:"
    max_new_tokens: 6
"""


CHAT = """
name: chat
tokenizer: {train: {vocab_size: 400}}
model: {preset: gpt2-nano, n_layer: 2, n_head: 2, n_embd: 32, n_positions: 128, initializer_range: 0.3}
finetune: {tasks: [chat], args: {max_steps: 1}}
benchmark: {tasks: [chat], resamples: 20}
tasks:
  chat: {data: {path: chats.jsonl}, splits: {test: train}, max_new_tokens: 6, metrics: [rougeL]}
"""


@pytest.mark.slow
def test_transformers_serve_answers_conversations_as_the_model_here_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        [{"role": role, "content": f"{word} {number}"} for word in words for role in ("user", "assistant")]
        for number, words in enumerate((("dog",), ("cat", "fox"), ("key", "cup", "hat")) * 3)
    ]
    Path("chats.jsonl").write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in rows))
    Path("chat.yaml").write_text(CHAT)
    loaded = load_recipe("chat.yaml")
    run_recipe(loaded, "here")
    model = tmp_path / "here" / "model"
    with served(model) as url:
        benchmark_model(f"openai:{model}", loaded, "there", url, True)
    here, there = (
        [line["prediction"] for line in read_json_lines(Path(place) / "benchmark" / "predictions" / "chat.jsonl")]
        for place in ("here", "there")
    )
    assert here == there and len(set(here)) > 3


@pytest.mark.slow
def test_transformers_serve_writes_what_the_model_here_does_by_completions_and_by_chat(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tuned.yaml").write_text(TUNED)
    loaded = load_recipe("tuned.yaml")
    run_recipe(loaded, "here")
    model = tmp_path / "here" / "model"
    with served(model) as url:
        for place, chat in (("completions", False), ("chat", True)):
            benchmark_model(f"openai:{model}", loaded, place, url, chat)
        here, *there = (
            read_json_lines(tmp_path / place / "benchmark" / "predictions" / "qa.jsonl")
            for place in ("here", "completions", "chat")
        )
        assert there == [here, here]
        assert len({line["prediction"] for line in here}) > 6
        # A person types the question alone; the template puts it into the prompt that the model was trained on.
        questions = [line["prompt"].removeprefix("Q: ").removesuffix("\nA:") for line in here]
        asked = dict(Endpoint(str(model), url, chat=True).texts(questions, 6, ("\n",)))
    assert asked == {number: line["prediction"] for number, line in enumerate(here)}
    found = [
        read_results(tmp_path / place / "benchmark" / "results.json").tasks["qa"]
        for place in ("here", "completions", "chat")
    ]
    assert found[0].metrics == found[1].metrics == found[2].metrics


QUESTIONS = """
name: qa
model: {from: org/base}
benchmark: {tasks: [qa], resamples: 20}
tasks:
  qa: {data: {path: toy, name: qa, size: 12}, max_new_tokens: 6, stop: ["."]}
"""


def test_a_bench_that_an_endpoint_failed_goes_on_where_it_was(server, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("qa.yaml").write_text(QUESTIONS)
    server.answers = [OK, OK, OK, failed(403)]
    with pytest.raises(EndpointError, match="refused with 403"):
        benchmark_model("openai:tiny", load_recipe("qa.yaml"), "bench", base_url=server.url)
    answered = {body["prompt"] for _, _, body in server.log[:3]}
    assert not Path("bench/benchmark/results.json").exists()
    server.log.clear()
    server.answers = [OK]
    benchmark_model("openai:tiny", load_recipe("qa.yaml"), "bench", base_url=server.url)
    found = read_results(Path("bench/benchmark/results.json"))
    assert (found.model, found.tasks["qa"].n) == ("openai:tiny", 12)
    assert all(
        line["prediction"].startswith("Paris") for line in read_json_lines(Path("bench/benchmark/predictions/qa.jsonl"))
    )
    asked = {body["prompt"] for _, _, body in server.log}
    assert len(asked) == len(server.log) == 9
    assert not asked & answered
    for path in Path("bench").rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in "".join(capfd.readouterr())


def test_a_bench_over_an_endpoint_reads_labels_from_the_text(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(RECIPE)
    server.answers = [written(" Positive!"), written("I think so")]
    benchmark_model(
        "openai:tiny", load_recipe("good.yaml", ["benchmark.tasks=[reviews]"]), "bench", base_url=server.url
    )
    lines = read_json_lines(Path("bench/benchmark/predictions/reviews.jsonl"))
    assert sorted(line["prediction"] for line in lines) == [""] * 8 + ["positive"]
    assert "log_likelihoods" not in lines[0]
    task = read_results(Path("bench/benchmark/results.json")).tasks["reviews"]
    assert task.calibration is None
    assert task.decoding.startswith("the text begins with one of negative")
