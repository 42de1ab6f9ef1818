"""How long a whole benchmark takes: the process of lm-eval against `hflm bench`, on the same task files and rows.

    LM_EVAL_PYTHON=.../bin/python MODEL=FOLDER DATA=FOLDER python tests/bench/benchmark_speed.py --repeats 3

Three benchmarks: SST-2's validation rows by likelihood (choice), 300 rows of SQuAD with 32 tokens each (generation), 300
rows of SST-2 after 5 shots (shots: both tools have the same five, in an order of their own). The tools take turns, so
that a slow minute of the machine meets both. lm-eval is spared its index of built-in tasks and its bootstrap; hflm's
time includes its 1,000 resamples and the model card.

Prints one JSON line: a benchmark's `ratio` is lm-eval's seconds over hflm's, the median of the pairs; above 1 hflm is
faster. `scores`: accuracy for the choices, SQuAD's F1 of both tools' texts by hflm's metric.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import lm_eval_parity as parity


def main():
    parser = parity.arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="pairs of runs of each benchmark (default: 3)")
    given = parser.parse_args()
    rows = given.limit or 300
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        found["choice"] = measured(given, folder, parity.SST2, test=parity.sst2(given.data, given.limit))
        found["generation"] = measured(given, folder, parity.SQUAD, test=parity.squad(given.data, rows))
        found["shots"] = measured(
            given,
            folder,
            parity.SST2_SHOTS,
            test=parity.sst2(given.data, rows),
            train=parity.sst2(given.data, parity.SHOTS, "train"),
        )
    print(json.dumps(found))


def measured(given, folder, task, **splits):
    path = parity.write(folder, task, **splits)
    tasks, seconds = {path.stem: path}, {"lm_eval": [], "hflm": []}
    for pair in range(given.repeats):
        order = [("lm_eval", parity.lm_eval), ("hflm", parity.hflm)]
        for tool, run in order if pair % 2 == 0 else order[::-1]:
            work = Path(tempfile.mkdtemp(dir=folder))  # nothing finished, nothing cached by us
            for file in folder.glob(f"{path.stem}.*"):
                (work / file.name).symlink_to(file)
            started = time.perf_counter()
            answered = run(given, work, tasks)
            seconds[tool].append(time.perf_counter() - started)
            if tool == "lm_eval":
                theirs = answered
            else:
                ours = answered[path.stem]
    ratios = [a / b for a, b in zip(seconds["lm_eval"], seconds["hflm"], strict=True)]
    return {
        "rows": len(splits["test"]),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "seconds": seconds,
        "scores": scores(path.stem, theirs, ours),
    }


def scores(name, theirs, ours):
    samples = parity.by_row(theirs["samples"][name])
    if "log_likelihoods" in ours[0]:
        return {"accuracy": {"lm_eval": theirs["results"][name]["acc,none"], "hflm": parity.mean(ours, "accuracy")}}
    texts = [sample["resps"][0][0].strip() for sample in samples]
    references = [tuple(line["references"]) for line in ours]
    return parity.side_by_side(("f1",), texts, [line["prediction"] for line in ours], references)


if __name__ == "__main__":
    main()
