"""A stream goes on after a stop with the very next row, whatever reads it and wherever it stops."""

import io
import json
import os
import signal
import subprocess
import sys
from functools import partial
from itertools import islice

import datasets
import psutil
import pytest
import torch
from conftest import TEXTS

from hflm import data
from hflm.core import DataError, UserError
from hflm.data.readers import base
from hflm.models import build_model, patch_loss
from hflm.pipeline import run_recipe
from hflm.preprocessing import PackedStream, PackingCounts, collate
from hflm.preprocessing import streaming as stream
from hflm.recipe import Data, load_recipe
from hflm.training import checkpoints
from hflm.training import trainer as training
from recipes import tiny_recipe

FINITE = 240  # documents of a pass


@pytest.fixture
def files(tmp_path):
    """Documents of several lengths: one jsonl file, and three with another sentence; one parquet file, one text file."""
    rows = [{"text": f"{n}. {TEXTS[n % len(TEXTS)]} " * (1 + n % 4), "n": n} for n in range(FINITE)]
    more = [{"text": f"{n} and again. {TEXTS[n % 7]}", "n": n} for n in range(90)]
    (tmp_path / "one").mkdir()
    (tmp_path / "three").mkdir()
    (tmp_path / "one" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for part in range(3):
        some = "".join(json.dumps(row) + "\n" for row in more[part::3])
        (tmp_path / "three" / f"train-0000{part}.jsonl").write_text(some)
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet", batch_size=50)
    (tmp_path / "lines.txt").write_text("".join(row["text"] + "\n" for row in rows))
    return tmp_path


SOURCES = {
    "jsonl": [{"path": "one"}],
    "three files": [{"path": "three"}],
    "parquet": [{"path": "rows.parquet"}],
    "text": [{"path": "lines.txt"}],
    "two sources": [{"path": "one"}, {"path": "rows.parquet"}],
    "a mixture": [{"path": "one", "weight": 2}, {"path": "three", "weight": 1}],
}


@pytest.fixture
def streamed(files, tokenizer):
    """The PackedStream of one of SOURCES, with many groups and blocks in a pass."""

    def make(name="jsonl", shuffle_buffer=None, seed=0, block_size=48, group_rows=6):
        options = [{**source, "path": str(files / source["path"]), "streaming": True} for source in SOURCES[name]]
        sources = tuple(data.resolve_data(Data.model_validate(each)) for each in options)
        texts = data.stream_documents(data.Sources(sources), files / "skipped.jsonl")
        return PackedStream(texts, tokenizer, block_size, shuffle_buffer, seed, group_rows=group_rows, batch_texts=10)

    return make


def read(packed, count, reader=0, readers=1, place=stream.START):
    """`count` rows as lists of ids, and the place after each as a checkpoint keeps it."""
    found = list(islice(packed.read(reader, readers, place), count))
    return [row["input_ids"].tolist() for row, _ in found], [json.loads(json.dumps(place)) for _, place in found]


@pytest.mark.parametrize(("readers", "shuffle_buffer"), [(1, None), (1, 64), (2, 7), (3, 1000)])
@pytest.mark.parametrize("name", SOURCES)
def test_every_position_is_followed_by_the_same_rows(streamed, name, readers, shuffle_buffer):
    packed, fresh = streamed(name, shuffle_buffer), streamed(name, shuffle_buffer)
    for reader in range(readers):
        rows, places = read(packed, 480 // readers, reader, readers)
        assert places[-1]["pass"] > 0, "the test must go past the first pass"
        for stop in range(0, len(places) - 12, 41):
            again, _ = read(fresh, 12, reader, readers, places[stop])
            assert again == rows[stop + 1 : stop + 13], f"row {stop}"


def documents(rows, tokenizer):
    """The documents of rows (lists of ids) that stand in them whole."""
    return [text for ids in rows for text in tokenizer.decode(ids).split("<|endoftext|>") if text]


@pytest.mark.parametrize("shuffle_buffer", [None, 50])
@pytest.mark.parametrize(("name", "readers"), [("jsonl", 1), ("jsonl", 2), ("three files", 3)])
def test_the_readers_divide_every_document_of_a_pass(streamed, tokenizer, name, readers, shuffle_buffer):
    packed = streamed(name, shuffle_buffer, block_size=160, group_rows=2)
    found = []
    for reader in range(readers):
        passed = []
        for row, place in packed.read(reader, readers, stream.START):
            passed.append(row["input_ids"].tolist())
            if place["pass"]:  # the group may end with the first documents of the second pass
                break
        found.append(documents(passed, tokenizer))
    assert {text for some in found for text in some} == {row["text"] for row in packed.stream.dataset}
    every = [text for some in found for text in some[:16]]
    assert len(set(every)) == len(every)


def test_each_of_seven_files_is_read_by_one_of_four_readers(tokenizer, tmp_path):
    """7 files on 2 processes with 2 workers: no byte is read twice, although 7 is no multiple of 4."""
    files = [tmp_path / f"{number}.txt" for number in range(7)]
    for file in files:
        file.write_text("".join(f"{file.stem}-{line} {text}\n" for line, text in enumerate(TEXTS)))
    opened = []

    def lines(files):
        for file in files:
            opened.append((reader, file))
            with open(file) as open_file:
                yield from ({"text": line} for line in open_file)

    dataset = datasets.IterableDataset.from_generator(lines, gen_kwargs={"files": files})
    seen = []
    for reader in range(4):
        packed = PackedStream(data.DocumentStream(dataset, "seven files"), tokenizer, 48)
        packed.resume(process=reader // 2, processes=2, workers=2, batch_rows=1, checkpoint=None)
        for row, position in packed.read(reader, 4):
            if position["pass"]:
                break
            seen += documents([row["input_ids"].tolist()], tokenizer)
    assert {file for _, file in opened} == set(files)
    assert len(set(opened)) == len(files), "a file was opened by several readers"
    assert len(set(seen)) == 7 * len(TEXTS)


def test_each_byte_of_seven_files_is_read_once_by_two_processes_of_two_workers(tokenizer, tmp_path, monkeypatch):
    """Counted where the readers of every kind of file open it, in the first pass."""
    counts = {}

    class Counted(io.FileIO):
        def __init__(self, file, mode):
            super().__init__(file, mode)
            self.of_first_pass = (reader, file) not in counts
            counts.setdefault((reader, file), 0)

        def readinto(self, buffer):
            size = super().readinto(buffer)
            counts[reader, self.name] += size * self.of_first_pass
            return size

    for number in range(7):
        rows = [{"text": f"{number}-{line} {TEXTS[line % len(TEXTS)]}"} for line in range(30 + 9 * number)]
        (tmp_path / f"{number:05}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = data.resolve_data(Data.model_validate({"path": str(tmp_path), "streaming": True}))
    packed = PackedStream(data.stream_documents(data.Sources((source,)), tmp_path / "skipped"), tokenizer, 48)
    monkeypatch.setattr(base, "open", lambda *args: io.BufferedReader(Counted(*args)), raising=False)
    for reader in range(4):
        packed.resume(process=reader // 2, processes=2, workers=2, batch_rows=1, checkpoint=None)
        for _, position in packed.read(reader, 4):
            if position["pass"]:
                break
    assert len(counts) == 7, "a file was opened by several readers"
    assert {file: size for (_, file), size in counts.items()} == {
        str(path): path.stat().st_size for path in tmp_path.glob("*.jsonl")
    }


def test_more_readers_than_files_are_announced(streamed):
    with pytest.warns(UserWarning, match="1 file.* for 4 readers .*keeps one row in 4. Split the data into at least 4"):
        streamed("jsonl").resume(process=0, processes=2, workers=2, batch_rows=1, checkpoint=None)


def test_a_buffer_shuffles_and_the_seed_and_the_pass_decide_how(streamed, tokenizer):
    def numbers(place=stream.START, **options):
        rows, _ = read(streamed(block_size=160, **options), 20, place=place)
        return [int(text.split(".")[0]) for text in documents(rows, tokenizer)]

    assert sum(numbers()[:20]) < 20 * 20
    second = {**stream.START, "pass": 1}
    orders = [
        numbers(shuffle_buffer=240),
        numbers(shuffle_buffer=100),
        numbers(shuffle_buffer=240, seed=1),
        numbers(shuffle_buffer=240, place=second),
    ]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sum(order[:20]) > 20 * 20 for order in orders)
    assert max(orders[1][:30]) < 100


def test_a_reader_without_documents_is_an_error(streamed):
    packed = streamed("jsonl")
    with pytest.raises(DataError, match="for reader 241 of 300. Start fewer processes or workers"):
        read(packed, 1, 240, 300)


@pytest.fixture
def fit(streamed, tokenizer, tmp_path, monkeypatch):
    """Train a tiny model on a stream in a folder, `until` a step at which the process is lost; [step, ids] as trained."""

    def fitted(folder, until=None, shuffle_buffer=20, name="three files", **args):
        seen = []

        class Recording(training.StageTrainer):
            def training_step(self, model, inputs, *more):
                if self.state.global_step == until:
                    raise KeyboardInterrupt
                seen.append([self.state.global_step, inputs["input_ids"].tolist()])
                return super().training_step(model, inputs, *more)

        packed = streamed(name, shuffle_buffer)
        with monkeypatch.context() as patched:
            patched.setattr(training, "StageTrainer", Recording)
            torch.manual_seed(0)
            model = build_model({"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 48}, tokenizer)
            try:
                training.train_model(
                    patch_loss(model),
                    training.TrainingData(packed.rows, partial(collate, pad_token_id=tokenizer.pad_token_id)),
                    tmp_path / folder,
                    {"max_steps": 60, "per_device_train_batch_size": 3, "save_steps": 5, **args},
                    training.StageSettings("pretrain", seed=0, row_tokens=48, tokens_per_row=48),
                )
            except KeyboardInterrupt:
                assert until is not None
        return seen, packed

    return fitted


@pytest.mark.parametrize(
    ("args", "stops"),
    [
        ({}, (3, 13, 41)),
        ({"gradient_accumulation_steps": 2}, (17, 33)),
        ({"dataloader_num_workers": 2}, (12, 47)),
        ({"dataloader_num_workers": 2, "dataloader_prefetch_factor": 4, "gradient_accumulation_steps": 2}, (28,)),
    ],
)
def test_a_stopped_run_trains_on_what_an_uninterrupted_one_does(fit, tmp_path, args, stops):
    whole, packed = fit("whole", **args)
    expected = packed.counts()
    assert any(place["pass"] for place in packed.progress.positions.values())
    for stop in stops:
        seen, _ = fit("stopped", until=stop, **args)
        assert seen == [step for step in whole if step[0] in {each for each, _ in seen}]
    seen, packed = fit("stopped", **args)
    assert seen == [step for step in whole if step[0] >= stops[-1] // 5 * 5]
    assert seen[0][0] > 0
    kept = [(tmp_path / name / "checkpoint-60" / "model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert kept[0] == kept[1], "the random state of dropout was another one"
    assert packed.counts() == expected
    assert expected.rows == 60 * 3 * args.get("gradient_accumulation_steps", 1)
    assert expected.tokens + expected.padding == expected.rows * 48
    assert expected.texts > 90


def test_a_run_that_had_finished_trains_no_further(fit):
    _, first = fit("run")
    seen, again = fit("run")
    assert seen == []
    assert again.counts() == first.counts()


def test_a_checkpoint_without_a_position_is_refused(fit, tmp_path):
    fit("run", until=7, name="three files")
    for name in ("stream-0.json", checkpoints.CHECKSUMS):
        (tmp_path / "run" / "checkpoint-5" / name).unlink()
    checkpoints.write_checksums(tmp_path / "run" / "checkpoint-5")
    with pytest.raises(UserError, match="has no position in the stream. Start again with --fresh"):
        fit("run")


def steps_of(make, processes, workers, rows, checkpoints, steps=7):
    """The rows of each of `steps` steps of 8 rows on so many processes, sorted; `checkpoints` are read and written."""
    source, target = checkpoints
    found, counts = [[] for _ in range(steps)], None
    for process in range(processes):
        packed = make()
        packed.resume(process, processes, workers, rows, source)
        batches = packed.batches(rows, collate=lambda group: {"input_ids": [each["input_ids"] for each in group]})
        for step in found:
            for _ in range(8 // (rows * processes)):
                step += [ids.tolist() for ids in next(batches)["input_ids"]]
        packed.save(target)
        counts = packed.progress
    return [sorted(step) for step in found], counts


@pytest.mark.filterwarnings("ignore:.*the run began with", "ignore:.*for 4 readers")
@pytest.mark.parametrize(
    ("began", "continued"),
    [
        ((2, 0, 4), [(1, 0, 8), (4, 0, 2)]),  # processes, workers, rows at a time
        ((2, 0, 2), [(1, 0, 4), (2, 0, 4), (1, 2, 1)]),
        ((1, 0, 8), [(2, 0, 4), (4, 0, 2), (1, 0, 8)]),
        ((1, 2, 4), [(2, 0, 2), (2, 1, 4)]),
        ((2, 2, 1), [(1, 0, 8), (2, 2, 2)]),
    ],
)
@pytest.mark.parametrize("shuffle_buffer", [None, 20])
def test_any_number_of_processes_continues_with_the_same_rows(streamed, tmp_path, began, continued, shuffle_buffer):
    make = partial(streamed, "three files", shuffle_buffer)
    whole, _ = steps_of(make, *began, (None, tmp_path / "whole"), steps=7 * (1 + len(continued)))
    steps, _ = steps_of(make, *began, (None, tmp_path / "0"))
    for number, layout in enumerate(continued):
        more, progress = steps_of(make, *layout, (tmp_path / str(number), tmp_path / str(number + 1)))
        steps += more
        assert progress.done == len(steps) * 8
    assert steps == whole


def test_readers_that_several_processes_share_are_announced(streamed, tmp_path):
    make = partial(streamed, "three files")
    steps_of(make, 2, 0, 4, (None, tmp_path / "two"), steps=1)
    with pytest.warns(UserWarning, match=r"began with 2 reader.* continues with 4 .*2 part\(s\).* read by several"):
        make().resume(0, 4, 0, 2, tmp_path / "two")


def test_a_checkpoint_of_version_0_1_continues(streamed, tmp_path):
    """Which kept the positions of one process' workers, without the rows that each of them had yielded."""
    make = partial(streamed, "three files")
    whole, _ = steps_of(make, 1, 2, 4, (None, tmp_path / "whole"), steps=14)
    _, progress = steps_of(make, 1, 2, 4, (None, tmp_path / "old"))
    places = [{key: progress.positions[n][key] for key in stream.START if key != "rows"} for n in (0, 1)]
    old = {"process": 0, "processes": 1, "workers": 2, "places": places, "batches": 14, "rows": 56, "tokens": 9}
    (tmp_path / "old" / "stream-0.json").write_text(json.dumps({**old, "split": progress.division.split}))
    more, _ = steps_of(make, 1, 2, 4, (tmp_path / "old", tmp_path / "new"))
    assert more == whole[7:]


def test_settings_that_mean_nothing_for_a_stream_are_a_warning(fit):
    with pytest.warns(UserWarning, match="dispatch_batches and split_batches are ignored"):
        fit("run", until=1, accelerator_config={"dispatch_batches": True})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_row_of_a_stream_is_one_clear_error(fit, files, workers):
    """With two workers, in the file that the first of them reads."""
    file = files / "three" / "train-00000.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:20], '{"text": null, "n": 0}\n', *lines[20:]]))
    with pytest.raises(
        DataError, match=r"^[^\n]*train-00000.jsonl\D+\d+\D* column 'text' holds None, not text"
    ) as error:
        fit("run", dataloader_num_workers=workers)
    assert "Traceback" not in str(error.value)


SECTIONS = """
pretrain:
  data: [{path: one, streaming: true, weight: 2}, {path: three, streaming: true, weight: 1}]
  shuffle_buffer: 50
  args: {max_steps: 60, save_steps: 7, logging_steps: 10, per_device_train_batch_size: 2}
"""
RECIPE = tiny_recipe("streamed", SECTIONS)


def test_a_recipe_that_streams_reports_what_it_packed(files, monkeypatch, capsys):
    (files / "streamed.yaml").write_text(RECIPE)
    monkeypatch.chdir(files)
    run_recipe(load_recipe("streamed.yaml"))
    packing = json.loads((files / "runs/streamed/environment.json").read_text())["stages"]["pretrain"]["packing"]
    assert packing["rows"] == 60 * 2
    assert packing["tokens"] + packing["padding"] == 60 * 2 * 64
    assert f"pretrain: {PackingCounts(**packing)}" in capsys.readouterr().err


def test_a_corpus_in_memory_is_encoded_once_for_all_runs(files, monkeypatch, capsys):
    (files / "memory.yaml").write_text(RECIPE)
    sets = ["pretrain.data={path: one}", "pretrain.shuffle_buffer=null", "pretrain.args.max_steps=4"]
    monkeypatch.chdir(files)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(files / "home"))
    outputs = []
    for name in ("first", "second"):
        run_recipe(load_recipe("memory.yaml", sets), name)
        outputs.append(capsys.readouterr().err)
    (kept,) = (files / "home" / "hflm-packed").iterdir()
    assert [f"their tokens are read from {kept}" in each for each in outputs] == [False, True]
    records = [json.loads((files / name / "environment.json").read_text()) for name in ("first", "second")]
    first, second = (record["stages"]["pretrain"] for record in records)
    assert first["packing"] == second["packing"]
    assert first["packing"]["texts"] == FINITE
    assert first["final_loss"] == second["final_loss"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_streamed_run_that_was_killed_ends_in_the_same_weights(files, processes, workers):
    (files / "streamed.yaml").write_text(RECIPE)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command = [sys.executable, *(launcher if processes == 2 else []), "-m", "hflm", "run", "streamed.yaml"]
    command += ["--set", "pretrain.args.max_steps=120"]
    command += ["--set", f"pretrain.args.dataloader_num_workers={workers}", "--output"]

    def start(output, until=None):
        with subprocess.Popen(
            [*command, output], cwd=files, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
        ) as process:
            output = []
            for line in process.stderr:
                output.append(line)
                if until and line.startswith(until):
                    # The launcher's processes too, which it starts in groups of their own.
                    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                        each.kill()
        return process.returncode, "".join(output)

    code, output = start("whole")
    assert code == 0, output
    code, output = start("killed", until="pretrain 30/")
    assert code == -signal.SIGKILL, output
    assert not (files / "killed" / "model").exists()
    code, output = start("killed")
    assert code == 0, output
    assert "continues from checkpoint-" in output
    weights = [(files / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
