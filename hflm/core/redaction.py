"""What of a run may be shown to others: no secrets, no account names, no folders of this machine."""

import re
from pathlib import Path

SECRETS = {"token", "use_auth_token", "hub_token", "password", "secret", "api_key", "storage_options"}
WORDING = {"prompt", "stop", "labels"}  # the user's own words, never a path
NO_DATASETS = {"toy", "arrow", "csv", "json", "pandas", "parquet", "sql", "text", "webdataset", "xml"}
FILES = {".arrow", ".csv", ".gguf", ".gz", ".json", ".jsonl", ".parquet", ".tsv", ".txt", ".xz", ".zip", ".zst"}

TOKEN = re.compile(r"hf_(?:(?:oauth|jwt)_[\w.-]{8,}|[A-Za-z0-9]{8,})")
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/@]*@)?([^\s?#]*)(?:\?[^\s#]*)?")
LOCAL = re.compile(r"file://|[~/\\]|\.\.[/\\]|[A-Za-z]:[/\\]")
PART = r"[^\s\\/'\",;:=]+"
EMBEDDED = re.compile(rf"(?<![\w/:.~])(?:(?:~\w*)?/|[A-Za-z]:[\\/]|\.\./)(?:{PART}[\\/])+({PART})?")
REPO_ID = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*", re.ASCII)


def public(value):
    """`value` (what YAML or JSON holds) fit to be seen: secrets dropped, local paths cut to their last part.

    >>> public({"path": "/home/alice/corpus.txt", "token": "hf_abcdefgh", "n": 3})
    {'path': 'corpus.txt', 'n': 3}
    >>> public("hflm run /home/alice/a.yaml --set model.from=/mnt/models/base")
    'hflm run a.yaml --set model.from=base'
    """
    if isinstance(value, dict):
        return {
            key: without_tokens(inner) if key in WORDING else public(inner)
            for key, inner in value.items()
            if key not in SECRETS
        }
    if isinstance(value, list | tuple):
        return [public(inner) for inner in value]
    return _text(value) if isinstance(value, str) else value


def without_tokens(value):
    """`value` with every Hub token in its strings masked: "hf_abcdefgh" -> "hf_(hidden)"."""
    if isinstance(value, list | tuple):
        return [without_tokens(inner) for inner in value]
    return TOKEN.sub("hf_(hidden)", value) if isinstance(value, str) else value


def _text(text):
    text = without_tokens(text)
    if LOCAL.match(text) and not re.search(r"\s-", text):  # one path, spaces and all; with options it is a command
        return last_part(text)
    # A URL may carry a password before its host or a signature after its path.
    text = URL.sub(r"\1\2", text)
    return EMBEDDED.sub(lambda path: path[1] or "", text)


def last_part(path):
    r"""'/home/alice/my corpus.txt' -> 'my corpus.txt', 'C:\data\a.txt' -> 'a.txt'."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def hub_id(path):
    """Whether `path` names something on the Hub rather than a file, a folder or a builder of datasets.

    >>> hub_id("stanfordnlp/sst2"), hub_id("toy"), hub_id("data/corpus.txt")
    (True, False, False)
    """
    plain = bool(REPO_ID.fullmatch(path)) and path not in NO_DATASETS and Path(path).suffix not in FILES
    return plain and not Path(path).exists()


def shown(path):
    """How a card names a data set or a base model: a Hub id or a URL as it is, anything local by its last part."""
    return _text(path) if hub_id(path) or "://" in path else last_part(path)
