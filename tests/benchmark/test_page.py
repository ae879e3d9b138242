"""The page and its plots: whole, alone, and safe whatever stands in the results."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from drafter_trainer.benchmark.page import render_page, write_report
from drafter_trainer.benchmark.plots import plot_acceptance, plot_speedups, plot_time, plot_tokens, to_svg
from drafter_trainer.benchmark.summary import add_finetuning
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.results import check_results, find_method
from tests.benchmark.made import make_results, make_run

SECONDS = {"plain": [2.0, 3.0, 5.0], "prompt lookup, 10": [1.5, 2.0, 6.0], "drafter": [1.0, 1.5, 2.0]}
VOID = {"meta", "br", "link", "img", "input", "hr", "base", "embed", "source"}


class Page(HTMLParser):
    """Read a page: every tag closed in its order, what it would load, and its text."""

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
        self._look(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._look(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def _look(self, attrs: list[tuple[str, str | None]]) -> None:
        names = {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}
        self.loads += [value for name, value in attrs if name in names and not (value or "").startswith("#")]


def test_page_is_whole_and_loads_nothing() -> None:
    """A page that asks a server for its style looks broken offline, and tells the server who reads it."""
    page = render_page(make_results(make_run(SECONDS), make_run(SECONDS, temperature=1.0)))
    read = Page(page)
    assert read.loads == []
    assert not {"script", "link", "img", "iframe"} & set(read.tags)
    assert "@import" not in page
    assert page.count("url(") == page.count("url(#")
    assert "default-src 'none'" in page
    assert "width=device-width" in page
    assert "prefers-color-scheme: dark" in page


def test_page_has_everything_that_was_measured() -> None:
    """Whoever has the page alone must find each method, on what it was measured, and what it does not show."""
    results = make_results(make_run(SECONDS), make_run(SECONDS, temperature=1.0))
    read = Page(render_page(results))
    assert read.tags.count("table") == 2 * 3
    assert read.tags.count("svg") == 2 * 3
    for expected in (
        *SECONDS,
        "1.05x (0.83-1.50)",  # a resample may have one prompt three times
        "a processor (2 threads)",
        "float32",
        "torch 2.13.0",
        "bench.py --config c.yaml",
        "0123abc",
        "What may not be concluded",
        "Only 3 questions",
    ):
        assert expected in read.text, expected


def test_hostile_names_stay_text() -> None:
    """Results may come from somebody else: a name must not become a script, a formula or another row."""
    hostile = "<script>alert(1)</script>&\"' $x^2$ | </svg>"
    results = make_results(make_run(SECONDS | {hostile: [1.0, 1.0, 1.0]}), drafter="<img src=x onerror=alert(1)>")
    read = Page(render_page(results))
    assert not {"script", "img"} & set(read.tags)
    assert read.text.count(hostile) >= 3  # in tables and plots
    assert "<img src=x onerror=alert(1)>" in read.text


def test_plots_take_the_colour_of_the_page() -> None:
    """Black letters on a dark page cannot be read."""
    svg = to_svg(plot_speedups(make_run(SECONDS)))
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "<metadata>" not in svg
    assert all(name in svg for name in SECONDS)
    assert svg == to_svg(plot_speedups(make_run(SECONDS)))  # a page rendered anew shows no changes of its own


def test_plot_without_its_figures_is_left_out() -> None:
    """Results from before time was split have no such plot, and plain decoding has no drafts."""
    alone = make_run({"plain": [2.0, 3.0, 5.0]})
    assert plot_acceptance(alone) is None
    assert plot_time(alone) is not None
    del alone["methods"][0]["time_split"]
    assert plot_time(alone) is None
    assert Page(render_page(make_results(alone))).tags.count("svg") == 1


def test_plots_show_the_figures() -> None:
    """A bar of another method's length would be believed."""
    run = make_run(SECONDS)
    axes = plot_time(run).axes[0]
    widths = [[round(bar.get_width(), 3) for bar in bars] for bars in axes.containers]
    # ms a token: draft, verification, overhead; of plain decoding, prompt lookup and drafter
    assert widths == [[0, 10, 10], [333.333, 286.667, 120], [0, 20, 20]]
    line = plot_acceptance(run).axes[0].lines[-1]
    assert line.get_label() == "drafter"
    # One round of eight passes accepts two tokens of three.
    assert line.get_xdata().tolist() == [1, 2, 3]
    assert line.get_ydata() == pytest.approx([1 / 8, 1 / 8, 0])


def test_no_two_methods_are_drawn_alike() -> None:
    """A legend with one colour twice tells the drafter from nothing."""
    run = make_run({"plain": [2.0], **{f"method {number}": [1.0] for number in range(14)}})
    lines = plot_acceptance(run).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(lines) == 14


def test_token_curve_has_a_logarithmic_axis_and_each_drafter() -> None:
    """Prevent drafters of unlike training from standing side by side without what they learned from."""
    run = make_run(SECONDS | {"earlier": [2.0, 3.0, 5.0]})
    assert plot_tokens(run) is None
    said = {name: make_description(tokens) for name, tokens in (("drafter", 1000), ("earlier", 1000))}
    add_finetuning(run, said)
    assert plot_tokens(run) is None  # one amount is no curve
    add_finetuning(run, said | {"earlier": make_description(10), "prompt lookup": make_description(None)})
    axes = plot_tokens(run).axes[0]
    assert axes.get_xscale() == "log"
    tokens = {"drafter": 1000, "earlier": 10}
    speedups = {name: find_method(run, name)["speedup"]["value"] for name in tokens}
    points = {text.get_text(): text.xy for text in axes.texts}
    assert points == {name: (tokens[name], speedups[name]) for name in tokens}
    check_results(make_results(run), "made")
    page = Page(render_page(make_results(run))).text
    assert "tokens of finetuning" in page
    assert "1k" in page
    assert "mathdefault" not in page


def make_description(tokens: int | None) -> DrafterDescription:
    """Describe a drafter that was finetuned on so many tokens, or does not say so."""
    training = {} if tokens is None else {"finetune": {"finetuning_tokens": tokens}}
    return DrafterDescription("tiny-drafter-de-en", "tests/tiny-target", "1", "0", "de-en", 3, training=training)


def test_report_is_written_as_files(tmp_path: Path) -> None:
    """Page, Markdown and plots stand beside the results, and a name from the file does not lead out of the folder."""
    results = make_results(make_run(SECONDS, pair="../../x"), make_run(SECONDS, temperature=1.0, seed=2))
    folder = tmp_path / "a" / "b"
    write_report(results, folder)
    assert Page((folder / "report.html").read_text(encoding="utf-8")).text
    assert "| drafter" in (folder / "report.md").read_text(encoding="utf-8")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")) == [
        "a/b/plots/.._.._x-translation-greedy-acceptance.png",
        "a/b/plots/.._.._x-translation-greedy-speedup.png",
        "a/b/plots/.._.._x-translation-greedy-time.png",
        "a/b/plots/de-en-translation-T1-seed2-acceptance.png",
        "a/b/plots/de-en-translation-T1-seed2-speedup.png",
        "a/b/plots/de-en-translation-T1-seed2-time.png",
    ]
