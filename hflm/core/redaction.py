"""What of a run may be published: no secrets, no account names, no folders of this machine."""

import re
from pathlib import Path
from typing import Any

SECRET_KEYS = {"token", "use_auth_token", "hub_token", "password", "secret", "api_key", "storage_options"}
TEXT_KEYS = {"prompt", "stop", "labels"}  # the user's own words, never a path
DATASET_BUILDERS = {"toy", "arrow", "csv", "json", "pandas", "parquet", "sql", "text", "webdataset", "xml"}
FILE_SUFFIXES = {".arrow", ".csv", ".gguf", ".gz", ".json", ".jsonl", ".parquet", ".tsv", ".txt", ".xz", ".zip", ".zst"}

# The Hub's access tokens, and the keys of OpenAI and of those who follow it (sk-..., sk-proj-...).
TOKEN = re.compile(r"hf_(?:(?:oauth|jwt)_[\w.-]{8,}|[A-Za-z0-9]{8,})|(?<![\w-])sk-(?=[\w-]*\d)[\w-]{16,}")
# A password may hold a slash in the URL of a database, which no other text looks like.
URL_PASSWORD = re.compile(r"((?:postgres|mysql|mariadb)[\w+]*://[^\s/:@]*):\S*@|(://[^\s/:@?#]*):[^\s/?#]*@")
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/@]*@)?([^\s?#]*)(?:\?[^\s#]*)?")
LOCAL = re.compile(r"file://|[~/\\]|\.\.[/\\]|[A-Za-z]:[/\\]")
PART = r"[^\s\\/'\",;:=]+"
EMBEDDED = re.compile(rf"(?<![\w/:.~])(?:(?:~\w*)?/|[A-Za-z]:[\\/]|\.\./)(?:{PART}[\\/])+({PART})?")
REPO_ID = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*", re.ASCII)


def redact(value: Any) -> Any:
    """`value` (what YAML or JSON holds) for publication: secrets dropped, local paths cut to their last part.

    >>> redact({"path": "/home/alice/corpus.txt", "token": "hf_abcdefgh", "n": 3})
    {'path': 'corpus.txt', 'n': 3}
    >>> redact("hflm run /home/alice/a.yaml --set model.from=/mnt/models/base")
    'hflm run a.yaml --set model.from=base'
    """
    if isinstance(value, dict):
        return {
            key: mask_tokens(inner) if key in TEXT_KEYS else redact(inner)
            for key, inner in value.items()
            if key not in SECRET_KEYS
        }
    if isinstance(value, list | tuple):
        return [redact(inner) for inner in value]
    return _redact_text(value) if isinstance(value, str) else value


def mask_tokens(value: Any) -> Any:
    """`value` with every token, key and password of a URL in its strings masked.

    >>> mask_tokens(["hf_abcdefgh", "postgresql://me:secret@host/db"])
    ['hf_(hidden)', 'postgresql://me:(hidden)@host/db']
    """
    if isinstance(value, list | tuple):
        return [mask_tokens(inner) for inner in value]
    if not isinstance(value, str):
        return value
    value = URL_PASSWORD.sub(lambda found: f"{found[1] or found[2]}:(hidden)@", value)
    return TOKEN.sub(lambda token: f"{token[0][:3]}(hidden)", value)


def has_secret(text: str) -> bool:
    """Whether a text holds a token or key, as random characters show: a column `hf_question` is none.

    >>> has_secret("hf_aB3dE5gH7jK9"), has_secret("hf_question"), has_secret("sk-proj-" + "q7" * 12)
    (True, False, True)
    """
    return any(
        re.search(r"\d", token) or len(token) >= 24 or (re.search("[A-Z]", token) and re.search("[a-z]", token[3:]))
        for token in TOKEN.findall(text)
    )


def _redact_text(text: str) -> str:
    text = mask_tokens(text)
    if LOCAL.match(text) and not re.search(r"\s-", text):  # one path, spaces and all; with options it is a command
        return last_path_part(text)
    # A URL may carry a password before its host or a signature after its path.
    text = URL.sub(r"\1\2", text)
    return EMBEDDED.sub(lambda path: path[1] or "", text)


def last_path_part(path: str) -> str:
    r"""'/home/alice/my corpus.txt' -> 'my corpus.txt', 'C:\data\a.txt' -> 'a.txt'."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def is_hub_id(path: str) -> bool:
    """Whether `path` names something on the Hub rather than a file, a folder or a builder of datasets.

    >>> is_hub_id("stanfordnlp/sst2"), is_hub_id("toy"), is_hub_id("data/corpus.txt")
    (True, False, False)
    """
    plain = bool(REPO_ID.fullmatch(path)) and path not in DATASET_BUILDERS and Path(path).suffix not in FILE_SUFFIXES
    return plain and not Path(path).exists()


def display_name(path: str) -> str:
    """How a card names a data set or a base model: a Hub id or a URL in full, anything local by its last part."""
    return _redact_text(path) if is_hub_id(path) or "://" in path else last_path_part(path)
