"""Write the tables of committed results into README and docs, each between its two marks.

    make readme

The numbers come from hub_cards/*/results.json, which publish.py left there, and from sampling/results.json beside
them where T = 1 was measured in a run of its own.
README shows the drafters whose target does its task. Every other page begins with what its target's own translations
are worth.
In docs, training.md has the forecast that predict.py made for it.
results.md has the published numbers of paper_table1.json beside ours; rivals' come from
benchmarks/results/methods/PAIR.json, which measures every method in one run and is shown whole; beside it are shown
PAIR-bfloat16.json, the same in half precision, and PAIR-1.json and PAIR-2.json held against each other. The matrix on
that page comes from benchmarks/results/matrix/DRAFTER/*.json, a file for each of its cells. languages.md compares the
strategies of the drafters that recipes/drafter.py made, a section for each target, results_schema.md has the schema
that results.json follows.
"""

import json
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from drafter_trainer.benchmark.claims import claims_tables
from drafter_trainer.benchmark.comparison import compare_results
from drafter_trainer.benchmark.documentation import forecast_text, paper_tables, schema_tables
from drafter_trainer.benchmark.languages import Measured, has_strategies, language_tables, plot_languages
from drafter_trainer.benchmark.matrix import Cell, matrix_tables, plot_matrix
from drafter_trainer.benchmark.report import overview_table, speedup_tables
from drafter_trainer.benchmark.strategies import FILE_NAME
from drafter_trainer.benchmark.target_quality import is_showcase, quality_warning, read_qualities
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.hub.card_folder import read_measurements
from drafter_trainer.results import DRAFTER, PLAIN, PROMPT_LOOKUP, SCHEMA, read_results

CARDS = Path("hub_cards")
README = Path("README.md")
DOCS = Path("docs")
METHODS = Path("benchmarks") / "results" / "methods"
MATRIX = METHODS.with_name("matrix")


def main() -> None:
    cards = [path.parent for path in sorted(CARDS.glob("*/results.json"))]
    measured = {card: read_runs(card) for card in cards}
    languages = [measured_language(card, results) for card, results in measured.items() if has_strategies(results)]
    drafters = {card: results for card, results in measured.items() if not has_strategies(results)}
    shown = {card: results for card, results in drafters.items() if is_showcase(results)}
    tables = [f"{speedup_tables(each)}\n\nCommand: `{each['provenance']['command']}`" for each in shown.values()]
    put(README, "drafters", "\n\n".join(([overview_table([*shown.values()])] if len(shown) > 1 else []) + tables))
    several, known = [*drafters.values()], read_qualities(CARDS)
    paper = json.loads((DOCS / "paper_table1.json").read_text(encoding="utf-8"))
    first = next(card for card in drafters if (card / "predict.json").is_file())
    forecast = json.loads((first / "predict.json").read_text(encoding="utf-8"))
    put(DOCS / "training.md", "forecast", forecast_text(forecast, drafters[first]))
    methods = {path.stem: read_results(path) for path in sorted(METHODS.glob("??-??.json"))}
    rivals = {row["counterpart"] for row in paper["rows"]} - {DRAFTER, PROMPT_LOOKUP}
    others = [only_methods(results, rivals) for results in methods.values()]
    put(DOCS / "results.md", "target", quality_warning([*several, *methods.values()], known))
    put(DOCS / "results.md", "paper", paper_tables(paper, [*several, *others]))
    if methods:
        put(DOCS / "results.md", "methods", methods_tables(methods))
    cells = [read_cell(path) for path in sorted(MATRIX.glob("*/*.json"))]
    if cells:
        put(DOCS / "results.md", "matrix", matrix_section(cells))
    put(DOCS / "results_schema.md", "schema", schema_tables(SCHEMA))
    put(DOCS / "languages.md", "target", quality_warning(filter(has_strategies, measured.values()), known))
    if languages:
        put(DOCS / "languages.md", "languages", "\n\n".join(target_section(*each) for each in by_target(languages)))


def read_runs(card: Path) -> dict[str, Any]:
    """Read all that was measured of a drafter into one results file."""
    measured = [*read_measurements(card, DrafterDescription.read(card)).values()]
    if not measured:
        sys.exit(f"error: {card} has no results of its drafter as it is now: measure it again")
    return measured[0] | {"runs": [run for results in measured for run in results["runs"]]}


def only_methods(results: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Leave out all methods but plain decoding and these: others were measured of another drafter too."""
    runs = [
        run | {"methods": [method for method in run["methods"] if method["name"] in (PLAIN, *names)]}
        for run in results["runs"]
    ]
    return results | {"runs": runs}


def methods_tables(methods: dict[str, dict[str, Any]]) -> str:
    """Render each pair's table of every method, that of half precision, and what measuring it twice gave."""
    parts = []
    for pair, results in methods.items():
        half = METHODS / f"{pair}-bfloat16.json"
        tables = {pair: results} | ({f"{pair}, bfloat16": read_results(half)} if half.is_file() else {})
        for title, each in tables.items():
            parts.append(f"### {title}\n\n{speedup_tables(each)}\n\nCommand: `{each['provenance']['command']}`")
        twice = [METHODS / f"{pair}-{number}.json" for number in (1, 2)]
        if all(path.is_file() for path in twice):
            parts.append(f"### {pair}, measured twice\n\n{compare_results(*map(read_results, twice))}")
    return "\n\n".join(parts)


def read_cell(path: Path) -> Cell:
    results = read_results(path)
    (run,) = results["runs"]
    return Cell(results["provenance"]["drafter"], run["task"], run["pair"], results)


def matrix_section(cells: Sequence[Cell]) -> str:
    """Render the table of drafters × tasks × pairs, and draw its heat map."""
    plot_matrix(cells, DOCS / "matrix.png")
    heat_map = "![Speedup and acceptance rate of every drafter on every task, two heat maps](matrix.png)"
    return f"{heat_map}\n\n{matrix_tables(cells)}"


def measured_language(card: Path, results: dict[str, Any]) -> Measured:
    description, said = DrafterDescription.read(card), json.loads((card / FILE_NAME).read_text(encoding="utf-8"))
    runs = tuple(results["runs"])
    return Measured(description.pair, description.target, runs, said["strategies"], said["collected"])


def by_target(languages: Sequence[Measured]) -> list[tuple[str, list[Measured]]]:
    """Part languages by the target that answers in them, the target of the most first."""
    targets = Counter(each.target for each in languages)
    return [(name, [each for each in languages if each.target == name]) for name, _ in targets.most_common()]


def target_section(target: str, languages: Sequence[Measured]) -> str:
    """Render what was measured of a target, and draw its heat map."""
    name = target.rsplit("/", 1)[-1]
    picture = f"languages-{name.lower()}.png"
    plot_languages(languages, DOCS / picture)
    heat_map = f"![Speedup of every strategy in every language, a heat map for each task]({picture})"
    dtypes = sorted({run["dtype"] for each in languages for run in each.runs})
    parts = (f"## {name}, {' and '.join(dtypes)}", heat_map, claims_tables(languages), language_tables(languages))
    return "\n\n".join(parts)


def put(path: Path, name: str, tables: str) -> None:
    begin, end = f"<!-- {name}: make readme -->", f"<!-- end of {name} -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        sys.exit(f"error: {path} lacks the marks {begin} and {end}: put them back")
    path.write_text(f"{before}{begin}\n{tables}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
