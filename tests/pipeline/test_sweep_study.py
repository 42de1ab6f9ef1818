"""The study of a sweep: workers that are killed, several storages, studies of other recipes."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from postgres import PASSWORD, postgres

from hflm.core import UserError
from hflm.pipeline.sweep_storage import open_storage, require_optuna
from hflm.pipeline.sweep_study import SLOT, ended_trials, open_study

WORKER = Path(__file__).parents[1] / "sweep_worker.py"
SLOTS = 16


@pytest.fixture(autouse=True)
def quiet():
    require_optuna()


@contextmanager
def storage_of(kind, folder):
    """What `sweep.storage` names; 'sqlite' is the default."""
    if kind == "postgresql":
        with postgres() as url:
            yield url
    else:
        yield str(folder / "journal.log") if kind == "journal" else "sqlite"


def opened(storage, folder):
    return open_storage(None if storage == "sqlite" else storage, folder)


@pytest.mark.parametrize(
    ("kind", "kills"),
    [("sqlite", 2), *(pytest.param(kind, 6, marks=pytest.mark.slow) for kind in ("sqlite", "journal", "postgresql"))],
)
def test_killed_workers_lose_and_repeat_no_trial(kind, kills, tmp_path):
    with storage_of(kind, tmp_path) as storage:
        kill_workers(storage, kills, tmp_path)


def kill_workers(storage, kills, tmp_path):
    """Two workers; kill -9 of one of them, of the last time of both, and a new one in its place."""
    log, draw = tmp_path / "log", random.Random(7)
    log.touch()
    environment = {**os.environ, "PYTHONPATH": str(WORKER.parents[1])}

    def start():
        command = [sys.executable, str(WORKER), storage, str(tmp_path), str(SLOTS), str(log)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    workers = [start(), start()]
    for kill in range(1, kills + 1):  # spread over the study, at any point of a trial
        while len(log.read_text().splitlines()) < kill * 2 * SLOTS / (kills + 2):
            time.sleep(draw.uniform(0.0, 0.01))
            assert not all(worker.poll() is not None for worker in workers), workers[0].stderr.read()
        victims = workers if kill == kills else [draw.choice(workers)]  # at last all, and started again
        for worker in victims:
            worker.send_signal(signal.SIGKILL)
            worker.communicate()
        workers = [worker for worker in workers if worker not in victims] + [start() for _ in victims]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
    slots = [str(number) for number in range(SLOTS)]
    with opened(storage, tmp_path) as found:
        study = open_study(found, "study", ["minimize"], {"recipe": 1})
        assert list(ended_trials(study, slots)) == slots
        trials = study.trials
    complete = Counter(each.user_attrs[SLOT] for each in trials if each.state.name == "COMPLETE")
    assert complete == dict.fromkeys(slots, 1)
    assert {each.state.name for each in trials} <= {"COMPLETE", "FAIL"}
    ends = Counter(line.split()[1] for line in log.read_text().splitlines() if line.startswith("end"))
    assert ends.keys() == set(slots)
    assert sum(ends.values()) <= SLOTS + kills + 1  # one whose end was not yet recorded is done again


@pytest.mark.parametrize("kind", ["sqlite", "journal", "postgresql"])
def test_a_study_of_another_recipe_is_refused_and_left_as_it_is(kind, tmp_path):
    with storage_of(kind, tmp_path) as storage, opened(storage, tmp_path) as first, opened(storage, tmp_path) as second:
        study = open_study(first, "s", ["minimize"], {"finetune.args.max_steps": 5})
        study.enqueue_trial({}, user_attrs={SLOT: "0"})
        assert len(open_study(second, "s", ["minimize"], {"finetune.args.max_steps": 5}).trials) == 1
        with pytest.raises(
            UserError, match=r"made by another recipe: finetune.args.max_steps changed from 5 to 9.*study"
        ):
            open_study(second, "s", ["minimize"], {"finetune.args.max_steps": 9})
        assert len(study.trials) == 1


def test_a_study_that_hflm_did_not_make_is_refused(tmp_path):
    import optuna

    with open_storage(None, tmp_path) as storage:
        optuna.create_study(storage=storage, study_name="s").optimize(lambda _: 1.0, n_trials=1)
        with pytest.raises(UserError, match=r"the study s in the storage was not made by hflm"):
            open_study(storage, "s", ["minimize"], {})


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        (
            f"postgresql+psycopg://me:{PASSWORD}@127.0.0.1:9/x",
            r"postgresql\+psycopg://me:\(hidden\)@127.0.0.1:9/x cannot be",
        ),
        (f"nosuch://me:{PASSWORD}@host/x", "nosuch://me:.hidden.@host/x cannot be used"),
        (f"mysql+pymysql://me:{PASSWORD}@host/x", r"its driver is missing \(No module named 'pymysql'\). Install it: "),
        ("/proc/no/journal.log", r"/proc/no/journal.log cannot be used: No such file"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_message_without_its_password(storage, message, tmp_path):
    with pytest.raises(UserError, match=message) as raised, open_storage(storage, tmp_path):
        pass
    assert PASSWORD not in str(raised.value)
