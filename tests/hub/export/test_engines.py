"""The files for other engines."""

import itertools
import json
import shlex
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from drafter_trainer.drafters.load import load_drafter
from drafter_trainer.errors import IncompatibleTokenizerError, InputError
from drafter_trainer.hub.export.engines import check_path, check_sizes, export_drafter
from drafter_trainer.hub.export.gguf_file import write_gguf
from drafter_trainer.serving.vllm import DrafterProposer, open_for_engine
from drafter_trainer.targets import Target
from tests.conftest import change_json
from tests.drafters.loop.conftest import describe
from tests.drafters.test_load import swap_two_tokens
from tests.hub.conftest import publish_compact
from tests.recipes.test_whole_way import recipe_main


def options_of(line: str) -> dict[str, str]:
    """The options of a command by name."""
    words = shlex.split(line)
    return {word: following for word, following in itertools.pairwise(words) if word.startswith("--")}


def test_every_engine_gets_its_files(drafter: Path, target: Target, tmp_path: Path) -> None:
    """An engine rejects or ignores a key or an option of another name."""
    folder = tmp_path / "export"
    write_gguf(Path(target.path), "float32", tmp_path / "target.gguf")
    checked = export_drafter(
        str(drafter),
        target,
        output_dir=folder,
        target_gguf=tmp_path / "target.gguf",
        gguf_dtype="float32",
        draft_length=4,
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "drafter.gguf", "drafter.json", "llamacpp.txt", "sglang.txt", "vllm.json", "vllm_whole.txt"
    ]  # fmt: skip
    config = json.loads((folder / "vllm.json").read_text(encoding="utf-8"))
    assert config == {"method": "draft_model", "model": str(drafter), "num_speculative_tokens": 4}
    whole = options_of((folder / "vllm_whole.txt").read_text(encoding="utf-8"))
    assert whole["--model"] == "tests/tiny-target"
    assert json.loads(whole["--additional-config"]) == {"drafter": str(drafter)}
    assert json.loads(whole["--speculative-config"]) == {
        "method": "custom_class",
        "model": f"{DrafterProposer.__module__}.{DrafterProposer.__name__}",
        "num_speculative_tokens": 4,
    }
    assert options_of((folder / "sglang.txt").read_text(encoding="utf-8")) == {
        "--model-path": "tests/tiny-target",
        "--speculative-algorithm": "STANDALONE",
        "--speculative-draft-model-path": str(drafter),
        "--speculative-num-steps": "4",
        "--speculative-eagle-topk": "1",
        "--speculative-num-draft-tokens": "5",
    }
    assert options_of((folder / "llamacpp.txt").read_text(encoding="utf-8")) == {
        "--model": str(tmp_path / "target.gguf"),
        "--spec-type": "draft-simple",
        "--spec-draft-model": "drafter.gguf",
        "--spec-draft-n-max": "4",
    }
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"- {check}\n" in readme for check in checked)
    assert len(checked) == 5
    for word in ("vllm serve tests/tiny-target --speculative-config", "sh sglang.txt", "sh llamacpp.txt"):
        assert word in readme


def test_one_engine_gets_only_its_files(drafter: Path, target: Target, tmp_path: Path) -> None:
    """The limits of GGUF must not stop a user of vLLM."""
    export_drafter(str(drafter), target, output_dir=tmp_path / "export", engines=["vllm"])
    files = sorted(path.name for path in (tmp_path / "export").iterdir())
    assert files == ["README.md", "vllm.json", "vllm_whole.txt"]
    assert "llama" not in (tmp_path / "export" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("alpha", "length"), [(0.2, 1), (0.54, 3), (0.8, 6), (None, 3)])
def test_engines_have_their_own_draft_length(drafter, target, tmp_path, alpha, length) -> None:
    """The draft length of the stock loop was tuned for transformers on one processor, and is often 1."""
    describe(drafter, draft_length=1, training={"finetune": {"eval_expected_alpha": alpha} if alpha else {}})
    export_drafter(str(drafter), target, output_dir=tmp_path / "export", engines=["vllm", "sglang"])
    config = json.loads((tmp_path / "export" / "vllm.json").read_text(encoding="utf-8"))
    assert config["num_speculative_tokens"] == length
    line = (tmp_path / "export" / "sglang.txt").read_text(encoding="utf-8")
    assert options_of(line)["--speculative-num-steps"] == str(length)


def test_compact_drafter_becomes_a_stock_model(tokenizer, target, target_model, tmp_path) -> None:
    """No engine adds the target's embeddings to a compact drafter."""
    publish_compact(tmp_path, tokenizer, target)
    with pytest.raises(InputError, match=r"is compact: .* Write its stock repository"):
        open_for_engine(str(tmp_path / "compact"), compact=False)
    describe(tmp_path / "compact", prompting={"chat_template": "chat_template.jinja", "stop": ["\n"]})
    export_drafter(str(tmp_path / "compact"), target, output_dir=tmp_path / "export", engines=["vllm"])
    stock = tmp_path / "export" / "drafter"
    # For a base model, the engine gets the template, and the README has the stop strings.
    whole = options_of((tmp_path / "export" / "vllm_whole.txt").read_text(encoding="utf-8"))
    assert whole["--chat-template"] == str(stock / "chat_template.jinja")
    assert '"stop": ["\\n"]' in (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    config = json.loads((tmp_path / "export" / "vllm.json").read_text(encoding="utf-8"))
    assert config["model"] == str(stock)
    open_for_engine(str(stock), compact=False).check_files()
    ids = torch.arange(20)[None]
    compact, whole = (load_drafter(str(place), target_model, tokenizer) for place in (tmp_path / "compact", stock))
    torch.testing.assert_close(whole(ids).logits, compact(ids).logits)


def test_sglang_gets_the_shorter_context(drafter: Path, target: Target, tmp_path: Path) -> None:
    """SGLang does not start if the drafter's context length is shorter than the target's."""
    change_json(drafter / "config.json", max_position_embeddings=64)
    export_drafter(str(drafter), target, output_dir=tmp_path / "export", engines=["sglang"])
    line = (tmp_path / "export" / "sglang.txt").read_text(encoding="utf-8")
    assert options_of(line)["--context-length"] == "64"


def test_other_tokenizer_is_rejected(drafter: Path, target: Target, tmp_path: Path) -> None:
    """No engine compares the tokenizers completely: with equal sizes, the drafts would be garbage."""
    swap_two_tokens(drafter)
    with pytest.raises(IncompatibleTokenizerError):
        export_drafter(str(drafter), target, output_dir=tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_gguf_of_another_target_leaves_no_drafter(drafter: Path, target: Target, tmp_path: Path) -> None:
    """A drafter.gguf that is left after an error would be used."""
    swap_two_tokens(drafter)
    write_gguf(drafter, "float32", tmp_path / "other.gguf")
    swap_two_tokens(drafter)  # back
    options = {"output_dir": tmp_path / "export", "engines": ["llamacpp"], "target_gguf": tmp_path / "other.gguf"}
    with pytest.raises(InputError, match=r"token \d+ is "):
        export_drafter(str(drafter), target, **options)
    assert list((tmp_path / "export").iterdir()) == []


@pytest.mark.parametrize(
    ("description", "settings", "message"),
    [
        (
            {"adapter_of": {"drafter": "org/base", "revision": "0"}},
            {},
            "of org/base, .* without adapter_of",
        ),
        ({}, {"engines": ["vllm", "ollama"]}, "engines may name vllm, sglang, llamacpp, got ollama"),
        ({}, {"gguf_dtype": "int8"}, "gguf_dtype must be one of"),
        ({}, {"draft_length": 0}, "draft_length must be at least 1"),
    ],
    ids=["adapter", "engine", "dtype", "length"],
)
def test_wrong_input_is_rejected(drafter, target, tmp_path, description: dict, settings: dict, message: str) -> None:
    """An engine cannot load an adapter, and a mistyped engine must not be left out without an error."""
    describe(drafter, **description)
    with pytest.raises(InputError, match=message):
        export_drafter(str(drafter), target, output_dir=tmp_path, **settings)


def test_recipe_exports_the_runs_drafter(drafter, target, tmp_path, capsys) -> None:
    """The command in the README must find the drafter of its run."""
    words = ["--pair", "de-en", "--drafter_name", "x", "--run_folder", str(drafter.parent)]
    words += ["--target_model", f"{target.name}={target.path}"]
    recipe_main("export")(words)
    output = capsys.readouterr().out
    assert "loaded back, gives the drafter's token ids, and its logits to" in output
    assert f"exported: {drafter.parent / 'export'}" in output
    assert (drafter.parent / "export" / "drafter.gguf").is_file()


@pytest.mark.parametrize("size", [399, 401])
def test_vocabularies_of_two_sizes_are_rejected(size: int) -> None:
    """vLLM would fail after minutes of loading, and SGLang would draft tokens that the target does not have."""
    with pytest.raises(InputError, match=f"vLLM needs .* target's has 400, the drafter's {size}"):
        check_sizes("vLLM", LlamaConfig(vocab_size=400), LlamaConfig(vocab_size=size))


@pytest.mark.parametrize("location", ["org/Eagle-drafter", "/home/dflash/drafter", "org/x-eagle3"])
def test_path_that_vllm_misreads_is_rejected(location: str) -> None:
    """vLLM would load a drafter of such a name as a head that needs the target's hidden states."""
    with pytest.raises(InputError, match=r"its path contains '(eagle-|dflash|eagle3)': rename it"):
        check_path(location)
