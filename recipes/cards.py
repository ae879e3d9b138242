"""Render the cards under hub_cards anew: README.md and acceptance.png of each drafter, from the files beside them.

    make cards

Nothing is measured or published; `publish.py --card_folder hub_cards` leaves what this reads.
"""

import argparse
from pathlib import Path

from drafter_trainer.cli.launch import run_recipe
from drafter_trainer.errors import InputError
from drafter_trainer.hub.card_folder import render_folder


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="recipes/cards.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--cards", type=Path, default=Path("hub_cards"), help="Folder of the cards")
    options = parser.parse_args(argv)
    folders = sorted(path for path in options.cards.iterdir() if path.is_dir()) if options.cards.is_dir() else []
    if not folders:
        raise InputError(f"{options.cards} holds no cards: publish a drafter with --card_folder {options.cards}")
    for folder in folders:
        render_folder(folder)
        print(folder / "README.md")


if __name__ == "__main__":
    run_recipe(main)
