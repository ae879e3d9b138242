"""The paper's findings: each counted where it was measured, in the languages in which it holds."""

from drafter_trainer.benchmark.claims import claims_tables
from drafter_trainer.benchmark.languages import Measured
from tests.benchmark.test_languages import SECONDS, run
from tests.benchmark.test_matrix import rows


def claims(*measured: Measured) -> dict[tuple[str, str], list[str]]:
    """Render the tables; return what stands beside each finding and task."""
    text = claims_tables(measured)
    return {(row[0], row[1]): row[2:] for part in text.split("\n\n")[1::2] for row in rows(part)[2:]}


def test_a_finding_is_counted_where_it_was_measured() -> None:
    """A language without stories must not decide what stories show, nor count among those asked."""
    whole = Measured("en-oc", {}, (run("hybrid", "translation"), run("hybrid", "story")), {})
    half = Measured("en-ig", {}, (run("hybrid", "translation"),), {})
    found = claims(whole, half)
    assert found["it is the fastest of the three all the same", "translation"] == ["2 of 2: confirmed", "-"]
    assert found["it is the fastest of the three all the same", "story"] == ["1 of 1: confirmed", "-"]
    assert found["a network of text alone is faster than plain decoding", "translation"] == [
        "0 of 2: contradicted", "Occitan, Igbo",
    ]  # fmt: skip
    assert found["what was distilled accepts less on the task that was held out", "translation to story"][0][:6] == (
        "0 of 1"
    )


def test_a_published_drafter_that_misses_an_aim_is_named(monkeypatch) -> None:
    """A count without the language hides whom the drafter slows down."""
    good = Measured("en-oc", {}, (run("hybrid", "translation"),), {})
    monkeypatch.setitem(SECONDS, "hybrid", [4.2, 4.2])
    bad = Measured("en-ig", {}, (run("hybrid", "translation"),), {})
    found = claims(good, bad)
    aim = "it is at most 3 % slower than the best single strategy"
    assert found[aim, "translation"] == ["1 of 2", "Igbo"]
    assert found["it is faster than prompt lookup", "translation"] == ["2 of 2", "-"]
    assert found[aim, "story"] == ["-", "-"]
