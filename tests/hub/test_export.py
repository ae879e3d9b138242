"""The files for other engines; as a GGUF file, the same drafter or an error."""

import itertools
import json
import shlex
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

from drafter_trainer.drafters.load import load_drafter
from drafter_trainer.errors import IncompatibleTokenizerError, InputError
from drafter_trainer.hub.export import gguf_file
from drafter_trainer.hub.export.engines import check_path, check_sizes, export_drafter
from drafter_trainer.hub.export.gguf_file import check_gguf, write_gguf
from drafter_trainer.languages import get_pair
from drafter_trainer.serving.vllm import DrafterProposer, open_for_engine
from drafter_trainer.targets import Target
from tests.conftest import change_json, make_model, tiny_model
from tests.drafters.loop.conftest import describe
from tests.drafters.test_load import swap_two_tokens, write_drafter
from tests.hub.conftest import publish_compact
from tests.recipes.test_whole_way import recipe_main

PROBES = get_pair("de-en").probes


@pytest.fixture
def drafter(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Folder of a published drafter with more query heads than key heads, and no two norms alike."""
    sizes = {"vocab_size": len(tokenizer), "num_hidden_layers": 2, "max_position_embeddings": 512}
    model = tiny_model("llama", 5, norms=1.0, **sizes, tie_word_embeddings=True)
    return write_drafter(tmp_path / "drafter", model, tokenizer)


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 0.0), ("float16", 1e-3), ("bfloat16", 1e-2)])
def test_file_holds_the_same_drafter(drafter: Path, tmp_path: Path, dtype: str, rounding: float) -> None:
    """A matrix with its rows in the wrong order drafts fluent text that the target rejects."""
    write_gguf(drafter, dtype, tmp_path / "x.gguf")
    from_rounded, from_exact = check_gguf(drafter, tmp_path / "x.gguf", dtype, PROBES)
    assert from_rounded < 1e-5
    assert (from_exact > rounding) if rounding else (from_exact == from_rounded)


def test_untied_head_and_padded_rows_are_kept(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Without its head, a drafter would use the embeddings; llama.cpp needs a name for rows without a token."""
    model = make_model(tokenizer, layers=1)
    model.resize_token_embeddings(len(tokenizer) + 8)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight * 1.5)
    folder = write_drafter(tmp_path / "drafter", model, tokenizer)
    write_gguf(folder, "float32", tmp_path / "x.gguf")
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    assert "output.weight" in [tensor.name for tensor in reader.tensors]
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == len(tokenizer) + 8
    assert tokens[-1] == f"[PAD{len(tokenizer) + 7}]"
    assert check_gguf(folder, tmp_path / "x.gguf", "float32", PROBES)[0] < 1e-5


def test_vocabulary_is_complete(drafter: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """For a missing flag llama.cpp takes a default, which may differ from the target's."""
    write_gguf(drafter, "float32", tmp_path / "x.gguf")
    fields = gguf.GGUFReader(tmp_path / "x.gguf").fields
    expected = {
        "model": "gpt2",
        "tokens": tokenizer.convert_ids_to_tokens(range(len(tokenizer))),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "add_bos_token": False,
        "add_eos_token": False,
    }
    assert {name: fields[f"tokenizer.ggml.{name}"].contents() for name in expected} == expected
    kinds = fields["tokenizer.ggml.token_type"].contents()
    assert [kinds[token] for token in tokenizer.all_special_ids] == [3] * len(tokenizer.all_special_ids)
    assert kinds[100] == 1
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template


BYTES, RAW = ({"type": "ByteLevel", "use_regex": regex} for regex in (True, False))
DIGITS = {"type": "Digits", "individual_digits": True}
SPLIT = {"type": "Split", "pattern": {"Regex": gguf_file.GGUF_PRE_TOKENIZER_SPLITS["qwen2"]}}
SPLITTERS = [([BYTES], "gpt-2"), ([DIGITS, BYTES], "smollm"), ([SPLIT, RAW], "qwen2"), ([RAW], None)]


@pytest.mark.parametrize(("parts", "expected"), [*SPLITTERS, ([{"type": "Metaspace"}], None)])
def test_pre_tokenizer_is_named_or_rejected(tmp_path: Path, parts: list, expected: str | None) -> None:
    """With another name llama.cpp splits text in other places; a guess is worse than an error."""
    pre = {"type": "Sequence", "pretokenizers": parts} if len(parts) > 1 else parts[0]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"pre_tokenizer": pre}), encoding="utf-8")
    if expected:
        assert gguf_file._find_pre_tokenizer(tmp_path) == expected
        return
    with pytest.raises(InputError, match=r"llama.cpp's convert_hf_to_gguf.py"):
        gguf_file._find_pre_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "the architecture gemma2"),
        ({"attention_bias": True}, "Llama with biases"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "linear positions"),
    ],
)
def test_unsupported_model_names_the_converter(drafter, tmp_path, tokenizer, settings, message) -> None:
    """Written as a plain Llama, another model would load and draft noise."""
    if settings is None:
        model = tiny_model("gemma2", vocab_size=len(tokenizer), num_hidden_layers=1)
        drafter = write_drafter(tmp_path / "gemma2", model, tokenizer)
    else:
        change_json(drafter / "config.json", **settings)
    with pytest.raises(InputError, match=rf"{message}, .* llama.cpp's convert_hf_to_gguf.py"):
        write_gguf(drafter, "float32", tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize("altered", ["blk.1.attn_k.weight", "blk.0.ffn_norm.weight", "token_embd.weight"])
def test_altered_file_is_rejected(drafter: Path, tmp_path: Path, altered: str) -> None:
    """The comparison must find one row in the wrong place, or it would miss a wrong order."""
    path = tmp_path / "x.gguf"
    write_gguf(drafter, "float32", path)
    reader = gguf.GGUFReader(path, "r+")
    data = next(tensor.data for tensor in reader.tensors if tensor.name == altered)
    data[...] = np.roll(data, 1, axis=0)
    data.flush()
    with pytest.raises(InputError, match="differ from the drafter's by up to"):
        check_gguf(drafter, path, "float32", PROBES)


def test_other_tokenizer_is_rejected(drafter: Path, tmp_path: Path) -> None:
    """Correct logits for wrong ids are drafts that are all rejected."""
    path = tmp_path / "x.gguf"
    other = AutoTokenizer.from_pretrained(drafter).train_new_from_iterator(["Brücke, pünktlich, überquert"] * 9, 400)
    write_gguf(drafter, "float32", path)
    other.save_pretrained(drafter)
    with pytest.raises(InputError, match="has another tokenizer"):
        check_gguf(drafter, path, "float32", PROBES)


def test_file_that_is_not_gguf_is_rejected(drafter: Path, tmp_path: Path) -> None:
    """The target's file is easily mistyped."""
    (tmp_path / "target.gguf").write_bytes(b"no")
    for path in (tmp_path / "target.gguf", tmp_path / "missing.gguf"):
        with pytest.raises(InputError, match="is not a GGUF file"):
            write_gguf(drafter, "float32", tmp_path / "x.gguf", path)


@pytest.fixture
def gemma_gguf(tmp_path: Path) -> tuple[Path, Path]:
    """A Gemma 3 drafter of two layers, and its target's GGUF file, with a SentencePiece tokenizer."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefgh"]
    pieces += ["ab", "▁a", "▁▁"]
    merges = [("a", "b"), ("▁", "a")]
    bpe = models.BPE(
        {piece: token for token, piece in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
    sizes = {"vocab_size": len(pieces) + 3, "num_hidden_layers": 2, "head_dim": 32, "query_pre_attn_scalar": 32}
    sizes |= {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    model = tiny_model("gemma3_text", norms=1.0, **sizes, num_attention_heads=2, num_key_value_heads=1)
    writer = gguf.GGUFWriter(tmp_path / "target.gguf", "gemma3")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["  " if piece == "▁▁" else piece for piece in pieces])  # as llama.cpp's converter does
    writer.add_token_scores([-float(token) for token in range(len(pieces))])
    writer.add_token_types([3, 3, 3, 2, *[6] * 256, *[1] * (len(pieces) - 260)])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return write_drafter(tmp_path / "drafter", model, fast), tmp_path / "target.gguf"


def test_gemma_gets_the_targets_tokenizer(gemma_gguf: tuple[Path, Path], tmp_path: Path) -> None:
    """A drafter's own files lack the scores and types that llama.cpp needs for SentencePiece."""
    folder, target_gguf = gemma_gguf
    with pytest.raises(InputError, match="give target_gguf"):
        write_gguf(folder, "float32", tmp_path / "x.gguf")
    write_gguf(folder, "float32", tmp_path / "x.gguf", target_gguf)
    fields, expected = (gguf.GGUFReader(path).fields for path in (tmp_path / "x.gguf", target_gguf))
    for name, filler in (("tokens", "[PAD272]"), ("scores", -1000.0), ("token_type", 5)):
        column, targets = (of[f"tokenizer.ggml.{name}"].contents() for of in (fields, expected))
        assert column[: len(targets)] == targets
        assert len(column) == len(targets) + 3
        assert column[len(targets)] == filler
    for name in ("bos_token_id", "eos_token_id", "add_bos_token"):
        assert fields[f"tokenizer.ggml.{name}"].contents() == expected[f"tokenizer.ggml.{name}"].contents()
    assert fields["gemma3.attention.sliding_window_pattern"].contents() == 2
    assert fields["gemma3.rope.freq_base"].contents() == 1e6
    assert fields["gemma3.rope.freq_base_swa"].contents() == 1e4
    # transformers stores the weights of norms less one.
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    weight = AutoModelForCausalLM.from_pretrained(folder).model.layers[1].self_attn.q_norm.weight
    torch.testing.assert_close(torch.tensor(tensors["blk.1.attn_q_norm.weight"]), weight.detach() + 1)


def test_gemma_of_another_target_is_rejected(gemma_gguf: tuple[Path, Path], tmp_path: Path) -> None:
    """With the tokenizer of another target, a drafter would pass llama.cpp's comparison and draft garbage."""
    folder, target_gguf = gemma_gguf
    swap_two_tokens(folder, "c", "d")
    with pytest.raises(InputError, match=r"token 263 is 'd' in .* and 'c' in"):
        write_gguf(folder, "float32", tmp_path / "x.gguf", target_gguf)


@pytest.mark.parametrize(
    ("kinds", "period", "places"),
    [
        ("sf", 2, [0, 1]),
        ("f", 1, [0]),
        ("ss", 3, [0, 1]),
        ("ssfssf", 3, [0, 1, 2, 3, 4, 5]),
        ("fss", 3, [2, 3, 4]),
        ("sssssfsf", 6, [0, 1, 2, 3, 4, 5, 6, 11]),
    ],
)
def test_every_nth_layer_has_full_attention(kinds: str, period: int, places: list[int]) -> None:
    """llama.cpp knows layers by a period; layers that were chosen from a target's have none."""
    names = {"s": "sliding_attention", "f": "full_attention"}
    assert gguf_file._place_layers([names[kind] for kind in kinds]) == (period, places)


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


def test_drafter_of_another_target_leaves_no_files(drafter: Path, target: Target, tmp_path: Path) -> None:
    """No engine compares the tokenizers completely, and a drafter.gguf that is left after an error would be used."""
    swap_two_tokens(drafter)
    with pytest.raises(IncompatibleTokenizerError):
        export_drafter(str(drafter), target, output_dir=tmp_path / "export")
    assert not (tmp_path / "export").exists()
    write_gguf(drafter, "float32", tmp_path / "other.gguf")
    swap_two_tokens(drafter)  # back
    options = {"output_dir": tmp_path / "export", "engines": ["llamacpp"], "target_gguf": tmp_path / "other.gguf"}
    with pytest.raises(InputError, match=r"token \d+ is "):
        export_drafter(str(drafter), target, **options)
    assert list((tmp_path / "export").iterdir()) == []


@pytest.mark.parametrize(
    ("description", "settings", "message"),
    [
        ({"adapter_of": {"drafter": "org/base", "revision": "0"}}, {}, "of org/base, .* without adapter_of"),
        ({}, {"engines": ["vllm", "ollama"]}, "engines must be among vllm, sglang, llamacpp, got ollama"),
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
