"""Arguments of the recipes tune and predict."""

from dataclasses import dataclass

from drafter_trainer.cli.options import check_one_of, check_positive, option
from drafter_trainer.drafters.ngram import LEAST_BYTES
from drafter_trainer.errors import InputError


@dataclass
class TuningArguments:
    """Say what a drafter's settings are tuned on."""

    data: str = option("", "Folder of self-distilled rows (default: RUN_FOLDER/distill)")
    max_answers: int = option(60, "Held-out answers that settings are tried on")
    other_tasks: list[str] = option(
        [],
        "Folders of rows of other tasks, whose held-out answers settings are tried on too; all tasks weigh alike",
    )
    table_corpus: list[str] = option(
        [], "Also try n-gram tables counted on these: text by name, or rows:FOLDER for the answers of a distillation"
    )
    table_samples: int | None = option(None, "Of each of these, count so many documents")
    table_bytes: int = option(1 << 21, "Prune n-gram tables to files of so many bytes; smaller ones are tried too")
    evaluation_questions: list[str] = option(["sample"], "Question sets whose prompts are kept out of the tables")
    on_bad_rows: str = option(
        "error", "Malformed rows of these: error ends the run at the first, skip leaves them out and counts them"
    )
    longest_draft: int = option(32, "Tokens of the longest draft that is timed and tried")
    repeats: int = option(5, "Rounds that are timed of each draft length")
    costs: str = option(
        "", "Take the target's times from this folder of a tuning on the same machine: what both promise compares then"
    )
    publish: bool = option(True, "Publish the drafter at the end")

    def __post_init__(self) -> None:
        check_positive(self, "max_answers", "table_samples", "longest_draft", "repeats")
        check_one_of(self, "on_bad_rows", ("error", "skip"))
        if self.table_bytes < LEAST_BYTES:
            raise InputError(f"table_bytes must be {LEAST_BYTES} or more, got {self.table_bytes}")


@dataclass
class PredictionArguments:
    """Say what is forecast."""

    drafter: str = option("", "Hub id or folder of a trained drafter (default: one of the configured shape)")
    data: str = option("", "With --drafter: folder of self-distilled rows (default: RUN_FOLDER/distill)")
    max_answers: int = option(60, "With --drafter: held-out answers, or questions, that it is replayed on")
    questions: str = option(
        "", "With --drafter: have the target answer these first, as bench.py names them, and replay those answers"
    )
    max_new_tokens: int = option(128, "With --questions: length limit of an answer")
    draft_vocabulary: int = option(8192, "Without --drafter: ids of the draft vocabulary, 0 for all")
    int8: bool = option(True, "Without --drafter: int8 weights, on a processor")
    longest_draft: int = option(16, "Tokens of the longest draft")
    repeats: int = option(5, "Rounds that are timed of each draft length")
    out: str = option("", "Folder of table and plot (default: RUN_FOLDER/predict)")

    def __post_init__(self) -> None:
        check_positive(self, "max_answers", "max_new_tokens", "longest_draft", "repeats")
        if self.questions and not self.drafter:
            raise InputError("questions are answered for a trained drafter: name it with --drafter")
