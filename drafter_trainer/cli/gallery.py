"""Render all measured drafters as one page, to compare and to choose from.

    drafter-trainer gallery --cards hub_cards --out gallery.html

The numbers come from hub_cards/*/results.json and from sampling/results.json beside them; nothing is measured.
"""

from pathlib import Path

from drafter_trainer.cli.configuration import simple_parser
from drafter_trainer.hub.gallery import read_gallery, render_gallery


def main(argv: list[str]) -> None:
    """Run the step."""
    parser = simple_parser("gallery", __doc__)
    parser.add_argument("--cards", type=Path, default=Path("hub_cards"), help="Folder of the drafters' results")
    parser.add_argument("--out", type=Path, default=Path("gallery.html"), help="HTML file of the page")
    options = parser.parse_args(argv)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(render_gallery(read_gallery(options.cards)), encoding="utf-8")
    print(options.out)
