"""hflm: one YAML recipe for the whole life of a GPT-2-style language model.

This is the map of the house. The story is told in `run.py`; every other room is one part of it.

    cli.py            commands and exit codes; imports late, so that `--help` answers at once
    errors.py         what is shown to people, as a tree
    recipe.py         YAML -> a frozen Recipe, or all its problems by file and line
      recipe_yaml.py      reading: line numbers, `extends`, `--set`, shipped recipes
      recipe_section.py   what all sections share; recipe_tasks.py: data and tasks
      task_file.py        a task file of lm-eval's -> one task of a recipe
      names.py, names.json   the names that the passed-through options may have, generated from the libraries
    presets.py        GPT-2's sizes and their parameters
    run.py            the stages, in order: tokenizer, pretrain, finetune, benchmark, card, push
    stages.py         which of them are finished, and what moves aside when their inputs change
    material.py       all rows and text that a recipe names, read and checked before anything is trained
    environment.py    environment.json: versions, hardware, fingerprints
    data.py           rows from files, folders, the Hub or the toy world; corpora and held-out text
    toy.py            the toy world: stories and the four tasks, generated from a seed
    tokenizer.py      train or take one; texts -> ids
    pack.py           documents and examples -> rows of tokens that do not see each other
    model.py          build or load; the mended loss; adapters; saving whole
    train.py          Trainer with its edges mended: sealed checkpoints, SIGTERM, progress, metrics.jsonl
    muon.py           Muon for the matrices, AdamW for the rest, as one optimizer
    tasks/            a row -> prompt, target, references; one small file a kind; fit.py: what is too long
    metrics/          evaluate.Metric classes over the kept scorers, with bootstrap intervals
    answer.py         batched answers: greedy text, labels by likelihood, text likelihood
    grouping.py       rows that begin alike, and batches that hold a budget of tokens
    endpoint.py       the same answers from a model behind an OpenAI-compatible endpoint
    benchmark.py      one task: its rows answered, scored and written down
    slices.py         parts of a task's rows, scored alone
    results.py        results.json, and the terminal's table
    compare.py        `hflm compare`: runs paired row by row; compare_page.py shows it, metrics/paired.py tests it
    card.py           the model card, card_benchmark.py its scores; records.py reads what a run wrote, plots.py draws,
                      markdown.py and public.py keep data inert and paths private
    push.py           the Hub
    generate.py       `hflm generate`

Stages do not import each other: `run.py` hands plain objects along. Nothing imports torch or transformers before a
command needs it.
"""
