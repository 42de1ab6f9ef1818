"""A model behind an OpenAI-compatible endpoint (a vendor's, vLLM, llama.cpp, `transformers serve`).

The `openai` package sends the requests and retries them: up to `retries` times on 408, 409, 429, 5xx, time-outs and
lost connections, after the time in Retry-After or with exponential back-off. The key is read from OPENAI_API_KEY when
a request is made, and is never part of a message or a file. Answers are limited in size and time, and redirects are not
followed: what a server sends is not trusted.
"""

import ipaddress
import json
import os
import re
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain, islice, repeat
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from hflm.core import EndpointError, MissingExtra, UserError, escape_controls, nfc
from hflm.inference.stopping import cut_at_stop

if TYPE_CHECKING:
    from openai import APIError, OpenAI, OpenAIError

T = TypeVar("T")
Prompt = str | list[dict[str, str]]  # a text, or the turns of a conversation, which only chat takes

ENDPOINT_PREFIX = "openai:"
KEY = "OPENAI_API_KEY"
MAX_BYTES = 2**22  # of an answer's body
MAX_STOPS = 4  # OpenAI's limit for one request; the text is cut at all of them afterwards
EXTRA_TOKENS = 8  # that an answer may have around its label, such as quotes


@dataclass(frozen=True)
class Endpoint:
    """The model `name` at `base_url`, asked by chat (one user message) or by completions (the prompt as it is).

    At most `concurrency` requests are in flight. `timeout` is in seconds, for each attempt.
    """

    name: str
    base_url: str
    chat: bool = False
    concurrency: int = 8
    timeout: float = 60
    retries: int = 5

    def texts(
        self,
        prompts: Iterable[Prompt],
        max_new_tokens: int,
        stop: Sequence[str],
        options: Mapping[str, Any] | None = None,
        seeds: Iterable[int] = (),
    ) -> Iterator[tuple[int, str]]:
        """Yield (index, text) as the answers end, in any order.

        It is greedy, or chosen as `options` of the request say; `seeds` are those of the rows, in their order. A text is cut before its first stop string and stripped, as by `cut_at_stop`. After a failure no new prompt is
        sent, the answers to the others are yielded, and then EndpointError is raised.
        """

        def text(client: "OpenAI", asked: tuple[Prompt, int | None]) -> str:
            prompt, seed = asked
            own = {**(options or {}), **({} if seed is None else {"seed": seed})}
            answer = self._request(client, prompt, max_new_tokens, stop, own)
            if stop and not answer.strip():
                # The text began with a stop string, where the endpoint ends it; cut_at_stop may not.
                answer = self._request(client, prompt, max_new_tokens, (), own)
            return cut_at_stop(answer, stop).strip()

        yield from self._answers(zip(prompts, chain(seeds, repeat(None)), strict=False), text)

    def choices(self, prompts: Iterable[str], choices: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Yield (index, the choice that the model's text begins with, or "") as the answers end, in any order."""
        # No tokenizer spells a word in more tokens than it has bytes.
        max_tokens = max(len(choice.encode()) for choice in choices) + EXTRA_TOKENS

        def choice(client: "OpenAI", prompt: str) -> str:
            return choice_of(self._request(client, prompt, max_tokens, ()), choices)

        yield from self._answers(prompts, choice)

    def _answers(self, prompts: Iterable[T], answer: Callable[["OpenAI", T], str]) -> Iterator[tuple[int, str]]:
        waiting = iter(enumerate(prompts))
        in_flight: dict[Future[str], int] = {}
        failure: BaseException | None = None
        # The client is closed first: whoever stops early does not wait for further attempts.
        with ThreadPoolExecutor(self.concurrency) as pool, self._client() as client:
            while True:
                for index, prompt in islice(waiting, self.concurrency - len(in_flight)):
                    in_flight[pool.submit(answer, client, prompt)] = index
                if not in_flight:
                    break
                for future in wait(in_flight, return_when=FIRST_COMPLETED).done:
                    index, error = in_flight.pop(future), future.exception()
                    if error is None:
                        yield index, future.result()
                    else:
                        waiting, failure = iter(()), failure or error
        if failure is not None:
            raise failure

    def _client(self) -> "OpenAI":
        openai = _openai()
        return openai.OpenAI(
            base_url=self.base_url,
            http_client=openai.DefaultHttpxClient(
                follow_redirects=False,
                event_hooks={"response": [self._limit_body]},
                headers={"Accept-Encoding": "identity"},
            ),
            api_key=os.environ.get(KEY) or "none",  # the client requires one, a server on this machine does not
            timeout=self.timeout,
            max_retries=self.retries,
        )

    def _limit_body(self, response: Any) -> None:
        """An event hook of httpx, called before a body is read."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise _BodyError("the answer is compressed, which was not asked for")
        response.stream = _limited_stream(response.stream, MAX_BYTES, time.monotonic() + self.timeout)

    def _request(
        self,
        client: "OpenAI",
        prompt: Prompt,
        max_tokens: int,
        stop: Sequence[str],
        sampling: Mapping[str, Any] | None = None,
    ) -> str:
        """The text that follows `prompt`, greedy without `sampling`; null is the empty text. Raises EndpointError."""
        options: dict[str, Any] = {"model": self.name, "max_tokens": max_tokens, "temperature": 0, **(sampling or {})}
        if stop:
            options["stop"] = list(stop[:MAX_STOPS])
        if self.chat:
            turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            resource, options["messages"] = client.chat.completions, turns
        else:
            resource, options["prompt"] = client.completions, prompt
        try:
            answer = resource.with_raw_response.create(**options).text
        except _BodyError as error:
            raise self._failed(str(error)) from None
        except _openai().OpenAIError as error:
            # `from None`: the cause may hold the key in a header.
            empty = "" if prompt else ". The prompt is empty, which not every endpoint takes"
            raise self._failed(self._reason(error).removesuffix(".") + empty) from None
        try:
            shape = json.loads(answer)
        except ValueError:
            raise self._failed(f"the answer is no JSON: {_short(answer)}") from None
        match shape:
            case {"choices": [{"message": {**message}}, *_]} if self.chat:
                text = message.get("content")  # some servers leave null out
            case {"choices": [{"text": text}, *_]} if not self.chat:
                pass
            case _:
                raise self._failed(f"the answer has no choices: {_short(answer)}")
        if not isinstance(text, str | None):
            raise self._failed(f"the answer's text is not a string: {_short(answer)}")
        return text or ""

    def _reason(self, error: "OpenAIError") -> str:
        openai = _openai()
        match error:
            case openai.APITimeoutError():
                return f"no answer within {self.timeout:g} seconds, {_attempts(self.retries)}"
            case openai.APIConnectionError():
                cause = _short(error.__cause__) or type(error.__cause__).__name__
                return f"no connection, {_attempts(self.retries)}: {cause}. Is the server running?"
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                # The server's message is left out: it may quote a part of the key.
                return f"refused with {error.status_code}. Check the key in {KEY}, and what it may use"
            case openai.NotFoundError():
                advice = "Check the model's name and --base-url (most end in /v1); a chat model may need --chat"
                return f"not found (404): {_server_message(error)}. {advice}"
            case openai.RateLimitError():
                return f"too many requests (429), {_attempts(self.retries)}: {_server_message(error)}. Try again later"
            case openai.APIStatusError() if 300 <= error.status_code < 400:
                target = urlsplit(error.response.headers.get("Location", ""))
                to = (
                    _short(f"{target.scheme}://{target.netloc.rpartition('@')[2]}") if target.netloc else "another path"
                )
                return f"it redirects to {to}, which is not followed. If that is the endpoint, set --base-url to it"
            case openai.APIStatusError():
                return f"refused with {error.status_code}: {_server_message(error)}"
        return _short(error)

    def _failed(self, reason: str) -> EndpointError:
        return EndpointError(f"{ENDPOINT_PREFIX}{self.name} at {self.base_url}: {reason}")


def find_endpoint(model: str, base_url: str | None = None, chat: bool = False) -> Endpoint:
    """The Endpoint of `openai:NAME`, by default at OPENAI_BASE_URL or else OpenAI itself. Sends no request.

    Warns if the key and the prompts would be sent unencrypted. Raises MissingExtra without the `openai` package, and
    UserError for an invalid URL or one that holds a secret, and for a missing key, which only a loopback host does not
    need.
    """
    name = model.removeprefix(ENDPOINT_PREFIX)
    if not name:
        raise UserError(f"{model}: write the model's name at the endpoint after the colon, {ENDPOINT_PREFIX}NAME")
    openai = _openai()
    try:
        url = str(openai.OpenAI(base_url=base_url, api_key="none").base_url).rstrip("/")
        parts = urlsplit(url)
    except Exception:  # noqa: BLE001  only a URL is parsed here, and each parser of URLs has errors of its own
        url, parts = "", urlsplit("")
    option = "--base-url" if base_url is not None else "OPENAI_BASE_URL"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{option}: not the URL of an endpoint. Write one such as http://localhost:8000/v1")
    if "@" in parts.netloc or parts.query:
        raise UserError(
            f"{option}: the URL is written to the run's files. Leave out user and query, and set the key in {KEY}"
        )
    key, is_local = os.environ.get(KEY, ""), _is_loopback(parts.hostname)
    if not key and not is_local:
        raise UserError(
            f"{ENDPOINT_PREFIX}{name}: {KEY} is not set, and {parts.hostname} is another machine. "
            "Set it to your key, or to any word if the server needs none"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"{KEY}: it contains white space or a character that no key has. Copy it again")
    if parts.scheme == "http" and not is_local:
        warnings.warn(
            f"{url} is not encrypted: the key and all prompts can be read by others on the network", stacklevel=2
        )
    return Endpoint(name, url, chat)


def request_options(generation: Mapping[str, Any]) -> dict[str, Any]:
    """The request's options for a task's `generation`. Raises UserError for one that the API has no name for.

    >>> request_options({"do_sample": True, "top_p": 0.9})
    {'temperature': 1.0, 'top_p': 0.9}
    """
    unknown = [name for name in generation if name not in ("do_sample", "temperature", "top_p")]
    unknown = [name for name in unknown if (name, generation[name]) != ("num_beams", 1)]
    if unknown:
        raise UserError(
            f"{' and '.join(unknown)}: an OpenAI-compatible endpoint has no such option, only do_sample, temperature and "
            "top_p. Remove it"
        )
    if not generation.get("do_sample"):
        return {}
    options = {name: value for name, value in generation.items() if name in ("temperature", "top_p")}
    return {"temperature": 1.0, **options}


def choice_of(text: str, choices: Sequence[str]) -> str:
    """The choice that `text` begins with, ignoring case and quotes before it, the longest first; or "".

    The whole text is tried first, so that answers in training's form are read exactly: A+ is not A, 1/10 not 1.

    >>> choice_of('"Very good", I think', ["good", "very good"]), choice_of("Nothing", ["yes", "no"])
    ('very good', '')
    """
    text, composed = nfc(text.strip()), {nfc(choice): choice for choice in choices}
    if text in composed:
        return composed[text]
    text = text.casefold()
    for start in (text, re.sub(r"^[\W_]+", "", text)):
        for choice in sorted(choices, key=len, reverse=True):
            rest = start.removeprefix(nfc(choice).casefold())
            if rest != start and not _continues(rest):
                return choice
    return ""


def _continues(rest: str) -> bool:
    """Whether the text after a label goes on with its word or number.

    "no" does not begin "nothing", 1 begins neither 10 nor 1/10 nor 1.5, A not A+, a letter not the same one with a mark.
    Letters without case have no such borders: in the scripts that they belong to, a word need not end in a space.
    """
    first, second = rest[:1], rest[1:2]
    if first and unicodedata.category(first)[0] == "M":
        return True
    in_word = second.islower() or second.isdigit()
    return (first.islower() or first.isdigit() or first in ("+", "#") or (first in ("/", "-", "'") and in_word)) or (
        first in (".", ",", ":") and second.isdigit()
    )


class _BodyError(Exception):
    """A body that is not read to its end."""


def _limited_stream(stream: Any, max_bytes: int, deadline: float) -> Any:
    """The stream of an answer, which raises _BodyError after `max_bytes`, and after `deadline` on the monotonic clock."""
    import httpx2  # the HTTP library of openai

    class Limited(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for chunk in stream:
                size += len(chunk)
                if size > max_bytes:
                    raise _BodyError(f"the answer is longer than {max_bytes:,} bytes")
                if time.monotonic() > deadline:
                    raise _BodyError("the answer does not end in time")
                yield chunk

        def close(self) -> None:
            stream.close()

    return Limited()


def _openai() -> ModuleType:
    try:
        import openai
    except ImportError:
        raise MissingExtra("api", f"a model behind an endpoint ({ENDPOINT_PREFIX}NAME)") from None
    return openai


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _server_message(error: "APIError") -> str:
    """The server's message: OpenAI's `{"error": {"message": ...}}`, of which the client keeps the inner part."""
    match error.body:
        case {"message": str(message)}:
            return _short(message).rstrip(".")
    return _short(error.body or "no message").rstrip(".")


def _short(text: Any) -> str:
    """A server's message on one line, without the key and control characters, at most 200 characters."""
    key, text = os.environ.get(KEY), str(text)
    line = escape_controls(" ".join((text.replace(key, "(key)") if key else text).split()))
    return line if len(line) <= 200 else f"{line[:200]}..."


def _attempts(retries: int) -> str:
    return "tried once" if retries == 0 else f"tried {retries + 1} times"
