"""Find the settings with which a drafter is fastest on this machine.

    drafter-trainer tune --config recipes/configs/gemma-3-270m/de-en.yaml
    drafter-trainer tune --config recipes/configs/gemma-3-270m/de-en.yaml --sources lookup ngram \\
      --corpus file:text.txt --run_folder runs/ngram

Measures the target's forward passes and the drafter's step. Then tries draft vocabularies, n-gram tables, draft
lengths and sources on the held-out completions of RUN_FOLDER/distill. The tables are counted on the completions, and
with --corpus also on its text. The tuned drafter, a copy of RUN_FOLDER/finetune, is written to RUN_FOLDER/drafter.

With --sources lookup ngram there is no network, and no training is needed. Without a distillation, the tables are
counted on --corpus, and settings are tried on the target's continuations of held-out texts.
"""

from pathlib import Path

from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import require_one_process
from drafter_trainer.cli.options import arguments_of
from drafter_trainer.pipeline.tune import tune, tune_run
from drafter_trainer.tuning.search import trials_table


def main(argv: list[str]) -> None:
    """Run the step."""
    (named, where, corpora, tuning), given = parse_arguments("tune", argv, __doc__)
    require_one_process("tuning runs")
    # Steps record these options under their earlier names, so that earlier records still match.
    recorded = {"draft_length": "longest_draft", "corpus": "table_corpus"}
    given = {recorded.get(name, name): value for name, value in given.items()}
    if rows := [*map(Path, tuning.data)]:
        given |= {"data": tuning.data[0]} | ({"other_data": tuning.data[1:]} if rows[1:] else {})
    chosen = arguments_of(tune, tuning, where) | {
        "drafter": Path(tuning.drafter) if tuning.drafter else None,
        "rows": next(iter(rows), None),
        "other_rows": rows[1:],
        "table_corpora": corpora.corpus,
        "max_texts": corpora.limits[0],
        "evaluation_questions": corpora.evaluation_questions,
        "longest_draft": tuning.draft_length,
    }
    trials = tune_run(named.run, where.resolve(), given, **chosen)
    if trials:
        print(trials_table(trials))
    print(f"drafter: {named.run.published}")
