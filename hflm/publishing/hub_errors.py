"""Failures of the Hub's client: which may pass by themselves, and how they are reported without secrets."""

import json
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from hflm.core import URL, logger, mask_tokens

TIMEOUT = (10.0, 300.0, 300.0, 60.0)  # seconds to connect, read, write, queue; the Hub's own client waits forever
WAITS = (1, 2, 4, 8, 15)  # seconds between attempts. One call of ours may make four requests that fail on their own
# hf_xet's words for a transfer that failed in the background: a RuntimeError in which the kind of the cause is lost.
XET_TASK = ("Task error:", "Previous task error:")
Result = TypeVar("Result")


def retry(token: str | None, call: Callable[[], Result], what: str = "push") -> Result:
    """call(), repeated after failures that may pass by themselves: the Hub's client repeats only some requests.

    what: names the work in the log.
    """
    for wait in WAITS:
        try:
            return call()
        except Exception as error:
            if not is_temporary(error):
                raise
            logger.info(f"{what}: {describe(error, token)}; again in {wait} s")
        time.sleep(wait)
    return call()


def is_temporary(error: BaseException) -> bool:
    """Whether a failure may pass by itself: no connection, a busy Hub, a commit that overtook ours."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    for each in _causes(error):
        if isinstance(each, HfHubHTTPError):
            return each.response.status_code in (408, 412, 429) or each.response.status_code >= 500
        # An answer that was cut is no JSON. hf_xet, which retries by itself, raises the other two when it gives up.
        if isinstance(each, json.JSONDecodeError | ConnectionError | TimeoutError):
            return True
        if isinstance(each, RuntimeError) and str(each).startswith(XET_TASK):
            return True
        if isinstance(each, httpx2.TimeoutException | httpx2.NetworkError | httpx2.RemoteProtocolError):
            return True
    return False


def reason(error: BaseException, repo_id: str, token: str | None) -> str:
    """What is wrong, and what to do about a status that has one remedy."""
    from huggingface_hub.errors import HfHubHTTPError

    statuses = [each.response.status_code for each in _causes(error) if isinstance(each, HfHubHTTPError)]
    unknown = "The Hub does not know this token: log in with `hf auth login`, or set HF_TOKEN"
    refused = f"Check that the token may write to {repo_id}: https://huggingface.co/settings/tokens"
    hints = {401: unknown, 403: refused, 404: refused}  # what a token may not see is reported as missing
    hint = next((hints[status] for status in statuses if status in hints), None)
    described = describe(error, token)
    return f"{described}. {hint}" if hint else described


def describe(error: BaseException, token: str | None) -> str:
    """What is wrong, on one line, without the token and without the signatures of URLs."""
    from huggingface_hub.errors import HfHubHTTPError

    parts = []
    for each in _causes(error):
        if isinstance(each, HfHubHTTPError):
            answer = each.response
            request = f"{answer.request.method} {answer.request.url.path}"
            text = f"{each.server_message or answer.reason_phrase} ({answer.status_code}, {request})"
        else:
            text = " ".join(str(each).split()) or type(each).__name__
        parts.append(text.rstrip(".:"))
    return without_secrets(": ".join(dict.fromkeys(parts)), token)[:500]


def without_secrets(text: str, token: str | None) -> str:
    return mask_tokens(URL.sub(r"\1\2", text.replace(token, "(token)") if token else text))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it was made of, down to the Hub's answer: the client wraps what happened to one file."""
    from huggingface_hub.errors import HfHubHTTPError

    while error is not None:
        yield error
        error = None if isinstance(error, HfHubHTTPError) else error.__cause__
