"""Tables and caveats, of one drafter and of several."""

from typing import Any

from benchmarks.pages import overview_table
from drafter_trainer.benchmark.report import caveats, difference_table, markdown_table, render_markdown, report_tables
from tests.benchmark.made import make_results, make_run


def results(pair: str, *runs: tuple[float, dict[str, float]]) -> dict[str, Any]:
    """Make results of one drafter: for each run its temperature and the speedup of each method."""

    def methods(speedups: dict[str, float]) -> list[dict[str, Any]]:
        return [{"name": name, "speedup": {"value": value}} for name, value in speedups.items()]

    return {
        "runs": [{"pair": pair, "temperature": temperature, "methods": methods(of)} for temperature, of in runs],
    }


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
    plain = [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    half = [second / 2 for second in plain]
    noisy = [second * (1.1 if number % 2 else 0.9) for number, second in enumerate(half)]
    run = make_run({"plain": plain, "slow": [1.2 * second for second in plain], "baseline": noisy, "drafter": half})
    found = cells(markdown_table(*difference_table(run)))
    assert found["plain"] == ["-", "2.000x (2.000-2.000)", "faster"]
    assert found["slow"] == ["slower", "2.400x (2.400-2.400)", "faster"]
    assert (found["baseline"][0], found["baseline"][2]) == ("faster", "within noise")
    assert found["drafter"] == ["faster", "-", "-"]
