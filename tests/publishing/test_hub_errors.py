"""Which failures of the Hub's client are tried again."""

import json

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError

from hflm.publishing import hub_errors


def answered(status):
    request = httpx2.Request("GET", "http://127.0.0.1/api/models/you/tiny")
    return HfHubHTTPError("no", response=httpx2.Response(status, request=request))


def caused_by(cause):
    error = RuntimeError("the file could not be fetched")
    error.__cause__ = cause
    return error


RECONSTRUCTION = "Request middleware error: error sending request for url (http://127.0.0.1:1/v2/reconstructions/a3f5)"


@pytest.mark.parametrize(
    "error, temporary",
    [
        (answered(408), True),
        (answered(412), True),
        (answered(429), True),
        (answered(503), True),
        (answered(401), False),
        (answered(404), False),
        (caused_by(answered(500)), True),
        (caused_by(answered(403)), False),
        (httpx2.ConnectError("refused"), True),
        (httpx2.ReadTimeout("slow"), True),
        (json.JSONDecodeError("cut", "{", 1), True),
        (ConnectionError(f"Network error: {RECONSTRUCTION}"), True),
        (RuntimeError(f"Task error: File reconstruction error: CAS Client Error: {RECONSTRUCTION}"), True),
        (RuntimeError(f"Previous task error: {RECONSTRUCTION}"), True),
        (RuntimeError("Data integrity error: hash mismatch"), False),
        (RuntimeError("User cancelled: Task error: no"), False),
        (PermissionError("Authentication error: expired"), False),
        (OSError(28, "No space left on device"), False),
        (ValueError("Configuration error: no such file"), False),
    ],
)
def test_only_what_may_pass_by_itself_is_tried_again(monkeypatch, error, temporary):
    monkeypatch.setattr(hub_errors.time, "sleep", lambda seconds: None)
    calls = []

    def call():
        calls.append(1)
        if len(calls) == 1:
            raise error
        return "done"

    if temporary:
        assert hub_errors.retry(None, call) == "done"
        assert len(calls) == 2
    else:
        with pytest.raises(type(error)):
            hub_errors.retry(None, call)
        assert len(calls) == 1
