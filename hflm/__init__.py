"""hflm: one YAML recipe for the whole life of a GPT-2-style language model.

Overview of the packages, highest first. A package imports only from those below it; import-linter checks that (see
pyproject.toml). `pipeline/run.py` runs the stages in order and is the place to start reading.

    cli/                  commands, which import late, so that `--help` answers at once
      app.py                the application, and the arguments that several commands take
      recipes.py            commands that take a recipe; models.py: those that take a model or a finished run
      entry.py              the console script: messages and exit codes

    pipeline/             a run, from the recipe to the model card
      run.py                `hflm run`: a loop over the stages, and which of them are skipped
      bench.py              `hflm bench`: the benchmark alone, on any model
      sweep.py              `hflm sweep`: a search by Optuna; sweep_storage.py: its storage; sweep_study.py: how
                            workers divide it; sweep_trial.py: one trial; sweep_report.py: tables, plots, best.yaml
      scale.py              `hflm scale`: a ladder of small runs; scale_report.py: what it leaves
      seeds.py              `hflm run --seeds`; shared_stages.py: finished stages of one run used in another
      inputs.py             the data and models of a recipe, resolved once: files, fingerprints, commits, licences
      tokenizer_texts.py    what a tokenizer is trained on and reported on
      reading.py            all rows and text that a recipe names, read and checked before training starts
      stages/               tokenizer, pretrain, finetune, model, benchmark, card, push: one module each
      look_ahead.py         what `hflm validate` finds missing; diagnostics.py: `hflm env` and `hflm cache`
      stage_keys.py         what each stage depends on; stage_state.py: which stages are finished, and what is set aside
                            when their inputs change; schedule.py: what has to run, and why; extension.py: `--extend`
      run_folder.py         the folder of a run and its lock; console.py: run.log, and reports of long phases
      process_setup.py      what a run changes in its whole process; ranks.py: the processes and how they wait
      provenance.py         environment.json: versions, hardware, fingerprints, commits; `--locked`
      fetch.py              `hflm fetch`
      hub_checkpoints.py    what of a run goes to the Hub while it trains, and `--from-hub`, which puts it back
      preview.py            `hflm preview`; preview_view.py: the terminal and the page

    publishing/           what leaves the machine
      card.py               the model card, from the template card.md; card_metadata.py: its front matter;
                            card_benchmark.py: its scores; card_provenance.py: its data, hardware, energy and recipe
      run_record.py         what a finished run left on disk; which scores belong to its weights
      push.py               the Hub: one commit and one tag, repeated until it is complete; push_files.py: which files;
                            hub_errors.py: retries; space.py: a Space's files
      checkpoint_upload.py  checkpoints onto a branch of the Hub, in the background; checkpoint_download.py: back from it;
                            checkpoint_files.py: which files, and their list
      export/               `hflm export`: folder.py, gguf.py, onnx.py; loss.py: what quantization costs

    demo/                 the local page of `hflm demo`
      serve.py              its server; app.py: its layout; session.py: what it shows and answers; tabs.py: tasks and
                            examples

    planning/             `hflm plan`: what a recipe takes, and whether it fits
      plan.py               the plan; inputs.py: what is known without running; view.py: the tables
      cost.py               memory and FLOPs of an optimizer step
      scaling_law.py        the loss as a function of parameters and tokens; ladder.py: the small runs that it is fitted
                            to; scale.py: scale.json

    evaluation/           the benchmark
      benchmark.py          one task: its rows answered, scored and written
      questions.py          what a task asks, and the scores of the answers; answers.py: by all processes, kept as they
                            come; training_scores.py: while a model trains
      results.py            results.json, and the terminal's table
      slices.py             scores of parts of a task's rows
      contamination.py      which benchmark examples occur in the training text
      compare.py            `hflm compare`; compare_task.py: a task of several runs, row by row; prediction_files.py: their
                            rows; compare_view.py: the tables and the page
      seeds.py              mean and spread over seeds; compare_seeds.py: recipes compared over several seeds each
      plots.py              the plots of cards, comparisons and scores; sweep_plots.py, scale_plots.py:
                            those of sweeps and ladders
      metrics/              evaluate.Metric classes over sacrebleu, rouge-score, scikit-learn and bert-score, with
                            bootstrap intervals; paired.py: paired tests; calibration.py

    inference/            ask a model
      local.py              batched answers: greedy text, labels by likelihood, text likelihood
      search.py             beam search and sampling by transformers' generate, the same in any batch
      batching.py           rows with a common prefix, and batches within a budget of tokens
      windows.py            long texts in windows of the context; stopping.py: where an answer ends
      endpoint.py           the same answers from a model behind an OpenAI-compatible endpoint
      generate.py           `hflm generate`; token_stream.py: one answer, token by token
      score.py              `hflm score`: log p of each token, attention weights; score_view.py: how they are shown

    training/             train one stage
      trainer.py            one stage from its arguments to the last step; stage_trainer.py: transformers' Trainer;
                            outcome.py: the saved model, and what was done
      arguments.py          TrainingArguments, and what follows from the data and the processes
      batch_source.py       what the trainer needs of rows that are read as they come
      processes.py          the process group; work that the first process does while the others wait
      evaluation.py         the loss of validation sets and the scores of tasks; best_model.py: the kept checkpoint,
                            early stopping
      divergence.py         what stops a stage: a signal, a loss that is not finite, a spike
      recovery.py           what follows a failed step: a smaller micro-batch, back to a valid checkpoint
      heartbeat.py          a process that hangs is named by the others, and all end
      checkpoints.py        checksums; the newest valid checkpoint; a full disk; checkpoint_format.py: of sharded models
                            for whole ones, and the other way round
      extension.py          from which checkpoint a stage goes on for longer, or with another learning rate
      metrics_log.py        metrics.jsonl, tokens per second, FLOP/s
      muon.py               Muon for the matrices, AdamW for the rest, as one optimizer

    models/               build or load a model
      build.py              a new GPT-2; load.py: an existing model; gguf.py: from a .gguf file
      adapters.py           add an adapter, merge a saved one; vocabulary.py: rows for added tokens
      loss.py               -log p without the logits of a whole batch; patched_loss.py: as a model's own loss
      onednn.py             fp32 matrix products on AMD's CPUs with AVX-512, by oneDNN
      architecture.py       a model's matrices and parameters, from its config alone

    preprocessing/        from texts to token ids
      tokenizer.py          train or load one; texts -> ids; added_tokens.py; tokenizer_report.py: how well it fits
      conversations.py      conversations -> ids by a chat template, and which of them are the assistant's
      token_cache.py        texts -> ids in compact arrays, kept on disk by content
      packing.py            documents and examples -> rows of tokens that do not attend to each other
      streaming.py          a stream packed as it is read; stream_position.py: its position in each checkpoint, for any
                            number of processes
      truncation.py         prompts that are longer than the model's context

    tasks/                a row -> prompt, target, references; one small file a kind, named like it
      _kind.py              what such a file defines; _cells.py: the values of a row; _prompts.py: jinja
      _examples.py          reading rows, shots, baselines
      _chat_template.py     the chat template that a fine-tuned model carries; chat.py: conversations

    data/                 read data
      load.py               rows of tasks: of local files as they are written, of the Hub as datasets loads them
      source.py             a recipe's data, looked up once: its files by split, its name in messages, its fingerprint
      corpus.py             the documents of any number of sources, in memory or streamed; mixture.py: mixed by weight
      held_out.py           which documents are held out for validation
      readers/              the rows of one file and the fault of each bad row: text.py, json.py, csv.py, arrow.py
      files.py              local files, by kind and split; splits.py: what train[:10%]+validation names
      source_stats.py       what each source contributed, and which rows were left out
      hub_cache.py          data sets and models in the Hugging Face cache, and their commits
      toy.py                the toy world: stories and four tasks, generated from a seed; toy_words.py: its words
      cleaning/             clean.py: all steps; report.py; filters.py: of one document; repetition.py: Gopher's rules;
                            near_duplicates.py: MinHash-LSH and an exact check; shingles.py: hashed n-grams of words

    recipe/               a recipe
      load.py               YAML -> a frozen Recipe, or all its problems with file and line
      schema.py             the Recipe and the rules between its sections; section.py: what all sections have in common
      tokenizer.py, model.py, training.py, evaluation.py, cleaning.py, benchmark.py: one section each; tasks.py: data
                            and what all tasks say; kinds.py: the kinds of task, found in hflm/tasks
      sweep.py              what a sweep searches; sweep_space.py: its values; sweep_metrics.py: which scores a recipe has;
                            sweep_values.py: the recipe with values in place
      yaml_reader.py        YAML with line numbers; yaml_tree.py: `extends` and `--set`; shipped.py: shipped recipes
      generation_options.py the options of `hflm generate`; decoding.py: those of a task's `generation`
      library_options.py    the names of the options that are passed through, listed in names.json, which
                            is generated from the libraries
      presets.py            GPT-2's sizes and their parameters
      batch_size.py         the batch of a step: rows x accumulation x processes
      trackers.py           the packages that args.report_to needs
      lm_eval_import.py     a task file of lm-eval's -> one task of a recipe; lm_eval_keys.py: its keys
      reference_page.py     every key on one page, recipes/KEYS.md

    core/                 what all of them use
      errors.py             the errors that are shown to users, as a tree
      hardware.py           named accelerators and the machine at hand
      paths.py              what a `path` in a recipe may be
      fingerprint.py        checksums of files
      atomic_io.py          files and folders that are complete or absent; run_files.py: .json and .jsonl of a run, read
      redaction.py          keeps secrets and local paths private; markdown.py, html.py, terminal.py: text that stays
                            inert
      log.py                the logger; formatting.py: quantities and durations as people read them
      scripts.py            words in any script; Chinese, Japanese and Korean

Stages do not import each other: `pipeline/run.py` hands each of them the same `Run`. Nothing imports torch or
transformers before a command needs it.
"""
