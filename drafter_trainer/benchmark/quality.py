"""Quality of the outputs: scores against references, share in the language, and whether the target does its task."""

from collections.abc import Iterable, Sequence
from typing import Any

from drafter_trainer.corpora.questions import Question
from drafter_trainer.decoding.sampling import describe_sampling
from drafter_trainer.extras import is_installed, require
from drafter_trainer.languages import Language
from drafter_trainer.results import PLAIN, MeasuredRun, Results, find_method

MOST_LOOPING, LEAST_IN_LANGUAGE = 0.1, 0.9  # of plain outputs
# A translation with a lower score is hardly closer to its reference than any other text in the same language.
_LEAST_CHRF = 30.0
_FEWEST_CHARACTERS = 20  # of an output whose language is identified
# BLEU counts words, so languages without spaces between words need sacrebleu's own tokenizers.
_TOKENIZERS = {"ja": "ja-mecab", "zh": "zh"}


def score(completions: Sequence[str], references: Sequence[str], language: Language) -> dict[str, Any]:
    """Score completions against one reference each.

    Returns:
        `dict` with `answers`, the number of completions; `chrf` and `bleu` over the whole corpus, between 0 and 100;
        and `signatures`, sacrebleu's record of how each score was computed.
    Source: Popović, "chrF: character n-gram F-score for automatic MT evaluation" (2015); Papineni et al., "BLEU"
        (2002); Post, "A Call for Clarity in Reporting BLEU Scores", arXiv 1804.08771
    """
    library = require("sacrebleu.metrics", "quality")
    tokenizer = _TOKENIZERS.get(language.code.partition("-")[0], "13a")  # zh-Hant as zh
    metrics = {"chrf": library.CHRF(), "bleu": library.BLEU(tokenize=tokenizer)}
    scores = {name: metric.corpus_score(completions, [references]).score for name, metric in metrics.items()}
    signatures = {name: metric.get_signature().format() for name, metric in metrics.items()}
    return {"answers": len(completions)} | scores | {"signatures": signatures}


def add_quality(
    run: MeasuredRun, records: Sequence[dict[str, Any]], questions: Sequence[Question], language: Language
) -> None:
    """Add `quality` to each method of a run, if some questions have references and sacrebleu is installed."""
    references = {question.question_id: question.reference for question in questions if question.reference is not None}
    scored = [record for record in records if record["question_id"] in references]
    if scored and is_installed("sacrebleu"):
        expected = [references[record["question_id"]] for record in scored]
        for method in run["methods"]:
            method["quality"] = score([each["methods"][method["name"]]["text"] for each in scored], expected, language)


def add_language_share(run: MeasuredRun, records: Sequence[dict[str, Any]], language: Language) -> None:
    """Add `language_share` to a run, the share of plain outputs in the expected language.

    Outputs of fewer than 20 characters are not counted, because py3langid is often wrong about them. Without
    py3langid, or for a language that py3langid does not know, nothing is added.
    """
    if not is_installed("py3langid"):
        return
    py3langid = require("py3langid", "languages")
    code = language.code.partition("-")[0]
    texts = [record["methods"][PLAIN].get("text", "").strip() for record in records]
    identified = [py3langid.classify(text)[0] for text in texts if len(text) >= _FEWEST_CHARACTERS]
    if identified and code in {language for language, _ in py3langid.rank("a")}:
        run["language_share"] = identified.count(code) / len(identified)


def failed_checks(run: MeasuredRun) -> list[str]:
    """List the reasons why the target of a run does not do its task.

    Reasons are more than a tenth of plain outputs that loop, more than a tenth in another language, and greedy
    translations with a chrF below 30. A run with a reason is not in the README, the first part of the gallery, or
    `model-index`.

    Returns:
        `list` of reasons, empty if there are none or nothing was checked.
    """
    plain, reasons = find_method(run, PLAIN), []
    if plain["looping_share"] > MOST_LOOPING:
        reasons.append(f"{plain['looping_share']:.0%} of the plain outputs loop")
    if run.get("language_share", 1.0) < LEAST_IN_LANGUAGE:
        reasons.append(f"{1 - run['language_share']:.0%} of the plain outputs are in another language")
    quality = plain.get("quality")
    if quality and run["task"] == "translation" and run["temperature"] == 0 and quality["chrf"] < _LEAST_CHRF:
        reasons.append(f"the plain translations score chrF {quality['chrf']:.1f}, below {_LEAST_CHRF:.0f}")
    return reasons


def is_showcase(results: Results) -> bool:
    """Return whether the target is known to do its task in every run of a results file."""
    runs = results["runs"]
    checked = all("language_share" in run or "quality" in find_method(run, PLAIN) for run in runs)
    return checked and not any(map(failed_checks, runs))


def quality_warning(measured: Iterable[Results]) -> str:
    """Return a paragraph that names the runs whose target does not do its task, empty if there are none."""
    runs = [run for results in measured for run in results["runs"]]
    failed = [
        f"{run['pair']} {run['task']}, {describe_sampling(run['temperature'], run['seed'])}: {', '.join(reasons)}"
        for run in runs
        if (reasons := failed_checks(run))
    ]
    if not failed:
        return ""
    return (
        f"**The target does not do its task in {len(failed)} of {len(runs)} runs** ({'; '.join(failed)}). Speedups on "
        "such output do not carry over to a target that does its task."
    )
