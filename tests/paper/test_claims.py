"""The paper's findings: each counted where it was measured, in the languages in which it holds."""

import json
from pathlib import Path

from benchmarks.paper.claims import claims_tables, main
from benchmarks.paper.languages import Measured
from drafter_trainer.benchmark.strategies import FILE_NAME
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.results import find_method, write_results
from tests.benchmark.made import make_results
from tests.paper.test_languages import COLLECTED, SECONDS, TOOK, measured, rows, run


def claims(*several: Measured) -> dict[tuple[str, str], list[str]]:
    """Render the tables; return what stands beside each finding and task."""
    text = claims_tables(several)
    return {(row[0], row[1]): row[2:] for part in text.split("\n\n")[1::2] for row in rows(part)[2:]}


def test_a_finding_is_counted_where_it_was_measured() -> None:
    """A language without stories must not decide what stories show, nor count among those asked."""
    whole = measured("en-oc", run("hybrid", "translation"), run("hybrid", "story"))
    half = measured("en-ig", run("hybrid", "translation"))
    found = claims(whole, half)
    assert found["it is the fastest of the three all the same", "translation"] == ["2 of 2: not decidable here", "-"]
    assert found["it is the fastest of the three all the same", "story"] == ["1 of 1: not decidable here", "-"]
    assert found["a network of text alone is faster than plain decoding", "translation"] == [
        "0 of 2: not decidable here", "Occitan, Igbo",
    ]  # fmt: skip
    assert found["what was distilled accepts less on the task that was held out", "translation to story"][0][:6] == (
        "0 of 1"
    )


def test_a_finding_is_decided_by_four_languages_that_mostly_agree(monkeypatch) -> None:
    """One language is an anecdote: it confirms nothing, and two against two decide nothing."""

    def verdict(*pairs: str) -> str:
        several = (*(measured(pair, run("hybrid", "translation")) for pair in pairs), *slower)
        return claims(*several)["it is the fastest of the three all the same", "translation"][0]

    slower: tuple[Measured, ...] = ()
    assert verdict("en-oc", "en-ig", "en-yo") == "3 of 3: not decidable here"
    assert verdict("en-oc", "en-ig", "en-yo", "en-de") == "4 of 4: confirmed"
    with monkeypatch.context() as patch:
        patch.setitem(SECONDS, "n-gram table", [90.0, 90.0])
        slower = tuple(measured(pair, run("hybrid", "translation")) for pair in ("en-qu", "en-ne"))
    assert verdict("en-oc", "en-ig") == "2 of 4: not decidable here"
    assert verdict("en-oc") == "1 of 3: not decidable here"
    assert verdict("en-oc", "en-ig", "en-yo", "en-de", "en-fr", "en-ru") == "6 of 8: confirmed"
    slower += tuple(measured(pair, *slower[0].runs) for pair in ("en-fr", "en-ru"))
    assert verdict() == "0 of 4: contradicted"


def write_card(folder: Path, pair: str, looping: float = 0.0) -> None:
    """Leave what `make drafter` leaves of a language."""
    described = DrafterDescription(f"tiny-drafter-{pair}", "org/target", "1", "0" * 64, pair, 5)
    made = run("hybrid", "translation") | {"pair": pair}
    find_method(made, "plain")["looping_share"] = looping
    provenance = {"drafter": described.name, "drafter_fingerprint": described.fingerprint()}
    write_results(make_results(made, **provenance), folder / "results.json")
    (folder / "drafter.json").write_text(described.to_json(), encoding="utf-8")
    told = {"published": "hybrid", "strategies": TOOK, "collected": COLLECTED}
    (folder / FILE_NAME).write_text(json.dumps(told), encoding="utf-8")


def test_findings_leave_out_languages_that_the_target_does_not_write(tmp_path: Path) -> None:
    """Loops are drafted for free: a finding of such output was quoted as if it held for the language."""
    write_card(tmp_path / "oc", "en-oc")
    write_card(tmp_path / "ig", "en-ig", looping=0.5)
    main([str(tmp_path / "oc"), str(tmp_path / "ig"), "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "languages.md").read_text(encoding="utf-8")
    assert "The target does not do its task in Igbo: the findings leave these languages out." in text
    assert "1 of 1: not decidable here" in text
    assert "| Igbo " in text.partition("### Speedup: translation")[2]
    assert (tmp_path / "out" / "languages-target.png").is_file()
