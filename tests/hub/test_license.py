"""The license that a drafter takes over from its target."""

from pathlib import Path

import pytest

from drafter_trainer.errors import InputError
from drafter_trainer.hub.license import target_license
from drafter_trainer.targets import Target


def target_with(folder: Path, card: str | None) -> Target:
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")
    return Target("tests/tiny-target", "1", str(folder))


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        pytest.param("---\nlicense: llama2\n---\n# A model", "llama2", id="named"),
        pytest.param("---\ntags: [x]\n---\n", None, id="not named"),
        pytest.param("---\nlicense: [mit, apache-2.0]\n---\n", None, id="several"),
        pytest.param("# A model", None, id="no metadata"),
        pytest.param(None, None, id="no card"),
    ],
)
def test_license_of_a_folder(tmp_path: Path, card: str | None, expected: str | None) -> None:
    """A license that is guessed where the target names none would permit what nobody permitted."""
    assert target_license(target_with(tmp_path, card)) == expected


def test_unreadable_card_is_named(tmp_path: Path) -> None:
    """A parser's traceback does not say what to do."""
    for card in ("---\nlicense: [\n---\n", "---\n- license\n---\n"):
        with pytest.raises(InputError, match=r"the license of tests/tiny-target cannot be read from .*name it"):
            target_license(target_with(tmp_path, card))
