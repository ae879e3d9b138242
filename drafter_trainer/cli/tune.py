"""Choose on this machine how a finetuned drafter drafts, and publish it with these settings.

    drafter-trainer tune --config recipes/configs/gemma-3-270m/de-en.yaml
    drafter-trainer tune --config recipes/configs/gemma-3-270m/de-en.yaml --sources lookup ngram \
      --table_corpus file:text.txt --run_folder runs/ngram

Measures the target's forward passes and the drafter's step, then tries draft vocabularies, n-gram tables (of the
completions, and with --table_corpus of more text), draft lengths and sources on the held-out completions of
RUN_FOLDER/distill. Leaves RUN_FOLDER/tune, which publish puts into the repository, and ends by publishing as the step
publish does, unless --publish false.

With --sources lookup ngram there is no network, and nothing has to be trained before. Without a distillation either,
the tables are those of --table_corpus alone, and settings are tried on the target's continuations of held-out texts.
"""

from pathlib import Path

from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import report_step, require_one_process
from drafter_trainer.hub.publish import check_destination, publish_run
from drafter_trainer.pipeline.tune_run import tune_run
from drafter_trainer.tuning.results import trials_table


def main(argv: list[str]) -> None:
    """Run the step."""
    (named, where, tuning, publishing), given = parse_arguments("tune", argv, __doc__)
    require_one_process("tuning runs")
    if tuning.publish:
        check_destination(publishing.to)
    run, target, how = named.run, where.resolve(), publishing.publishing()
    step, trials = tune_run(
        run,
        target,
        sources=how.sources,
        rows=Path(tuning.data) if tuning.data else None,
        other_tasks=[Path(name) for name in tuning.other_tasks],
        table_corpora=tuning.table_corpus,
        table_samples=tuning.table_samples,
        table_bytes=tuning.table_bytes,
        evaluation_questions=tuning.evaluation_questions,
        skip_bad_rows=tuning.skips_bad_rows,
        max_answers=tuning.max_answers,
        longest_draft=tuning.longest_draft,
        repeats=tuning.repeats,
        costs=Path(tuning.costs) if tuning.costs else None,
        dtype=where.dtype,
        settings=given,
    )
    if trials:
        print(trials_table(trials))
    report_step(step)
    if tuning.publish:
        print(publish_run(run, target, where.dtype, how))
