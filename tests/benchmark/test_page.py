"""The page and its plots: complete, self-contained, and safe with any names."""

from html.parser import HTMLParser
from pathlib import Path

from drafter_trainer.benchmark.page import render_page, write_report
from tests.benchmark.made import make_results, make_run

SECONDS = {"plain": [2.0, 3.0, 5.0], "prompt lookup, 10": [1.5, 2.0, 6.0], "drafter": [1.0, 1.5, 2.0]}
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


def test_page_is_complete_and_loads_nothing() -> None:
    """A page that loads its style from a server looks broken offline, and lets the server track its readers."""
    check_self_contained(render_page(make_results(make_run(SECONDS), make_run(SECONDS, temperature=1.0))))


def test_hostile_names_stay_text() -> None:
    """Results may come from somebody else: a name must not become a script, a formula or another row."""
    hostile = "<script>alert(1)</script>&\"' $x^2$ | </svg>"
    results = make_results(make_run(SECONDS | {hostile: [1.0, 1.0, 1.0]}), drafter="<img src=x onerror=alert(1)>")
    read = Page(render_page(results))
    assert not {"script", "img"} & set(read.tags)
    assert read.text.count(hostile) >= 3  # in tables and plots
    assert "<img src=x onerror=alert(1)>" in read.text


def test_report_is_written_as_files(tmp_path: Path) -> None:
    """Page, Markdown and plots are next to the results; a name in the file must not lead out of the folder."""
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
