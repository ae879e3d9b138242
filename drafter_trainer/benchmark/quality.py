"""Quality of the answers against references: chrF and BLEU, of plain decoding and of each method."""

from collections.abc import Sequence
from typing import Any

from drafter_trainer.corpora.questions import Question
from drafter_trainer.extras import is_installed, require
from drafter_trainer.languages import Language
from drafter_trainer.results import PLAIN, MeasuredRun

_FEWEST_CHARACTERS = 20  # of an output whose language is identified
# BLEU counts words: where spaces do not set them apart, and in sacrebleu's own choice for each of these languages.
_TOKENIZERS = {"ja": "ja-mecab", "zh": "zh"}


def score(answers: Sequence[str], references: Sequence[str], language: Language) -> dict[str, Any]:
    """Score answers against one reference each.

    Returns:
        `dict` with `answers`, their number; `chrf` and `bleu`, over the whole corpus, between 0 and 100; and
        `signatures`, sacrebleu's own record of how each was computed.
    Source: Popović, "chrF: character n-gram F-score for automatic MT evaluation" (2015); Papineni et al., "BLEU"
        (2002); Post, "A Call for Clarity in Reporting BLEU Scores", arXiv 1804.08771
    """
    library = require("sacrebleu.metrics", "quality")
    tokenizer = _TOKENIZERS.get(language.code.partition("-")[0], "13a")  # zh-Hant as zh
    metrics = {"chrf": library.CHRF(), "bleu": library.BLEU(tokenize=tokenizer)}
    scores = {name: metric.corpus_score(answers, [references]).score for name, metric in metrics.items()}
    signatures = {name: metric.get_signature().format() for name, metric in metrics.items()}
    return {"answers": len(answers)} | scores | {"signatures": signatures}


def add_language_share(run: MeasuredRun, records: Sequence[dict[str, Any]], language: Language) -> None:
    """Give a run its `language_share`, the share of plain outputs that are in the expected language.

    Outputs of fewer than 20 characters are not counted: py3langid is often wrong about them. Without py3langid, or in
    a language that it does not know, the run gets none.
    """
    if not is_installed("py3langid"):
        return
    py3langid = require("py3langid", "languages")
    code = language.code.partition("-")[0]
    texts = [record["methods"][PLAIN].get("text", "").strip() for record in records]
    found = [py3langid.classify(text)[0] for text in texts if len(text) >= _FEWEST_CHARACTERS]
    if found and code in {known for known, _ in py3langid.rank("a")}:
        run["language_share"] = sum(each == code for each in found) / len(found)


def add_quality(
    run: MeasuredRun, records: Sequence[dict[str, Any]], questions: Sequence[Question], language: Language
) -> None:
    """Give each method of a run its `quality`, if any of the questions has a reference and sacrebleu is installed."""
    references = {question.question_id: question.reference for question in questions if question.reference is not None}
    scored = [record for record in records if record["question_id"] in references]
    if scored and is_installed("sacrebleu"):
        for method in run["methods"]:
            answers = [record["methods"][method["name"]]["text"] for record in scored]
            method["quality"] = score(answers, [references[record["question_id"]] for record in scored], language)
