"""A finished run onto the Hub: one repository, one commit, one tag, nothing of Trainer's working files.

A push may be repeated at any time: what is there already is not sent again, and an unchanged run makes no commit. So
a request that failed, or whose answer was lost, is simply made again.
"""

import copy
import hashlib
import json
import re
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from hflm.core import URL, HubError, UserError, format_bytes, logger, mask_tokens, redact

WORKING = {"README.md", "trainer_state.json"}
PICKLES = {".bin", ".ckpt", ".pkl", ".pt", ".pth"}
# What an earlier release may have left, and what would speak for this one too: a shard, a chat template, a picture.
# Files of any other name stay.
OURS = re.compile(
    r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|chat_template\.jinja|merges\.txt"
    r"|(generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|plots/[\w-]+\.png|benchmark/results\.json|\.eval_results/hflm\.yaml"
)
TIMEOUT = (10.0, 300.0, 300.0, 60.0)  # seconds to connect, read, write, queue; the Hub's own client waits forever
WAITS = (1, 2, 4, 8, 15)  # seconds between attempts. One call of ours may make four requests that fail on their own


def files(run):
    """What is sent: {path in the repository: file}.

    model/ at the root, beside it README.md, plots/*.png, recipe.yaml, environment.json, benchmark/results.json,
    .eval_results/hflm.yaml. Raises UserError when the run has no finished model.
    """
    run = Path(run)
    model = run / "model"
    if not (model / "config.json").is_file():
        raise UserError(
            f"{run}: no finished model in {model}, so there is nothing to push. "
            "Run the recipe to its end (`hflm run RECIPE`), then `hflm push` again."
        )
    sent = {
        path.relative_to(model).as_posix(): path
        for path in sorted(model.rglob("*"))
        if path.is_file() and not _working(path.relative_to(model))
    }
    ours = ["README.md", "recipe.yaml", "environment.json", "benchmark/results.json", ".eval_results/hflm.yaml"]
    pictures = sorted(path.relative_to(run).as_posix() for path in (run / "plots").glob("[!.]*.png"))
    return sent | {name: run / name for name in ours + pictures if (run / name).is_file()}


def _working(path):
    """Whether a file of model/ is nothing to publish: Trainer's state, or a card that Trainer or a base model left."""
    hidden = any(part.startswith(".") for part in path.parts)
    return hidden or path.name in WORKING or path.suffix in PICKLES or path.name.startswith("events.out.")


def content(name, path):
    """What of a file is sent: `path` itself, or the bytes of our own records without what is only ours to know."""
    if name == "recipe.yaml":
        shape = redact(yaml.safe_load(path.read_text(encoding="utf-8")))
        return yaml.safe_dump(shape, sort_keys=False, allow_unicode=True).encode()
    if name in ("environment.json", "benchmark/results.json"):
        shape = redact(json.loads(path.read_text(encoding="utf-8")))
        return (json.dumps(shape, indent=2, ensure_ascii=False) + "\n").encode()
    return path


@dataclass(frozen=True)
class Release:
    """What one push puts on the Hub. `sizes` are bytes; `operations` are huggingface_hub's CommitOperationAdd."""

    repo_id: str
    private: bool
    title: str
    tag: str
    sizes: dict[str, int]
    operations: tuple

    def __str__(self):
        visibility = "private" if self.private else "public"
        total = format_bytes(sum(self.sizes.values()))
        return f"{self.repo_id} ({visibility}), tag {self.tag}: {len(self.sizes)} files, {total}"


def release(run, recipe):
    """The Release of a finished run. Its tag is made of the run's name and its content: "quickstart-1f0c2a9b".

    Raises UserError when there is nothing to push or nowhere to push to.
    """
    from huggingface_hub import CommitOperationAdd

    if recipe.push is None:
        raise UserError(
            f"{run}: its recipe has no `push:` section. Say where to: {_command(run)} --repo-id YOU/{recipe.name}"
        )
    sent = {name: content(name, path) for name, path in files(run).items()}
    operations = tuple(CommitOperationAdd(path_in_repo=name, path_or_fileobj=each) for name, each in sent.items())
    digest = hashlib.sha256()
    for each in sorted(operations, key=lambda each: each.path_in_repo):
        digest.update(f"{each.path_in_repo}\0{each.upload_info.sha256.hex()}\n".encode())
    return Release(
        repo_id=recipe.push.repo_id,
        private=recipe.push.private,
        title=f"{recipe.name}: a run of hflm",
        tag=f"{re.sub('[^A-Za-z0-9_-]+', '-', recipe.name).strip('-') or 'run'}-{digest.hexdigest()[:8]}",
        sizes={each.path_in_repo: each.upload_info.size for each in operations},
        operations=operations,
    )


def listing(run, found, space=False):
    """A Release as lines of text: what would go up, and how large it is; with `space` the Space's files too."""
    lines = [f"{format_bytes(size):>9}  {name}" for name, size in found.sizes.items()]
    if space:
        sizes = {each.path_in_repo: each.upload_info.size for each in _space(run, found)}
        lines += [f"the Space {found.repo_id}:", *(f"{format_bytes(size):>9}  {name}" for name, size in sizes.items())]
    return "\n".join([f"{found}", *lines, "A dry run: nothing was sent or asked."])


def push(run, recipe, space=False):
    """Send the run to `recipe.push.repo_id` and return the repository's URL; a repository is made if there is none.

    With `space` also a Space of that name that shows the model; the URL is the Space's then. Raises UserError when there is nothing to push or nowhere to push to, without a token, offline, and when the Hub
    refuses; HubError when it cannot be reached or keeps failing. The local run is complete in any case, and the
    message ends with the command that tries again.
    """
    from huggingface_hub import HfApi, constants, get_session, get_token, logging
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    found = release(run, recipe)
    shown = _space(run, found) if space else ()
    token = get_token()
    if constants.is_offline_mode():
        raise UserError(_failed(run, found, "HF_HUB_OFFLINE is set. Unset it to push", token))
    if not token:
        raise UserError(_failed(run, found, "no Hub token. Log in with `hf auth login`, or set HF_TOKEN", token))
    _refuse_token([*found.operations, *shown], token)
    if not constants.HF_HUB_DISABLE_PROGRESS_BARS:  # transformers switched them off for its own downloads
        (enable_progress_bars if sys.stderr.isatty() else disable_progress_bars)()
    logging.set_verbosity_error()  # its warnings quote signed URLs; the retries worth knowing are told below
    logger.info(f"push: {found}")
    try:
        get_session().timeout = TIMEOUT
        url, changed = _publish(HfApi(token=token), found, token)
        if space:
            url = _publish_space(HfApi(token=token), found, shown, token)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  only the Hub's client is called here: whatever it raises, the push failed
        # `from None`: the cause may hold the token in a header.
        kind = HubError if _passing(error) else UserError
        raise kind(_failed(run, found, _reason(error, found, token), token)) from None
    logger.info(f"push: {'released' if changed else 'unchanged, no commit was made'}, tag {found.tag}")
    return str(url)


def _publish(api, found, token):
    """(URL, whether a commit was made)."""
    url = _again(token, lambda: api.create_repo(found.repo_id, private=found.private, exist_ok=True))
    before = _again(token, lambda: api.model_info(found.repo_id))
    if found.private and not before.private:
        raise UserError(
            f"{found.repo_id} is a public repository, and the recipe says push.private: true. Nothing was sent. "
            "Make it private in its settings on the Hub, or say private: false"
        )
    if before.private and not found.private:
        logger.info(f"push: {found.repo_id} stays private, as it is on the Hub; its settings there can change that")
    commit = _again(token, lambda: _commit(api, found))
    # A tag that exists was made by an earlier push of the same content.
    _again(token, lambda: api.create_tag(found.repo_id, tag=found.tag, revision=commit.oid, exist_ok=True))
    return url, commit.oid != before.sha


def _space(run, found):
    from huggingface_hub import CommitOperationAdd

    from hflm.publishing import space

    files = space.files(run, found.repo_id)
    return [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]


def _publish_space(api, found, operations, token):
    """The Space's URL."""
    where = {"repo_id": found.repo_id, "repo_type": "space"}
    url = _again(token, lambda: api.create_repo(**where, space_sdk="gradio", private=found.private, exist_ok=True))

    def commit():
        now = api.space_info(found.repo_id).sha
        api.create_commit(
            **where, operations=[*map(copy.copy, operations)], commit_message=found.title, parent_commit=now
        )

    _again(token, commit)
    return url


def _commit(api, found):
    """One commit on top of what is there now; the client leaves out what has not changed, and makes no empty one."""
    from huggingface_hub import CommitOperationDelete

    now = api.model_info(found.repo_id)
    there = [file.rfilename for file in now.siblings]
    stale = [name for name in there if OURS.fullmatch(name) and name not in found.sizes]
    return api.create_commit(
        found.repo_id,
        # Copies: the client notes in them what the Hub knew, and a second attempt must ask anew.
        [*map(copy.copy, found.operations), *(CommitOperationDelete(path_in_repo=name) for name in stale)],
        commit_message=found.title,
        commit_description=found.tag,
        parent_commit=now.sha,  # a commit that arrived although its answer was lost is never made twice
    )


def _again(token, call):
    """call(), repeated after failures that pass by themselves: the Hub's client repeats only some requests."""
    for wait in WAITS:
        try:
            return call()
        except Exception as error:
            if not _passing(error):
                raise
            logger.info(f"push: {_shown(error, token)}; again in {wait} s")
        time.sleep(wait)
    return call()


def _causes(error):
    """An error and those that it was made of, down to the Hub's answer: the client wraps what happened to one file."""
    from huggingface_hub.errors import HfHubHTTPError

    while error is not None:
        yield error
        error = None if isinstance(error, HfHubHTTPError) else error.__cause__


def _passing(error):
    """Whether a failure may pass by itself: no connection, a busy Hub, a commit that overtook ours."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    for each in _causes(error):
        if isinstance(each, HfHubHTTPError):
            return each.response.status_code in (408, 412, 429) or each.response.status_code >= 500
        # An answer that was cut is no JSON. hf_xet, which retries by itself, raises these two when it gives up.
        if isinstance(each, json.JSONDecodeError | ConnectionError | TimeoutError):
            return True
        if isinstance(each, httpx2.TimeoutException | httpx2.NetworkError | httpx2.RemoteProtocolError):
            return True
    return False


def _shown(error, token):
    """What is wrong, on one line, without the token and without the signatures of URLs."""
    from huggingface_hub.errors import HfHubHTTPError

    said = []
    for each in _causes(error):
        if isinstance(each, HfHubHTTPError):
            answer = each.response
            asked = f"{answer.request.method} {answer.request.url.path}"
            text = f"{each.server_message or answer.reason_phrase} ({answer.status_code}, {asked})"
        else:
            text = " ".join(str(each).split()) or type(each).__name__
        said.append(text.rstrip(".:"))
    return _hidden(": ".join(dict.fromkeys(said)), token)[:500]


def _hidden(text, token):
    return mask_tokens(URL.sub(r"\1\2", text.replace(token, "(token)") if token else text))


def _reason(error, found, token):
    from huggingface_hub.errors import HfHubHTTPError

    statuses = [each.response.status_code for each in _causes(error) if isinstance(each, HfHubHTTPError)]
    unknown = "The Hub does not know this token: log in with `hf auth login`, or set HF_TOKEN"
    refused = f"Check that the token may write to {found.repo_id}: https://huggingface.co/settings/tokens"
    hints = {401: unknown, 403: refused, 404: refused}  # what a token may not see is not there
    hint = next((hints[status] for status in statuses if status in hints), None)
    said = _shown(error, token)
    return f"{said}. {hint}" if hint else said


def _failed(run, found, reason, token):
    reason = _hidden(reason, token).rstrip(".")
    return f"The push to {found.repo_id} failed: {reason}. The run is complete in {run}; {_command(run)} retries."


def _command(run):
    return f"hflm push {shlex.quote(str(run))}"


def _refuse_token(operations, token):
    """No file that is sent may hold the token, wherever it came from: UserError, and nothing is sent."""
    for each in operations:
        if not each.path_in_repo.endswith(".safetensors"):
            with each.as_file() as file:
                if token.encode() in file.read():
                    raise UserError(f"{each.path_in_repo} holds your Hub token. Nothing was sent. Remove it there")
