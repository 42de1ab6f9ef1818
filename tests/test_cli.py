"""The command line in real processes: exit codes, what stands on stdout and stderr, and what is imported."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from hflm import cli, inference, pipeline, recipe

RECIPE = """\
# A test. 1 core, no time.
name: good
model: {from: org/base}
benchmark: {tasks: [sentiment]}
tasks:
  sentiment: {data: {path: a/b}, labels: [bad, good]}
"""

AGAIN = "Free some and run the same command again: it continues."
# Runs the command line with a function of ours in place of hflm.pipeline.run_recipe.
WITH_RUN = """
import errno, sys
import hflm.pipeline
from hflm.core.errors import *
from hflm import cli

def run(recipe, output, options):
    {act}

hflm.pipeline.run_recipe = run
cli.main()
"""


def process(*command, cwd, stdout=subprocess.PIPE):
    environment = {**os.environ, "PYTHONPATH": str(Path(recipe.__file__).parents[2])}
    return subprocess.run(
        command, cwd=cwd, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment, check=False
    )


def hflm(*arguments, cwd, **more):
    return process(sys.executable, "-m", "hflm", *arguments, cwd=cwd, **more)


@pytest.fixture
def handed_on(monkeypatch):
    """The command line in this process; gives what a command hands on to `run` and `generate`."""
    calls = []
    monkeypatch.setitem(
        vars(pipeline),
        "run_recipe",
        lambda recipe, output, options: calls.append((recipe.name, recipe.seed, output, options.fresh, options.locked)),
    )
    monkeypatch.setitem(
        vars(pipeline), "benchmark_model", lambda model, recipe, *more: calls.append((model, recipe.name, *more))
    )
    monkeypatch.setitem(vars(inference), "generate_texts", lambda *handed: calls.append(handed))
    monkeypatch.setitem(vars(inference), "format_texts", lambda *_: [])

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["hflm", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        return calls.pop()

    return call


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "good.yaml").write_text(RECIPE)
    (tmp_path / "bad.yaml").write_text(RECIPE.replace("labels", "lables").replace("a/b", "7"))
    return tmp_path


def test_validate(folder):
    done = hflm("validate", "good.yaml", cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "good.yaml: ok\n", "")


def test_validate_reports_every_problem_of_every_recipe(folder):
    done = hflm("validate", "bad.yaml", "good.yaml", "none.yaml", "--set", "seed=x", cwd=folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "--set seed=x  seed: expected a whole number, got 'x'",
        "bad.yaml:6  tasks.sentiment.lables: unknown key. Did you mean labels?",
        "bad.yaml:6  tasks.sentiment.data.path: expected text, got 7. Put it in quotes",
        "bad.yaml:6  tasks.sentiment.labels: required key is missing",
        "none.yaml  no such file, and no shipped recipe of that name. `hflm recipes` lists the shipped ones",
        "5 problems; nothing was run.",
    ]


LOCAL = """\
name: local
tokenizer: {from: ./tok}
model: {from: ~/no/such/model}
pretrain:
  data: [{path: here.jsonl}, {path: there.csv}]
tasks:
  sentiment:
    data: {path: reviews}
    labels: [bad, good]
  qa: {data: {path: ../none/qa.jsonl}}
  nmt: {kind: translation, data: {path: org/pairs}, source: en, target: de}
finetune: {tasks: [sentiment, nmt]}
benchmark: {tasks: [sentiment, qa]}
"""


def test_validate_looks_for_what_is_local(folder):
    """Names of the Hub pass; paths are looked for here, and nothing heavy is imported."""
    (folder / "local.yaml").write_text(LOCAL)
    (folder / "here.jsonl").write_text('{"body": "a text"}\n')
    (folder / "tok").mkdir()
    (folder / "reviews").mkdir()
    (folder / "reviews" / "train.csv").write_text("sentence,label\nfine,1\n")
    code = (
        "import atexit, sys; from hflm.cli import main\n"
        "heavy = ('torch', 'transformers', 'datasets')\n"
        "atexit.register(lambda: print('heavy:', [name for name in heavy if name in sys.modules]))\n"
        "main()"
    )
    done = process(sys.executable, "-c", code, "validate", "local.yaml", cwd=folder)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (2, "heavy: []")
    found = [line.split(" ", 2)[2].partition(".")[0] for line in done.stderr.splitlines()[:-1]]
    places = [line.partition("  ")[0] for line in done.stderr.splitlines()[:-1]]
    assert list(zip(places, found, strict=True)) == [
        ("local.yaml:2", "tokenizer"),
        ("local.yaml:3", "model"),
        ("local.yaml:5", "pretrain"),
        ("local.yaml:5", "pretrain"),
        ("local.yaml:8", "tasks"),
        ("local.yaml:10", "tasks"),
    ]
    for words in ("the rows have no column text. Their columns are: body", "no file or folder 'there.csv'",
                  "the rows of train have no column for text: text. Their columns are: label, sentence",
                  "no file or folder '../none/qa.jsonl'"):  # fmt: skip
        assert words in done.stderr


def test_schema(folder):
    done = hflm("schema", cwd=folder)
    assert (done.returncode, json.loads(done.stdout)) == (0, recipe.recipe_json_schema())


def test_the_page_of_every_key_is_up_to_date(folder):
    """Run `hflm schema --page > recipes/KEYS.md` after a change of the recipe's keys."""
    done = hflm("schema", "--page", cwd=folder)
    assert done.returncode == 0
    assert done.stdout == (Path(__file__).parent.parent / "recipes" / "KEYS.md").read_text()


def test_recipes_are_listed_with_their_first_line_and_printed(folder):
    done = hflm("recipes", cwd=folder)
    lines = done.stdout.splitlines()
    assert (done.returncode, len(lines)) == (0, len(recipe.shipped_recipes()))
    for line, (name, path) in zip(lines, recipe.shipped_recipes().items(), strict=True):
        assert line.split()[0] == name
        assert line.endswith(f"({path})")
        assert path.read_text(encoding="utf-8").split("\n")[0].strip("# ") in line
        printed = hflm("recipes", name, cwd=folder)
        assert (printed.returncode, printed.stdout) == (0, path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["recipes", "nope"], 2, "nope: no such file, and no shipped recipe of that name"),
        (["run", "none.yaml"], 2, "none.yaml  no such file"),
        (["run", "bad.yaml"], 2, "3 problems; nothing was run."),
        (["bench", "org/model", "bad.yaml"], 2, "3 problems; nothing was run."),
        (["bench", "org/model", "good.yaml", "--chat"], 2, "org/model: --base-url and --chat are for a model behind"),
        (["bench", "org/model", "good.yaml", "--base-url", "http://h/v1"], 2, "org/model: --base-url and --chat"),
        *(
            (arguments, 2, "~nosuch/x: no such home folder. Write the whole path")
            for arguments in (
                ["run", "good.yaml", "--set", "model.from=~nosuch/x"],
                ["run", "quickstart", "--set", "tokenizer={from: ~nosuch/x}"],
                ["run", "quickstart", "--output=~nosuch/x"],
                ["bench", "~nosuch/x", "quickstart"],
                ["plan", "good.yaml", "--set", "model.from=~nosuch/x"],
                ["generate", "~nosuch/x", "a"],
                ["score", "~nosuch/x", "a"],
                ["demo", "~nosuch/x"],
                ["export", "~nosuch/x", "--to", "gguf"],
            )
        ),
        (["run"], 2, "Missing argument 'RECIPE'"),
        (["run", "--from-hub", "nowhere"], 2, "--from-hub nowhere: expected namespace/name, as on the Hub"),
        (["run", "--from-hub", "you/name"], 2, "--from-hub you/name: HF_HUB_OFFLINE is set. Unset it"),
        (["run", "good.yaml", "--from-hub", "you/name", "--seeds", "2"], 2, "--from-hub continues one run"),
        (["generate"], 2, "Missing argument 'model'"),
        (["compare", "a", "b", "--html", "."], 2, "file '.' is a directory"),
        (["score", "m", "a text", "--attention", "."], 2, "file '.' is a directory"),
        (["run", "good.yaml", "--frehs"], 2, "No such option: --frehs (Possible options: --fresh"),
        (["vaildate", "good.yaml"], 2, "No such command 'vaildate'. Did you mean 'validate'?"),
        (["validate"], 2, "Missing argument"),
        (["generate", "m", "p", "--max-lenght", "3"], 2, "No such option: --max-lenght. Did you mean --max-length?"),
        (["generate", "m", "p", "--max-length"], 2, "Option '--max-length' requires an argument."),
        *(
            (command + ["--output", empty], 2, "the path is empty. Name a file or a folder")
            for empty in ("", " ")
            for command in (["run", "good.yaml"], ["bench", "org/m", "good.yaml"], ["export", "m"])
        ),
        (["push", ".", "--dry-run"], 2, ". is no run: it has no recipe.yaml"),
        (["run", "good.yaml", "--output", "good.yaml/x"], 2, "good.yaml/x: "),
        (["run", "good.yaml", "--dry-run", "--output", "x" * 300], 2, "File name too long. Use another path"),
        (
            ["run", "good.yaml", "--extend", "--fresh"],
            2,
            "--fresh starts anew and --extend goes on: use one of the two",
        ),
        (["bench", "nowhere"], 2, "bench needs either a recipe or --task-file FILE"),
        (["generate", "m", "p", "--max-length", "three"], 2, "Invalid value for '--max-length'"),
        (["generate", "m", "p", "--suppress-tokens", "3"], 2, "'--suppress-tokens': expected a list, got 3"),
        (["generate", "m", "p", "--suppress-tokens", "[3"], 2, "'--suppress-tokens': not YAML"),
        (["generate", "m", "p", "--penalty-alpha", "0.6"], 2, "No such option: --penalty-alpha"),
    ],
)
def test_what_the_user_must_change_is_said_without_a_traceback(folder, arguments, code, words):
    done = hflm(*arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not set("╭│╰") & set(done.stderr)


@pytest.mark.parametrize(
    ("act", "code", "stderr"),
    [
        ("pass", 0, ""),
        ("raise DataError('data/train.jsonl: row 3 has no text')", 2, "data/train.jsonl: row 3 has no text\n"),
        ("raise ModelError('no such model')", 2, "no such model\n"),
        ("raise Stopped('stopped at step 40')", 143, "stopped at step 40\n"),
        ("raise KeyboardInterrupt", 130, ""),
        (
            "raise OSError(errno.EACCES, 'denied', 'runs/good')",
            2,
            "runs/good: no permission to write or read there. Change its mode, or use another folder\n",
        ),
        (
            "raise OSError(errno.ENOTDIR, 'Not a directory', 'page.html/x')",
            2,
            "page.html/x: Not a directory. Use another path\n",
        ),
        (
            "raise OSError(errno.ENOSPC, 'No space left on device', 'runs/good/model.safetensors')",
            2,
            f"no space left on the disk (runs/good/model.safetensors). {AGAIN}\n",
        ),
        (
            "raise RuntimeError('I/O error: No space left on device (os error 28)')",
            2,
            f"no space left on the disk. {AGAIN}\n",
        ),
    ],
)
def test_exit_codes(folder, act, code, stderr):
    done = process(sys.executable, "-c", WITH_RUN.format(act=act), "run", "good.yaml", cwd=folder)
    assert (done.returncode, done.stderr) == (code, stderr)


@pytest.mark.parametrize("act", ["raise ValueError('a bug')", "raise OSError(errno.EIO, 'broken', 'x')", "1 / 0"])
def test_a_bug_shows_its_traceback(folder, act):
    done = process(sys.executable, "-c", WITH_RUN.format(act=act), "run", "good.yaml", cwd=folder)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_is_really_full(folder):
    with open("/dev/full", "w") as full:
        done = hflm("schema", cwd=folder, stdout=full)
    assert done.returncode == 2
    assert done.stderr.startswith("no space left on the disk")


@pytest.mark.parametrize(
    ("arguments", "handed"),
    [
        (["run", "good.yaml"], ("good", 42, None, False, False)),
        (["run", "good.yaml", "--locked"], ("good", 42, None, False, True)),
        (
            ["run", "good.yaml", "--set", "seed=7", "--set", "name=b", "--output", "out", "--fresh"],
            ("b", 7, "out", True, False),
        ),
        (["bench", "org/m", "good.yaml"], ("org/m", "good", None, None, False, None)),
        (["bench", "org/m", "good.yaml", "--set=name=c", "--output", "o"], ("org/m", "c", "o", None, False, None)),
        (["bench", "org/m", "good.yaml", "--dtype", "auto"], ("org/m", "good", None, None, False, "auto")),
        (
            ["bench", "openai:m", "good.yaml", "--base-url", "http://localhost:1/v1", "--chat"],
            ("openai:m", "good", None, "http://localhost:1/v1", True, None),
        ),
        (["generate", "m", "Once upon"], ("m", "Once upon", {}, None, None, None)),
    ],
)
def test_what_the_commands_hand_on(folder, monkeypatch, handed_on, arguments, handed):
    monkeypatch.chdir(folder)
    assert handed_on(*arguments) == handed


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (
            ["--max-length", "200", "--num-return-sequences", "5", "--no-repeat-ngram-size", "2", "--do-sample"]
            + ["--temperature", "0.7"],
            {
                "max_length": 200,
                "num_return_sequences": 5,
                "no_repeat_ngram_size": 2,
                "do_sample": True,
                "temperature": 0.7,
            },
        ),
        (["--no-do-sample", "--no-use-cache"], {"do_sample": False, "use_cache": False}),
        (["--top-p=0.9", "--length-penalty", "-1"], {"top_p": 0.9, "length_penalty": -1.0}),
        (["--early-stopping", "--num-beams", "4"], {"early_stopping": True, "num_beams": 4}),
        (["--num-beams", "4", "--early-stopping"], {"early_stopping": True, "num_beams": 4}),
        (["--early-stopping", "never"], {"early_stopping": "never"}),
        (["--early-stopping", "false"], {"early_stopping": False}),
        (["--stop-strings", "The end"], {"stop_strings": "The end"}),
        (["--stop-strings", "true"], {"stop_strings": "true"}),
        (["--stop-strings", "[a, b]"], {"stop_strings": ["a", "b"]}),
        (["--stop-strings", "[a"], {"stop_strings": "[a"}),
        (["--eos-token-id", "[1, 2]"], {"eos_token_id": [1, 2]}),
        (["--eos-token-id", "3"], {"eos_token_id": 3}),
        (["--bad-words-ids", "[[1], [2, 3]]"], {"bad_words_ids": [[1], [2, 3]]}),
        (["--watermarking-config", "{bias: 2.5}"], {"watermarking_config": {"bias": 2.5}}),
    ],
)
@pytest.mark.parametrize("first", [True, False], ids=["options first", "options last"])
def test_generation_options(handed_on, arguments, options, first):
    if first and arguments[-1] == "--early-stopping":
        arguments = [*arguments, "--"]  # else the model would be its value
    command = [*arguments, "org/m", "A prompt"] if first else ["org/m", "A prompt", *arguments]
    model, prompt, found, *more = handed_on("generate", *command, *["--seed=3", "--revision", "main"] * (not first))
    assert (model, prompt, more) == ("org/m", "A prompt", [None, None, None] if first else [3, "main", None])
    assert {name: (value, type(value)) for name, value in found.items()} == {
        name: (value, type(value)) for name, value in options.items()
    }


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["generate", "--help"], ["validate", "good.yaml"], ["schema"], ["recipes"], ["run", "bad.yaml"]],
    ids=" ".join,
)
def test_light_commands_import_no_heavy_library(folder, arguments):
    code = (
        "import atexit, sys; from hflm.cli import main\n"
        "heavy = ('torch', 'transformers', 'datasets', 'peft', 'numpy', 'evaluate', 'huggingface_hub')\n"
        "atexit.register(lambda: print('heavy:', [name for name in heavy if name in sys.modules]))\n"
        "main()"
    )
    done = process(sys.executable, "-c", code, *arguments, cwd=folder)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_help_lists_the_commands_in_the_order_of_a_models_life(folder):
    done = hflm("-h", cwd=folder)
    assert done.returncode == 0
    listed = [line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line.startswith("  ")]
    assert [name for name in listed if name in cli.COMMANDS] == list(cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_help_of_each_command_has_an_example(folder, command):
    done = hflm(command, "-h", cwd=folder)
    assert done.returncode == 0
    assert f"Example: hflm {command} " in " ".join(done.stdout.split()) + " "


def test_the_help_of_generate_begins_with_the_options_that_most_people_need(folder):
    options = hflm("generate", "--help", cwd=folder).stdout
    places = [options.index(f"{option} ") for option in ("--seed", "--max-new-tokens", "--temperature", "--num-beams")]
    places.append(options.index("--exponential-decay-length-penalty "))
    assert places == sorted(places)


def test_version(folder):
    done = hflm("--version", cwd=folder)
    assert (done.returncode, done.stdout) == (0, f"hflm {version('hflm-recipes')}\n")


@pytest.mark.parametrize(
    ("options", "shown"),
    [([], {"informed", "warned"}), (["-q"], {"warned"}), (["-v"], {"debugged", "informed", "warned"})],
)
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_verbosity(folder, options, shown, first):
    act = "from hflm.core import logger; logger.debug('debugged'); logger.info('informed'); logger.warning('warned')"
    arguments = [*options, "run", "good.yaml"] if first else ["run", "good.yaml", *options]
    done = process(sys.executable, "-c", WITH_RUN.format(act=act), *arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (0, "")
    assert {word for word in ("debugged", "informed", "warned") if word in done.stderr} == shown


def test_a_run_is_benchmarked_by_its_own_recipe(folder, monkeypatch, handed_on):
    (folder / "run").mkdir()
    (folder / "run" / "recipe.yaml").write_text(RECIPE.replace("name: good", "name: own"))
    monkeypatch.chdir(folder)
    assert handed_on("bench", "run") == ("run", "own", None, None, False, None)


@pytest.mark.parametrize(
    ("words", "proposed"),
    [
        (["run", "quick"], {"quickstart"}),
        (["run", "sentiment/"], {"sentiment/sst2"}),
        (["validate", "go"], {"good.yaml"}),
        (["compare", "runs/one", "--task", ""], {"qa", "nmt"}),
    ],
)
def test_shell_completion(folder, words, proposed):
    scores = folder / "runs" / "one" / "benchmark" / "results.json"
    scores.parent.mkdir(parents=True)
    scores.write_text(json.dumps({"tasks": {"qa": {}, "nmt": {}}}))
    asked = {"_HFLM_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(["hflm", *words]), "COMP_CWORD": str(len(words))}
    command = [str(Path(sys.executable).with_name("hflm"))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, **asked})
    assert (set(done.stdout.split()), done.stderr) == (proposed, "")


def test_env_and_cache(folder):
    home = folder / "home"
    kept = home / "hflm-packed" / "ab" / "ids.npy"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"x" * 5000)
    environment = {**os.environ, "HF_HOME": str(home), "HF_TOKEN": "hf_abcdefghijklmnop"}
    command = [sys.executable, "-m", "hflm"]

    def run(*arguments):
        done = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    described = run("env")
    for words in (f"transformers {version('transformers')}\n", "cpu capabilities ", f"{home}", "python "):
        assert words in described
    assert "hf_abc" not in described
    assert "5.00 kB  token ids of hflm's corpora" in run("cache")
    assert "deleted 5" in run("cache", "--clear")
    assert not kept.exists()
    assert home.exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "good.yaml"], "good.yaml: reading the recipe ..."),
        (["plan", "good.yaml"], "good.yaml: reading the recipe ..."),
        (["bench", "org/m", "good.yaml"], " ..."),
        (["fetch", "good.yaml"], " ..."),
        (["generate", "org/m", "a"], " ..."),
    ],
)
def test_a_terminal_shows_a_line_before_the_libraries_load(folder, arguments, line):
    blocked = (
        "import sys; sys.stderr.isatty = lambda: True\n"
        "for name in ('torch', 'transformers', 'datasets'): sys.modules[name] = None\n"
        "from hflm.cli import main; main()"
    )
    done = process(sys.executable, "-c", blocked, *arguments, cwd=folder)
    assert line in done.stderr.splitlines()[0]


def test_control_characters_and_secrets_of_a_recipe_do_not_reach_the_terminal(folder):
    (folder / "hostile.yaml").write_text(RECIPE + '"\\e[2J[bold red]": 1\n')
    done = hflm("validate", "hostile.yaml", cwd=folder)
    assert done.returncode == 2
    assert "\\u001b[2J[bold red]: unknown key." in done.stderr
    assert "\x1b" not in done.stderr
