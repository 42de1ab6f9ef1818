"""The fenced blocks of README.md and docs/, and the data that they name."""

import csv
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

WORDS = ("soup", "cake", "bread", "tea", "pie")
TEXTS = [f"The {word} was good, and I would eat it again." for word in WORDS] * 20
TASK_FILE = """
task: sst2
dataset_path: json
dataset_kwargs: {data_files: {test: sentences.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "Review: {{sentence}}\\nSentiment:"
doc_to_choice: [negative, positive]
doc_to_target: label
metric_list: [{metric: acc}]
"""


def blocks(page: Path, language: str) -> list[str]:
    """The content of each fenced block of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def write_data(folder: Path) -> None:
    """Write the data that the pages name, a few rows of each."""
    for name in ("data/reviews/train.txt", "data/reviews/validation.txt", "data/web/train.txt", "data/wiki/train.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join(TEXTS))
    with open(folder / "reviews.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["review", "label"])
        rows.writerows([f"The {word} was {label}.", label] for word in WORDS * 4 for label in ("good", "bad"))
    turns = ["Is it good?", "Yes, it is."]
    lists = {
        "data/books.jsonl": [{"body": "A book."}] * 9,
        "data/stories/train.jsonl": [{"title": "The dog", "story": "A dog saw a cat."}] * 9,
        "data/chats.jsonl": [
            {"messages": [{"role": "user", "content": turns[0]}, {"role": "assistant", "content": turns[1]}]}
        ]
        * 9,
        "data/talks.jsonl": [
            {"conversations": [{"from": "human", "value": turns[0]}, {"from": "gpt", "value": turns[1]}]}
        ]
        * 9,
        "sentences.jsonl": [{"sentence": f"It is {word}.", "label": number % 2} for number, word in enumerate(WORDS)],
    }
    for name, content in lists.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in content))
    (folder / "data" / "alpaca.json").write_text(
        json.dumps([{"instruction": turns[0], "input": "", "output": turns[1]}] * 9)
    )
    (folder / "sst2.yaml").write_text(TASK_FILE)
