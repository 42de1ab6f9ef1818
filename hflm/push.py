"""A finished run onto the Hub: one repository, one commit, nothing of Trainer's working files."""

import json
import shlex
from pathlib import Path

import yaml

from hflm.errors import UserError
from hflm.public import public, without_tokens

WORKING = {"README.md", "training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "trainer_state.json"}
WAIT = (10.0, 300.0, 300.0, 60.0)  # seconds to connect, read, write, queue; the Hub's own client waits forever


def files(run):
    """What is sent: {path in the repository: file}.

    model/ at the root, beside it README.md, plots/*.png, recipe.yaml, environment.json, benchmark/results.json.
    Raises UserError when the run has no finished model.
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
    ours = ["README.md", "recipe.yaml", "environment.json", "benchmark/results.json"]
    pictures = sorted(path.relative_to(run).as_posix() for path in (run / "plots").glob("*.png"))
    return sent | {name: run / name for name in ours + pictures if (run / name).is_file()}


def _working(path):
    """Whether a file of model/ is nothing to publish: Trainer's state, or a card that Trainer or a base model left."""
    hidden = any(part.startswith(".") for part in path.parts)
    return hidden or path.name in WORKING or path.name.startswith(("rng_state", "events.out."))


def content(name, path):
    """What of a file is sent: `path` itself, or the bytes of our own records without what is only ours to know."""
    if name == "recipe.yaml":
        shape = public(yaml.safe_load(path.read_text(encoding="utf-8")))
        return yaml.safe_dump(shape, sort_keys=False, allow_unicode=True).encode()
    if name in ("environment.json", "benchmark/results.json"):
        shape = public(json.loads(path.read_text(encoding="utf-8")))
        return (json.dumps(shape, indent=2, ensure_ascii=False) + "\n").encode()
    return path


def push(run, recipe):
    """Send the run to `recipe.push.repo_id` and return the repository's URL; a repository is made if there is none.

    Raises UserError when there is nothing to push or nowhere to push to, without a token, offline, and whenever the
    Hub refuses or cannot be reached. The local run is complete in any case, and the message ends with the command that tries again.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_session, get_token

    if recipe.push is None:
        raise UserError(f"{run}: its recipe has no `push:` section. Add `push: {{repo_id: you/{recipe.name}}}`.")
    repo_id, private = recipe.push.repo_id, recipe.push.private
    sent = {name: content(name, path) for name, path in files(run).items()}
    token = get_token()
    if constants.is_offline_mode():
        raise _failed(run, repo_id, "HF_HUB_OFFLINE is set. Unset it to push", token)
    if not token:
        raise _failed(run, repo_id, "no Hub token. Log in with `hf auth login`, or set HF_TOKEN", token)
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=source) for name, source in sent.items()]
    try:
        api = HfApi(token=token)
        get_session().timeout = WAIT
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.create_commit(repo_id, operations, commit_message=f"{recipe.name}: a run of hflm")
    except Exception as error:  # noqa: BLE001  only the Hub's client is called here: whatever it raises, the push failed
        # `from None`: the cause may hold the token in a header.
        raise _failed(run, repo_id, _reason(error), token) from None
    return str(url)


def _reason(error):
    from huggingface_hub.errors import HfHubHTTPError

    said = " ".join(str(error).split())[:500] or type(error).__name__
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404):
        return f"{said.rstrip('.')}. Check that the token may write there"
    return said


def _failed(run, repo_id, reason, token):
    reason = without_tokens(reason.replace(token, "(token)") if token else reason)
    again = f"hflm push {shlex.quote(str(run))}"
    return UserError(
        f"The push to {repo_id} failed: {reason.rstrip('.')}. The run is complete in {run}; {again} retries."
    )
