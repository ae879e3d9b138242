"""Models out of wheels: the GGUF file of an installed package, whole or in pieces."""

from pathlib import Path

import pytest

from drafter_trainer.errors import InputError
from drafter_trainer.wheels import gguf_of_wheel


def install(site: Path, name: str, files: dict[str, bytes], version: str = "1.0", requires: tuple = ()) -> None:
    """Install a wheel in a folder that the interpreter looks through."""
    about = site / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    needed = "".join(f"Requires-Dist: {each}\n" for each in requires)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}")
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)
    (about / "RECORD").write_text("".join(f"{path},,\n" for path in files), encoding="utf-8")


def test_file_in_pieces_is_put_together_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp is given one file: pieces in another order, or put together again each time, are of no use to it."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    install(tmp_path / "site", "model", {}, requires=("model-part1==1.0", "model-part2==1.0", "gguf>=0.1"))
    install(tmp_path / "site", "model-part2", {"model_part2/w.gguf.part2": b"second"})
    install(tmp_path / "site", "model-part1", {"model_part1/w.gguf.part1": b"first, "})
    install(tmp_path / "site", "whole", {"whole/w.gguf": b"all"})
    path = gguf_of_wheel("model", tmp_path / "run")
    assert path.read_bytes() == b"first, second"
    changed = path.stat().st_mtime_ns
    assert gguf_of_wheel("model", tmp_path / "run") == path
    assert path.stat().st_mtime_ns == changed
    assert [*(tmp_path / "run").iterdir()] == [path]
    assert gguf_of_wheel("whole", tmp_path / "run") == tmp_path / "site" / "whole" / "w.gguf"
    with pytest.raises(InputError, match="wheel absent is not installed"):
        gguf_of_wheel("absent", tmp_path / "run")
