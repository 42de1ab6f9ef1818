"""hflm: one YAML recipe for the whole life of a GPT-2-style language model.

This is the map of the house. The story is told in `run.py`; every other room is one part of it.

    cli.py            commands and exit codes; imports late, so that `--help` answers at once
    errors.py         what is shown to people, as a tree

  The recipe
    recipe.py         YAML -> a frozen Recipe, or all its problems by file and line
      recipe_yaml.py      reading: line numbers, `extends`, `--set`, shipped recipes
      recipe_section.py   what all sections share; recipe_tasks.py: data and tasks; recipe_training.py: pretrain and
                          finetune; recipe_clean.py: pretrain.clean
      recipe_page.py      every key on one page, recipes/KEYS.md
      task_file.py        a task file of lm-eval's -> one task of a recipe
      names.py, names.json   the names that the passed-through options may have, generated from the libraries
    presets.py        GPT-2's sizes and their parameters
    plan.py           `hflm plan`: what a recipe takes and whether it fits; plan_source.py what can be known without
                      running, plan_show.py the tables; shape.py a model's matrices, cost.py memory and FLOPs of a step,
                      hardware.py named accelerators and the machine at hand

  The run
    run.py            the story: the stages, in order, and what is skipped
    steps.py          what each of them does: tokenizer, pretrain, finetune, benchmark
    stages.py         which of them are finished, and what moves aside when their inputs change
    environment.py    environment.json: versions, hardware, fingerprints, commits; `--locked`
    fetch.py          `hflm fetch`; snapshot.py: what of the Hub lies in the cache, and its commit

  Data
    material.py       all rows and text that a recipe names, read and checked before anything is trained
    data.py           rows of tasks; where data lie, how datasets would read them; fingerprints
                      folders.py: local files, by kind and split; splits.py: what train[:10%]+validation names
    corpus.py         any number of sources as one list or stream, mixed by weight; held-out text
    rows.py           the texts of one file, row by row, and what is wrong with each bad one; tables.py: csv, parquet, arrow
    shares.py         what each source gave and which rows were left out, for the record
    clean.py          filters, duplicates and their report: what is left out of a corpus, and why
                      repetition.py: Gopher's rules; duplicates.py: MinHash-LSH and an exact check; shingles.py: hashed words
    contamination.py  which benchmark examples stand in the training text
    toy.py            the toy world: stories and the four tasks, generated from a seed
    tokenizer.py      train or take one; texts -> ids
    encoding.py       texts -> ids in compact arrays, kept on disk by content
    pack.py           documents and examples -> rows of tokens that do not see each other
    stream.py         a stream packed as it is read, and its place in each checkpoint

  Training
    model.py          build or load; adapters; saving whole
    loss.py           -log p without the logits of a whole batch
    train.py          Trainer with its edges mended
    batch.py          the batch of a step: rows x accumulation x processes
    guards.py         what stops a stage: SIGTERM, a loss that is not finite, a spike
    recovery.py       what follows a failed step: a smaller micro-batch, back to a sound checkpoint
    checkpoints.py    checksums; the newest sound one; a full disk
    progress.py       metrics.jsonl, tokens per second, FLOP/s; trackers.py: the packages that args.report_to needs
    products.py       fp32 matrix products on AMD's CPUs with AVX-512, by oneDNN
    muon.py           Muon for the matrices, AdamW for the rest, as one optimizer

  The benchmark
    tasks/            a row -> prompt, target, references; one small file a kind; fit.py: what is too long
    metrics/          evaluate.Metric classes over the kept scorers, with bootstrap intervals
    answer.py         batched answers: greedy text, labels by likelihood, text likelihood
    grouping.py       rows that begin alike, and batches that hold a budget of tokens
    endpoint.py       the same answers from a model behind an OpenAI-compatible endpoint
    benchmark.py      one task: its rows answered, scored and written down
    slices.py         parts of a task's rows, scored alone
    results.py        results.json, and the terminal's table
    compare.py        `hflm compare`: runs paired row by row; compare_page.py shows it, metrics/paired.py tests it

  What comes out
    card.py           the model card; card_benchmark.py its scores, card_made.py its data, hardware, energy and recipe;
                      records.py reads what a run wrote, plots.py draws, html_page.py, markdown.py and public.py keep
                      data inert and paths private
    push.py           the Hub: one commit and one tag, repeated until it is whole
    generate.py       `hflm generate`
    score.py          `hflm score`: log P token by token, attention weights; score_page.py shows them
    export.py         `hflm export`: folder, GGUF, ONNX
    chat.py           the chat template that a fine-tuned model carries
    demo.py           `hflm demo`: what it shows and answers; demo_tabs.py its tasks and examples, demo_page.py the page
                      writing.py one answer as it is written, space.py the folder of a Space

Stages do not import each other: `steps.py` hands plain objects along. Nothing imports torch or transformers before a
command needs it.
"""
