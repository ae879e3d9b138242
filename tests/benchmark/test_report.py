"""Tables, caveats, comparisons, quality and pages of results."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pages import overview_table
from drafter_trainer.benchmark.comparison import compare_results
from drafter_trainer.benchmark.page import render_page, write_report
from drafter_trainer.benchmark.quality import add_quality, quality_warning, score
from drafter_trainer.benchmark.report import (
    caveats,
    difference_table,
    markdown_table,
    quality_table,
    render_markdown,
    report_tables,
)
from drafter_trainer.corpora.questions import Question
from drafter_trainer.errors import InputError
from drafter_trainer.languages import get_language
from drafter_trainer.results import find_method
from tests.benchmark.made import PROVENANCE, make_results, make_run

PLAIN_SECONDS = [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
# About half, a little more and a little less by turns
SECONDS = [0.98, 1.53, 1.96, 2.55, 2.94, 3.57, 3.92, 4.59]


def results(pair: str, *runs: tuple[float, dict[str, float]]) -> dict[str, Any]:
    """Make results of one drafter: for each run its temperature and the speedup of each method."""
    made = []
    for temperature, speedups in runs:
        methods = [{"name": name, "speedup": {"value": value}} for name, value in speedups.items()]
        made.append({"pair": pair, "temperature": temperature, "methods": methods})
    return {"runs": made}


def cells(table: str) -> dict[str, list[str]]:
    """Read a Markdown table by the first cell of each row."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_overview_compares_within_each_run() -> None:
    """Ratios of different hours depend more on the machine than on the drafter."""
    greedy = {"plain": 1.0, "prompt lookup, 5": 1.5, "prompt lookup, 10": 2.0, "drafter without network": 2.5}
    sampled = [(1.0, {"plain": 1.0, "drafter": speedup}) for speedup in (1.2, 1.4)]
    first = results("de-en", (0.0, greedy | {"drafter": 3.0}), *sampled)
    second = results("fr-en", (0.0, {"plain": 1.0, "prompt lookup": 1.0, "drafter": 1.5}))
    table = cells(overview_table([first, second]))
    assert table["de-en"] == ["2.00x", "2.50x", "3.00x", "1.50x", "1.20x", "1.30x"]
    assert table["fr-en"] == ["1.00x", "-", "1.50x", "1.50x", "-", "-"]
    # A mean over some drafters would be compared with one over all.
    assert table["mean"] == ["1.50x", "-", "2.25x", "1.50x", "-", "-"]


def test_report_has_every_run_and_its_limits() -> None:
    """A report without its limits is quoted without them."""
    seconds = {"plain": [2.0] * 3, "drafter": [1.0] * 3}
    stored = make_run(seconds, temperature=1.0, seed=1, repeats=3, follow_clock=False)
    made = make_results(make_run(seconds), stored)
    text = render_markdown(made)
    assert text.startswith("# tiny-drafter-de-en\n")
    assert "greedy, float32, at most 128 new tokens, batch 1; plain outputs: 0% loop" in text
    assert "T = 1, seed 1, no top-k/top-p, float32, at most 128 new tokens, batch 1, the median of 3 times, " in text
    assert "the median of 3 times, drafts by stored costs; plain outputs: 0% loop" in text
    assert report_tables(made) in text
    assert "## Limits of these results\n\n- Measured on one machine, a processor (2 threads)" in text
    assert "- commit: 0123abc" in text
    assert "- versions: torch 2.13.0, transformers 5.23.0" in text


def test_every_caveat_is_listed() -> None:
    """Few questions, loops, one timing, changed outputs and unknown code each mislead a reader."""
    run = make_run({"plain": [2.0] * 4, "drafter": [1.0] * 4})
    run["methods"][0]["looping_share"] = 0.25
    divergences = [{"question_id": "q1", "position": 3, "margin": margin} for margin in (0.5, 0.125)]
    run["methods"][1]["losslessness"] = {"equal": 2, "prompts": 4, "divergences": divergences}
    text = "\n".join(caveats(make_results(run, commit="0123abc+")))
    for expected in (
        "float32 on a processor",
        "Only 4 questions",
        "25% of plain outputs end in a loop",
        "timed once",
        "drafter 2 of 4. At the first difference, the target's two best logits differ by 0.5 at most",
        "changed after commit 0123abc,",
    ):
        assert expected in text
    assert "Sampled" not in text
    assert "commit is not known" in "\n".join(caveats(make_results(run, commit="")))


def test_differences_are_distinguished_from_noise() -> None:
    """A method that is two percent faster, while prompts vary by ten, must not be called faster."""
    half = [second / 2 for second in PLAIN_SECONDS]
    noisy = [second * (1.1 if number % 2 else 0.9) for number, second in enumerate(half)]
    slow = [1.2 * second for second in PLAIN_SECONDS]
    run = make_run({"plain": PLAIN_SECONDS, "slow": slow, "baseline": noisy, "drafter": half})
    found = cells(markdown_table(*difference_table(run)))
    assert found["plain"] == ["-", "2.000x (2.000-2.000)", "faster"]
    assert found["slow"] == ["slower", "2.400x (2.400-2.400)", "faster"]
    assert (found["baseline"][0], found["baseline"][2]) == ("faster", "within noise")
    assert found["drafter"] == ["faster", "-", "-"]


def test_planted_slowdown_is_found_and_noise_is_not() -> None:
    """One method became slower by a tenth, and the others changed only by chance."""
    a = make_results(make_run({"plain": PLAIN_SECONDS, "lookup": SECONDS, "drafter": SECONDS}))
    noisy = [second * (1.03 if number % 2 else 0.97) for number, second in enumerate(SECONDS)]
    slower = [1.1 * second for second in SECONDS]
    b = make_results(make_run({"plain": PLAIN_SECONDS, "lookup": noisy, "drafter": slower}))
    text = compare_results(a, b)
    found = cells(text)
    assert found["drafter"][2:] == ["0.909x (0.909-0.909)", "slower"]
    assert found["lookup"][3] == "within noise"
    assert found["plain"][2:] == ["-", "-"]
    assert "8 questions in both" in text
    assert "Largest difference: 9.1%, drafter." in text
    assert "Limits" not in text
    assert cells(compare_results(b, a))["drafter"][2:] == ["1.100x (1.100-1.100)", "faster"]


def test_only_common_questions_are_compared() -> None:
    """Times of different prompts must not be compared."""
    a = make_results(make_run({"plain": PLAIN_SECONDS, "drafter": SECONDS}))
    longer = make_run({"plain": [*PLAIN_SECONDS, 1.0], "drafter": [*SECONDS, 100.0]})
    longer["questions"]["sha256"] = "1"
    text = compare_results(a, make_results(longer))
    assert cells(text)["drafter"][2] == "1.000x (1.000-1.000)"
    assert "the questions differ (8 and 9, of which 8 share their ids)" in text


def test_differing_settings_are_listed_first() -> None:
    """A newer library or another machine makes a difference that the method did not make."""
    a = make_results(make_run({"plain": PLAIN_SECONDS, "drafter": SECONDS}))
    given = {"dtype": "bfloat16", "repeats": 3, "follow_clock": False, "tokens": 12}
    run = make_run({"plain": PLAIN_SECONDS, "drafter": SECONDS}, **given)
    provenance = {"target": "tests/other@2", "device": PROVENANCE["device"] | {"runtime": "4 threads"}}
    b = make_results(run, **provenance, versions={"torch": "2.14.0", "transformers": "5.23.0"})
    text = compare_results(a, b)
    cautions = text[text.index("Limits of this comparison") : text.index("| method")]
    for expected in (
        "targets differ (tests/tiny-target@1; tests/other@2)",
        "devices differ",
        "Versions differ (torch 2.13.0 and 2.14.0)",
        "settings differ (dtype float32 and bfloat16, repeats 1 and 3, follow_clock True and False)",
        "the lengths of plain decoding's outputs differ for 8 of 8 questions",
    ):
        assert expected in cautions


def test_runs_are_matched_by_setting() -> None:
    """A sampled run compared with a greedy one would show the effect of the temperature."""
    seconds = {"plain": PLAIN_SECONDS, "drafter": SECONDS}
    greedy, slower = make_run(seconds), make_run({"plain": PLAIN_SECONDS, "drafter": PLAIN_SECONDS}, temperature=1.0)
    text = compare_results(make_results(greedy), make_results(slower, greedy))
    assert cells(text)["drafter"][3] == "within noise"
    assert "T = 1, seed 0: only in B, not compared." in text
    with pytest.raises(InputError, match=r"A has de-en, translation, greedy; B has de-en, translation, T = 1, seed 0"):
        compare_results(make_results(greedy), make_results(slower))


ENGLISH = get_language("en")
OUTPUT, REFERENCE = "the cat sat on the mat today", "the cat sat on the mat yesterday"


def record(question_id: str, **texts: str) -> dict[str, Any]:
    return {"question_id": question_id, "methods": {name: {"text": text} for name, text in texts.items()}}


def test_scores_are_those_computed_by_hand() -> None:
    """Another smoothing, order or tokenizer gives scores that cannot be compared with published ones."""
    # 6 of 7 words, 5 of 6 pairs, 4 of 5 triples and 3 of 4 quadruples are right, and the lengths are equal.
    assert score([OUTPUT], [REFERENCE], ENGLISH)["bleu"] == pytest.approx(100 * (3 / 7) ** (1 / 4))
    # Characters without spaces, abc and abd: 2 of 3, 1 of 2 and 0 of 1, as precision and as recall.
    assert score(["a b c"], ["a b d"], ENGLISH)["chrf"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)


@pytest.mark.parametrize(
    ("code", "output", "reference", "tokenizer"),
    [
        ("ja", "明日は駅のカフェで会いましょう", "明日は駅のカフェで会います", "ja-mecab"),
        ("zh", "明天上午七点在车站的咖啡馆见面", "明天上午七点在车站的咖啡馆等我", "zh"),
        ("zh-Hant", "明天上午七點在車站的咖啡館見面", "明天上午七點在車站的咖啡館等我", "zh"),
    ],
)
def test_words_without_spaces_are_separated(code: str, output: str, reference: str, tokenizer: str) -> None:
    """A Japanese or Chinese sentence counted as one word scores 0 unless it is perfect."""
    found = score([output], [reference], get_language(code))
    assert found["bleu"] > 50
    assert f"tok:{tokenizer}" in found["signatures"]["bleu"]
    assert score([output], [reference], ENGLISH)["bleu"] < 1


def test_lossy_method_scores_lower_than_plain() -> None:
    """A method that harms the outputs must be visible, and outputs without references must not count."""
    questions = [Question("1", "?", "?", reference=REFERENCE), Question("2", "?", "?")]
    records = [record("1", plain=REFERENCE, lossy=OUTPUT), record("2", plain="never", lossy="compared")]
    run = {"methods": [{"name": "plain"}, {"name": "lossy"}]}
    add_quality(run, records[1:], questions, ENGLISH)
    assert quality_table(run)[1] == []
    add_quality(run, records, questions, ENGLISH)
    plain, lossy = (method["quality"] for method in run["methods"])
    assert (plain["answers"], plain["bleu"], plain["chrf"]) == (1, pytest.approx(100), pytest.approx(100))
    assert lossy["bleu"] == pytest.approx(100 * (3 / 7) ** (1 / 4))
    _, (first, second) = quality_table(run)
    assert first[:4] == ["plain", "1", "100.0", "100.0"]
    assert float(second[3]) < 100
    assert "tok:13a" in first[4]


def scored(chrf: float | None, looping: float = 0.0, **other: object) -> dict[str, Any]:
    run = make_run({"plain": [2.0] * 8, "drafter": [1.0] * 8}, **other)
    plain = find_method(run, "plain")
    plain["looping_share"] = looping
    if chrf is not None:
        plain["quality"] = {"answers": 8, "chrf": chrf, "bleu": 0.34, "signatures": {}}
    return make_results(run)


def test_target_that_does_not_do_its_task_is_named_first() -> None:
    """A speedup on useless output must not be quoted as if the target did its task."""
    assert quality_warning([scored(15.6), scored(45.0)]) == (
        "**The target does not do its task in 1 of 2 runs** (de-en translation, greedy: the plain translations score "
        "chrF 15.6, below 30). Speedups on such output do not carry over to a target that does its task."
    )
    assert "in 1 of 1 runs** (de-en story, greedy: 50% of the plain outputs loop)" in quality_warning(
        [scored(None, looping=0.5, task="story")]
    )
    # A warning on every card is not read; sampled translations are no measure of a translator.
    for given in (scored(45.0), scored(None), scored(15.6, temperature=1.0)):
        assert quality_warning([given]) == ""


TIMES = {"plain": [2.0, 3.0, 5.0], "prompt lookup, 10": [1.5, 2.0, 6.0], "drafter": [1.0, 1.5, 2.0]}
VOID = {"meta", "br", "link", "img", "input", "hr", "base", "embed", "source"}


class Page(HTMLParser):
    """Parse a page: check that tags are closed in order, and collect its links and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        names = {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}
        self.loads += [value for name, value in attrs if name in names and not (value or "").startswith("#")]

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def check_self_contained(page: str) -> None:
    """Check that a page loads nothing, needs no script, and fits a phone with a dark theme."""
    read = Page(page)
    assert read.loads == []
    assert not {"script", "link", "img", "iframe"} & set(read.tags)
    assert "@import" not in page
    assert page.count("url(") == page.count("url(#")
    assert "default-src 'none'" in page
    assert "width=device-width" in page
    assert "prefers-color-scheme: dark" in page


def test_hostile_names_stay_text() -> None:
    """Results may come from somebody else: a name must not become a script, a formula or another row."""
    hostile = "<script>alert(1)</script>&\"' $x^2$ | </svg>"
    results = make_results(make_run(TIMES | {hostile: [1.0, 1.0, 1.0]}), drafter="<img src=x onerror=alert(1)>")
    read = Page(render_page(results))
    assert not {"script", "img"} & set(read.tags)
    assert read.text.count(hostile) >= 3  # in tables and plots
    assert "<img src=x onerror=alert(1)>" in read.text


def test_report_is_written_as_files(tmp_path: Path) -> None:
    """Page, Markdown and plots are next to the results; a name must not lead out of the folder, and a page that loads
    its style from a server lets the server track its readers."""
    results = make_results(make_run(TIMES, pair="../../x"), make_run(TIMES, temperature=1.0, seed=2))
    folder = tmp_path / "a" / "b"
    write_report(results, folder)
    check_self_contained((folder / "report.html").read_text(encoding="utf-8"))
    assert "| drafter" in (folder / "report.md").read_text(encoding="utf-8")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")) == [
        f"a/b/plots/{run}-{plot}.png"
        for run in (".._.._x-translation-greedy", "de-en-translation-T1-seed2")
        for plot in ("acceptance", "speedup", "time")
    ]
