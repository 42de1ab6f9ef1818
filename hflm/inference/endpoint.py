"""A model behind an OpenAI-compatible endpoint (a vendor's, vLLM, llama.cpp, `transformers serve`), asked over HTTP.

The `openai` package talks, waits and retries: up to `retries` times on 408, 409, 429, 5xx, time-outs and lost
connections, as Retry-After says or with exponential back-off. The key is read from OPENAI_API_KEY when a request is
made, and stands in no message and no file.
"""

import ipaddress
import json
import os
import re
import warnings
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from urllib.parse import urlsplit

from hflm.core import EndpointError, MissingExtra, UserError

PREFIX = "openai:"
KEY = "OPENAI_API_KEY"
MOST_STOPS = 4  # that OpenAI takes in one request; a longer list still cuts the text here
QUOTES = 8  # tokens that an answer may spend around its label


@dataclass(frozen=True)
class Endpoint:
    """The model `name` at `base_url`, asked by chat (one user message) or by completions (the prompt as it is).

    At most `concurrency` requests are in flight. `timeout` is in seconds, for each try.
    """

    name: str
    base_url: str
    chat: bool = False
    concurrency: int = 8
    timeout: float = 60
    retries: int = 5

    def texts(self, prompts, max_new_tokens, stop):
        """Yield (index, greedy text) as the answers end, in any order.

        A text is cut before its first stop string and stripped, as `answer.cut_at` does. After a failure no new
        prompt is sent, what still comes is yielded, and then EndpointError is raised.
        """
        from hflm.inference.local import cut_at

        def text(client, prompt):
            asked = self._ask(client, prompt, max_new_tokens, stop)
            if stop and not asked.strip():
                # The model opened with a stop string, where the endpoint ends; what cut_at looks for comes behind it.
                asked = self._ask(client, prompt, max_new_tokens, ())
            return cut_at(asked, stop).strip()

        yield from self._answers(prompts, text)

    def choices(self, prompts, choices):
        """Yield (index, the choice that the model's text begins with, or "") as the answers end, in any order."""
        # No tokenizer spells a word in more tokens than it has bytes.
        longest = max(len(choice.encode()) for choice in choices) + QUOTES

        def choice(client, prompt):
            return chosen(self._ask(client, prompt, longest, ()), choices)

        yield from self._answers(prompts, choice)

    def _answers(self, prompts, answer):
        waiting, flying, failure = enumerate(prompts), {}, None
        # The client is closed first: whoever stops early does not wait for further tries.
        with ThreadPoolExecutor(self.concurrency) as pool, self._client() as client:
            while True:
                for index, prompt in islice(waiting, self.concurrency - len(flying)):
                    flying[pool.submit(answer, client, prompt)] = index
                if not flying:
                    break
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    index, error = flying.pop(future), future.exception()
                    if error is None:
                        yield index, future.result()
                    else:
                        waiting, failure = iter(()), failure or error
        if failure is not None:
            raise failure

    def _client(self):
        return _openai().OpenAI(
            base_url=self.base_url,
            api_key=os.environ.get(KEY) or "none",  # the client wants one, a server on this machine does not
            timeout=self.timeout,
            max_retries=self.retries,
        )

    def _ask(self, client, prompt, max_tokens, stop):
        """The greedy text that follows `prompt`; null is the empty text. Raises EndpointError."""
        options = {"model": self.name, "max_tokens": max_tokens, "temperature": 0}
        if stop:
            options["stop"] = list(stop[:MOST_STOPS])
        if self.chat:
            resource, options["messages"] = client.chat.completions, [{"role": "user", "content": prompt}]
        else:
            resource, options["prompt"] = client.completions, prompt
        try:
            answer = resource.with_raw_response.create(**options).text
        except _openai().OpenAIError as error:
            # `from None`: the cause may hold the key in a header.
            raise self._failed(self._reason(error)) from None
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
            raise self._failed(f"the answer's text is none: {_short(answer)}")
        return text or ""

    def _reason(self, error):
        openai = _openai()
        match error:
            case openai.APITimeoutError():
                return f"no answer within {self.timeout:g} seconds, {_tries(self.retries)}"
            case openai.APIConnectionError():
                cause = _short(error.__cause__) or type(error.__cause__).__name__
                return f"no connection, {_tries(self.retries)}: {cause}. Is the server running?"
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                # Its own words are left out: they may quote a part of the key.
                return f"refused with {error.status_code}. Check the key in {KEY}, and what it may use"
            case openai.NotFoundError():
                told = "Check the model's name and --base-url (most end in /v1); a chat model may need --chat"
                return f"not found (404): {_said(error)}. {told}"
            case openai.RateLimitError():
                return f"too many requests (429), {_tries(self.retries)}: {_said(error)}. Try again later"
            case openai.APIStatusError():
                return f"refused with {error.status_code}: {_said(error)}"
        return _short(error)

    def _failed(self, reason):
        return EndpointError(f"{PREFIX}{self.name} at {self.base_url}: {reason}")


def find(model, base_url=None, chat=False):
    """The Endpoint of `openai:NAME`, at OPENAI_BASE_URL or OpenAI itself where no `base_url` is given. Asks nothing.

    Warns where the key and the prompts would go unencrypted. Raises MissingExtra without the `openai` package, and
    UserError for a URL that is none or holds a secret, and for a missing key: only a loopback host does without.
    """
    name = model.removeprefix(PREFIX)
    if not name:
        raise UserError(f"{model}: write the model's name at the endpoint behind the colon, {PREFIX}NAME")
    openai = _openai()
    try:
        url = str(openai.OpenAI(base_url=base_url, api_key="none").base_url).rstrip("/")
        parts = urlsplit(url)
    except Exception:  # noqa: BLE001  only a URL is read here, and each reader of URLs has errors of its own
        parts = urlsplit("")
    place = "--base-url" if base_url is not None else "OPENAI_BASE_URL"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{place}: no URL of an endpoint. Write one such as http://localhost:8000/v1")
    if "@" in parts.netloc or parts.query:
        raise UserError(f"{place}: what a URL holds is written down, so leave out user and query. The key is {KEY}'s")
    key, near = os.environ.get(KEY, ""), _loopback(parts.hostname)
    if not key and not near:
        raise UserError(
            f"{PREFIX}{name}: {KEY} is not set, and {parts.hostname} is another machine. "
            "Set it to your key, or to any word where none is asked for"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"{KEY}: it holds white space or a character that no key has. Copy it again")
    if parts.scheme == "http" and not near:
        warnings.warn(f"{url} is not encrypted: the key and all prompts can be read on their way", stacklevel=2)
    return Endpoint(name, url, chat)


def chosen(text, choices):
    """The choice that `text` begins with, whatever its case and the quotes before it, the longest first; or "".

    >>> chosen('"Very good", I think', ["good", "very good"]), chosen("Nothing", ["yes", "no"])
    ('very good', '')
    """
    text = text.strip().casefold()
    for begun in (text, re.sub(r"^[\W_]+", "", text)):
        for choice in sorted(choices, key=len, reverse=True):
            rest = begun.removeprefix(choice.casefold())
            # "no" does not begin "nothing", nor 1 begin 10; scripts without spaces have no such words.
            if rest != begun and not (rest[:1].islower() or rest[:1].isdigit()):
                return choice
    return ""


def _openai():
    try:
        import openai
    except ImportError:
        raise MissingExtra("api", f"a model behind an endpoint ({PREFIX}NAME)") from None
    return openai


def _loopback(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _said(error):
    """The server's own words: OpenAI's `{"error": {"message": ...}}`, of which the client keeps the inner part."""
    match error.body:
        case {"message": str(message)}:
            return _short(message).rstrip(".")
    return _short(error.body or "no words").rstrip(".")


def _short(text):
    """Somebody else's words on one line, without the key, at most 200 characters of them."""
    key, text = os.environ.get(KEY), str(text)
    line = " ".join((text.replace(key, "(key)") if key else text).split())
    return line if len(line) <= 200 else f"{line[:200]}..."


def _tries(retries):
    return "tried once" if retries == 0 else f"tried {retries + 1} times"
