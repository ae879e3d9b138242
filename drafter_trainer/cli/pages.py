"""The steps without measurements: comparison of results, reports, cards and the gallery."""

import argparse
import inspect
from collections.abc import Callable
from pathlib import Path

from drafter_trainer.benchmark.comparison import compare_results
from drafter_trainer.benchmark.page import write_report
from drafter_trainer.errors import InputError
from drafter_trainer.hub.card_folder import render_folder
from drafter_trainer.hub.gallery import read_gallery, render_gallery
from drafter_trainer.results import read_results


def _parser(step: Callable[[list[str]], None]) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"drafter-trainer {step.__name__}",
        description=inspect.getdoc(step),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def compare(argv: list[str]) -> None:
    """Compare two results files: methods that became faster or slower, and differences within noise.

        drafter-trainer compare runs/one/results.json runs/other/results.json

    For each method in both files, prints the speedup in A and in B over the common questions, the ratio of the two
    speedups with a paired bootstrap interval, and a verdict. Differences in device, versions, questions or settings
    are printed first.
    """
    parser = _parser(compare)
    parser.add_argument("a", type=Path, metavar="A", help="The first results.json")
    parser.add_argument("b", type=Path, metavar="B", help="The results.json that is compared with A")
    paths = parser.parse_args(argv)
    print(compare_results(read_results(paths.a), read_results(paths.b)))


def report(argv: list[str]) -> None:
    """Render the report of a results file again: report.md, report.html and plots/.

        drafter-trainer report runs/gemma-3-270m-drafter-de-en/results.json

    Nothing is measured. The step bench writes the same files.
    """
    parser = _parser(report)
    parser.add_argument("results", type=Path, help="The results.json that is rendered")
    parser.add_argument("--output_dir", type=Path, help="Folder of the report (default: the folder of the results)")
    options = parser.parse_args(argv)
    folder = options.output_dir or options.results.parent
    write_report(read_results(options.results), folder)
    print(f"{folder / 'report.html'}, {folder / 'report.md'} and {folder / 'plots'}")


def gallery(argv: list[str]) -> None:
    """Render all measured drafters as one page, on which they can be compared.

        drafter-trainer gallery --cards hub_cards --out gallery.html

    The numbers come from hub_cards/*/results.json and hub_cards/*/sampling/results.json. Nothing is measured.
    """
    parser = _parser(gallery)
    parser.add_argument("--cards", type=Path, default=Path("hub_cards"), help="Folder of the drafters' results")
    parser.add_argument("--out", type=Path, default=Path("gallery.html"), help="HTML file of the page")
    options = parser.parse_args(argv)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(render_gallery(read_gallery(options.cards)), encoding="utf-8")
    print(options.out)


def cards(argv: list[str]) -> None:
    """Render the cards of a folder again: README.md and acceptance.png of each drafter.

        drafter-trainer cards --cards hub_cards

    Nothing is measured or published. The numbers come from the files that
    `drafter_trainer.publish(..., card_folder="hub_cards")` writes to the folder.
    """
    parser = _parser(cards)
    parser.add_argument("--cards", type=Path, default=Path("hub_cards"), help="Folder of the cards")
    options = parser.parse_args(argv)
    folders = sorted(path for path in options.cards.iterdir() if path.is_dir()) if options.cards.is_dir() else []
    if not folders:
        raise InputError(f'{options.cards} has no cards: call publish(..., card_folder="{options.cards}")')
    for folder in folders:
        render_folder(folder)
        print(folder / "README.md")
