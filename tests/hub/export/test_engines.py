"""The files that other engines are given."""

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
from drafter_trainer.serving.drafter import open_for_engine
from drafter_trainer.serving.vllm import DrafterProposer
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
    """A key or an option of another name is refused by the engine, or ignored."""
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
    assert all(f"- {fact}\n" in readme for fact in checked)
    assert len(checked) == 5
    for word in ("vllm serve tests/tiny-target --speculative-config", "sh sglang.txt", "sh llamacpp.txt"):
        assert word in readme


def test_one_engine_alone_needs_nothing_of_the_others(drafter: Path, target: Target, tmp_path: Path) -> None:
    """Whoever serves with vLLM must not be stopped by what GGUF cannot hold."""
    export_drafter(str(drafter), target, output_dir=tmp_path / "export", engines=["vllm"])
    files = sorted(path.name for path in (tmp_path / "export").iterdir())
    assert files == ["README.md", "vllm.json", "vllm_whole.txt"]
    assert "llama" not in (tmp_path / "export" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("alpha", "length"), [(0.2, 1), (0.54, 3), (0.8, 6), (None, 3)])
def test_engines_draft_a_length_of_their_own(drafter, target, tmp_path, alpha, length) -> None:
    """The stock loop's length is transformers' on one processor; written for an engine it drafts one token a round."""
    describe(drafter, draft_length=1, training={"finetune": {"eval_expected_alpha": alpha} if alpha else {}})
    export_drafter(str(drafter), target, output_dir=tmp_path / "export", engines=["vllm", "sglang"])
    config = json.loads((tmp_path / "export" / "vllm.json").read_text(encoding="utf-8"))
    assert config["num_speculative_tokens"] == length
    line = (tmp_path / "export" / "sglang.txt").read_text(encoding="utf-8")
    assert options_of(line)["--speculative-num-steps"] == str(length)


def test_compact_drafter_is_made_whole(tokenizer, target, target_model, tmp_path) -> None:
    """Engines load a repository as it stands: without the target's embeddings a compact one loads in none."""
    publish_compact(tmp_path, tokenizer, target)
    with pytest.raises(InputError, match=r"is compact: .* Write its stock repository"):
        open_for_engine(str(tmp_path / "compact"), compact=False)
    describe(tmp_path / "compact", prompting={"chat_template": "chat_template.jinja", "stop": ["\n"]})
    export_drafter(str(tmp_path / "compact"), target, output_dir=tmp_path / "export", engines=["vllm"])
    stock = tmp_path / "export" / "drafter"
    # Of a base model the engine gets the template, and who asks it is told where answers end.
    whole = options_of((tmp_path / "export" / "vllm_whole.txt").read_text(encoding="utf-8"))
    assert whole["--chat-template"] == str(stock / "chat_template.jinja")
    assert '"stop": ["\\n"]' in (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    config = json.loads((tmp_path / "export" / "vllm.json").read_text(encoding="utf-8"))
    assert config["model"] == str(stock)
    open_for_engine(str(stock), compact=False).check_files()
    ids = torch.arange(20)[None]
    compact, whole = (load_drafter(str(place), target_model, tokenizer) for place in (tmp_path / "compact", stock))
    torch.testing.assert_close(whole(ids).logits, compact(ids).logits)


def test_shorter_context_is_told_to_sglang(drafter: Path, target: Target, tmp_path: Path) -> None:
    """SGLang does not start with a drafter that reads less than the target."""
    change_json(drafter / "config.json", max_position_embeddings=64)
    export_drafter(str(drafter), target, output_dir=tmp_path / "export", engines=["sglang"])
    line = (tmp_path / "export" / "sglang.txt").read_text(encoding="utf-8")
    assert options_of(line)["--context-length"] == "64"


def test_other_tokenizer_is_refused(drafter: Path, target: Target, tmp_path: Path) -> None:
    """No engine compares all of both tokenizers: equal sizes pass, and the drafts are garbage."""
    swap_two_tokens(drafter)
    with pytest.raises(IncompatibleTokenizerError):
        export_drafter(str(drafter), target, output_dir=tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_targets_file_of_another_model_leaves_no_drafter(drafter: Path, target: Target, tmp_path: Path) -> None:
    """A drafter.gguf that stands there after an error would be used."""
    swap_two_tokens(Path(drafter))
    write_gguf(drafter, "float32", tmp_path / "other.gguf")
    swap_two_tokens(Path(drafter))  # as it was
    with pytest.raises(InputError, match=r"token \d+ is "):
        export_drafter(
            str(drafter),
            target,
            output_dir=tmp_path / "export",
            engines=["llamacpp"],
            target_gguf=tmp_path / "other.gguf",
        )
    assert list((tmp_path / "export").iterdir()) == []


def test_adapter_is_refused(drafter: Path, target: Target, tmp_path: Path) -> None:
    """Engines would look for weights that an adapter's repository does not have."""
    describe(drafter, adapter_of={"drafter": "org/base", "revision": "0"})
    with pytest.raises(InputError, match=r"adapter of org/base, .* publish it without adapter_of"):
        export_drafter(str(drafter), target, output_dir=tmp_path / "export")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"engines": ["vllm", "ollama"]}, "engines may name vllm, sglang, llamacpp, got ollama"),
        ({"gguf_dtype": "int8"}, "gguf_dtype must be one of"),
        ({"draft_length": 0}, "draft_length must be at least 1"),
    ],
)
def test_mistaken_options_are_said(drafter: Path, target: Target, tmp_path: Path, settings: dict, said: str) -> None:
    """A mistyped engine must not be left out in silence."""
    with pytest.raises(InputError, match=said):
        export_drafter(str(drafter), target, output_dir=tmp_path, **settings)


def test_recipe_exports_the_runs_drafter(drafter, target, tmp_path, capsys) -> None:
    """The command of the README finds the drafter of its run and says what it checked."""
    words = ["--pair", "de-en", "--drafter_name", "x", "--run_folder", str(drafter.parent)]
    words += ["--target_model", f"{target.name}={target.path}"]
    recipe_main("export")(words)
    said = capsys.readouterr().out
    assert "loaded back, gives the drafter's token ids, and its logits to" in said
    assert f"exported: {drafter.parent / 'export'}" in said
    assert (drafter.parent / "export" / "drafter.gguf").is_file()


@pytest.mark.parametrize("size", [399, 401])
def test_vocabularies_of_two_sizes_are_refused(size: int) -> None:
    """vLLM ends with an error after minutes of loading, SGLang with tokens that the target does not have."""
    with pytest.raises(InputError, match=f"vLLM needs .* target's has 400, the drafter's {size}"):
        check_sizes("vLLM", LlamaConfig(vocab_size=400), LlamaConfig(vocab_size=size))


@pytest.mark.parametrize("location", ["org/Eagle-drafter", "/home/dflash/drafter", "org/x-eagle3"])
def test_path_that_vllm_reads_a_method_off_is_refused(location: str) -> None:
    """vLLM would load a drafter of such a name as a head that needs the target's hidden states."""
    with pytest.raises(InputError, match=r"has '(eagle-|dflash|eagle3)' in it: rename it"):
        check_path(location)
