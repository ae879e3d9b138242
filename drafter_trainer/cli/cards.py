"""Render the cards of a folder again: README.md and acceptance.png of each drafter, from the files beside them.

    drafter-trainer cards --cards hub_cards

Nothing is measured or published; `drafter_trainer.publish(..., card_folder="hub_cards")` leaves the files that this
reads.
"""

from pathlib import Path

from drafter_trainer.cli.configuration import simple_parser
from drafter_trainer.errors import InputError
from drafter_trainer.hub.card_folder import render_folder


def main(argv: list[str]) -> None:
    """Run the step."""
    parser = simple_parser("cards", __doc__)
    parser.add_argument("--cards", type=Path, default=Path("hub_cards"), help="Folder of the cards")
    options = parser.parse_args(argv)
    folders = sorted(path for path in options.cards.iterdir() if path.is_dir()) if options.cards.is_dir() else []
    if not folders:
        raise InputError(f'{options.cards} holds no cards: call publish(..., card_folder="{options.cards}")')
    for folder in folders:
        render_folder(folder)
        print(folder / "README.md")
