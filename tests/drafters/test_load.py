"""Loading a published drafter."""

import contextlib
import copy
import dataclasses
import io
import itertools
import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from drafter_trainer.atomic import hash_file
from drafter_trainer.decoding.metrics import Round
from drafter_trainer.decoding.rounds import decode
from drafter_trainer.drafters.compatibility import hash_tokenizer
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.drafters.load import load_drafter, with_stock_loop
from drafter_trainer.drafters.loop.build import TABLE, VOCABULARY
from drafter_trainer.drafters.loop.settings import NETWORK_BINS, LoopSettings, default_calibration
from drafter_trainer.drafters.repository import Repository
from drafter_trainer.errors import IncompatibleTokenizerError, InputError
from drafter_trainer.languages import get_pair
from drafter_trainer.targets import Target
from tests.conftest import make_model, make_tokenizer, tiny_vision_model
from tests.decoding.drafts import set_draft_length
from tests.decoding.lossless import check_greedy
from tests.drafters.loop.conftest import describe
from tests.hub.conftest import results_for
from tests.processes import Running
from tests.test_targets import write_gguf

PAIR = get_pair("de-en")
DRAFT_LENGTH = 3
PROMPT = [9, 33, 120, 7, 250, 61]


def write_drafter(folder: Path, model: PreTrainedModel, tokenizer, pair: str = "de-en") -> Path:
    """Write a drafter's folder with the files that publishing writes."""
    set_draft_length(model, DRAFT_LENGTH)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    description = DrafterDescription(
        name="tiny-target-drafter-de-en",
        target="tests/tiny-target",
        target_revision="0",
        tokenizer_sha256=hash_tokenizer(tokenizer, get_pair(pair).probes),
        pair=pair,
        draft_length=DRAFT_LENGTH,
        loop=LoopSettings(
            sources=["network"],
            longest_draft=DRAFT_LENGTH,
            calibration=default_calibration() | {"network": [0.9] * NETWORK_BINS},
            pass_milliseconds={"cpu": [10.0] * (DRAFT_LENGTH + 1)},
        ).to_dict(),
    )
    (folder / FILE_NAME).write_text(description.to_json(), encoding="utf-8")
    return folder


def swap_two_tokens(folder: Path, one: str = "m", other: str = "n") -> None:
    """Give a folder's tokenizer two tokens with each other's ids."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, tokenizer) -> Path:
    return write_drafter(tmp_path / "drafter", make_model(tokenizer), tokenizer)


def test_drafter_is_ready_for_generate(folder: Path, target_model: PreTrainedModel, tokenizer) -> None:
    """Defaults instead of the published settings (20 tokens, threshold 0.4, a schedule) draft at another speed."""
    drafter = load_drafter(str(folder), target_model, tokenizer, follow_clock=False)
    assert not drafter.training
    decoding = decode(target_model, PROMPT, {"assistant_model": drafter}, 0.0, 0, 2 * (DRAFT_LENGTH + 1))
    assert decoding.rounds == 2 * [Round(DRAFT_LENGTH, DRAFT_LENGTH, rejected=False)]


@pytest.mark.parametrize("follow_clock", [True, False])
def test_drafts_follow_the_clock_where_they_may(folder, target_model, tokenizer, monkeypatch, follow_clock) -> None:
    """Two runs that draft other lengths give other texts in half precision: nobody could repeat a measurement."""
    lengths = []
    for pace in (1e-4, 0.5):
        ticks = itertools.count(0.0, pace)
        clock = SimpleNamespace(perf_counter=lambda ticks=ticks: next(ticks))
        monkeypatch.setattr("drafter_trainer.drafters.loop.build.time", clock)
        drafter = load_drafter(str(folder), target_model, tokenizer, follow_clock=follow_clock)
        rounds = decode(target_model, PROMPT, {"assistant_model": drafter}, 0.0, 0, 40).rounds
        lengths.append([round_.drafted for round_ in rounds])
    assert lengths[0][0] > 0
    assert (lengths[0] != lengths[1]) is follow_clock


def test_target_without_a_place_needs_its_tokenizer(folder: Path, target_model: PreTrainedModel) -> None:
    """A target made in process came from nowhere: ask for its tokenizer instead of failing over an empty name."""
    with pytest.raises(InputError, match=r"no tokenizer of the target at ''.*give it as tokenizer"):
        load_drafter(str(folder), target_model)


def test_other_tokenizer_is_refused_by_content(folder: Path, tmp_path: Path, target_model, tokenizer) -> None:
    """Swapped tokens leave the size alone and make garbage of drafts, whichever tokenizer was looked at."""
    for each in (target_model, tokenizer):
        each.save_pretrained(tmp_path / "target")
    swap_two_tokens(tmp_path / "target")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "target")
    for model, given in ((loaded, None), (target_model, AutoTokenizer.from_pretrained(tmp_path / "target"))):
        with pytest.raises(IncompatibleTokenizerError, match=r"2 tokens .* the first is 'm'"):
            load_drafter(str(folder), model, given)
    description = dataclasses.replace(Repository.open(folder).description, tokenizer_sha256="0" * 64)
    (folder / FILE_NAME).write_text(description.to_json(), encoding="utf-8")
    with pytest.raises(IncompatibleTokenizerError, match="trained with another tokenizer"):
        load_drafter(str(folder), target_model, tokenizer)


def test_missing_drafter_is_refused(target_model, tokenizer) -> None:
    """A typing error, or a Hub out of reach, must end in one line and not in a traceback of the client."""
    for name in ("nobody/no-such-drafter", "/no/such/folder", "runs/some/drafter", "no such name"):
        with pytest.raises(InputError, match=f"{name} is neither a folder nor a published drafter"):
            load_drafter(name, target_model, tokenizer)


def test_target_that_is_not_loaded_is_refused(folder: Path) -> None:
    """The name of a target, as other functions take it, would end in an AttributeError."""
    with pytest.raises(InputError, match="target_model must be the loaded model, got str: load it with AutoModelFor"):
        load_drafter(str(folder), "org/target")


def test_drafter_is_identified_by_its_weights(folder: Path, tmp_path: Path, tokenizer) -> None:
    """Results of one drafter must not pass for those of another one in the same place."""
    same = write_drafter(tmp_path / "same", make_model(tokenizer), tokenizer)
    other = write_drafter(tmp_path / "other", make_model(tokenizer, seed=1), tokenizer)
    assert Repository.open(folder).identity == Repository.open(same).identity != Repository.open(other).identity


# What to expect


def add_results(folder: Path) -> None:
    description = DrafterDescription.read(folder)
    results = results_for(description.name, description.fingerprint())
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")


def errors_of_loading(folder: str, target: str) -> str:
    """Load a drafter as a script would; return what reached standard error."""
    with contextlib.redirect_stderr(io.StringIO()) as written:
        load_drafter(folder, AutoModelForCausalLM.from_pretrained(target))
    return written.getvalue()


def test_expected_speed_is_seen_by_whoever_does_nothing_for_it(folder: Path, target_folder: Path) -> None:
    """Prevent the line from being invisible: standard error shows it once without logging setup."""
    add_results(folder)
    written = Running(errors_of_loading, str(folder), str(target_folder)).result()
    (line,) = [line for line in written.splitlines() if "times as fast" in line]
    assert line.startswith("tiny-target-drafter-de-en: 1.23 times as fast as plain decoding (95 %: 1.11 to 1.34), ")
    assert "on a processor (2 threads)" in line, line


@pytest.mark.parametrize("measured", [True, False])
def test_finetune_of_the_target_is_warned_of(folder, target_model, tokenizer, measured) -> None:
    """Prevent a silent loss of speed with a finetune, which passes every check."""
    if measured:
        add_results(folder)
    target_model.name_or_path = "somebody/finetune"
    accepted = r"α = 0\.43, 1\.76 tokens per target pass" if measured else "nothing, it has not been measured"
    with pytest.warns(
        UserWarning, match=r"is somebody/finetune, not tests/tiny-target.*original: " + accepted
    ) as seen:
        drafter = load_drafter(str(folder), target_model, tokenizer)
    assert seen[0].filename == __file__  # the user's own line, not one within the package
    check_greedy(target_model, drafter, [PROMPT], 8)


def test_finetunes_tokenizer_is_warned_of(folder: Path, target_model: PreTrainedModel) -> None:
    """One more token or another end token must not cost a finetune its drafter: text gets the same ids."""
    finetunes = make_tokenizer()
    finetunes.add_tokens(["<|tool|>"])
    finetunes.eos_token = "<|user|>"
    target_model.resize_token_embeddings(len(finetunes))
    with pytest.warns(UserWarning, match=r"target has another tokenizer \(the .*'<\|tool\|>'.*eos_token_id is 2"):
        check_greedy(target_model, load_drafter(str(folder), target_model, finetunes), [PROMPT], 8)


def test_target_on_the_disk_is_refused(target_model, tokenizer) -> None:
    """It would take minutes a token, which is said before anything is fetched."""
    offloaded = copy.deepcopy(target_model).to("meta")
    offloaded.hf_device_map = {"": "disk"}
    with pytest.raises(InputError, match="all weights of the target are on the disk"):
        load_drafter("nowhere/at-all", offloaded, tokenizer)


def test_the_original_is_not_warned_of(folder: Path, target: Target) -> None:
    """A target in a folder is the quickstart's own, whatever its name; its tokenizer, left out, is found there."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for tokenizer in (target.load_tokenizer(), None):
            load_drafter(str(folder), target.load_model("auto"), tokenizer)


# Targets of other kinds


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ([torch.float8_e4m3fn, torch.bfloat16], torch.bfloat16),  # FP8: its first weights are floats of a byte
        ([torch.uint8, torch.float16], torch.float16),  # 4 bits packed into bytes
        ([torch.int8], torch.float32),  # nothing tells
        ([torch.bfloat16], torch.bfloat16),  # not quantized: drafts in fp32 would take twice the time
        ([torch.float32], torch.float32),
    ],
)
def test_drafter_computes_in_the_targets_floats(folder, target_model, tokenizer, stored, expected) -> None:
    """Prevent the dtype of packed, quantized weights for the drafter."""
    for name, weight in list(target_model.named_parameters()):
        dtype = stored[0] if "proj" in name or "embed" in name else stored[-1]
        module = target_model.get_submodule(name.rpartition(".")[0])
        setattr(module, name.rpartition(".")[2], torch.nn.Parameter(weight.to(dtype), requires_grad=False))
    assert load_drafter(str(folder), target_model, tokenizer).dtype == expected


def test_target_out_of_a_gguf_file(folder: Path, tmp_path: Path, tokenizer) -> None:
    """Loaded as it is, its matrices are blocks of eight bits."""
    write_gguf(tmp_path / "tiny.gguf")
    target_model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf")
    drafter = load_drafter(str(folder), target_model, tokenizer)
    assert drafter.dtype == torch.float32
    check_greedy(target_model, drafter, [PROMPT], 8)


def test_greedy_output_of_a_multimodal_target(folder: Path, tokenizer) -> None:
    """Pictures and token types go to the assistant too, which knows neither, nor the ids that stand for a picture."""
    text = {"num_hidden_layers": 2, "sliding_window": 64, "pad_token_id": 0, "eos_token_id": 2}
    given = {"text": text | {"tie_word_embeddings": False}, "vision": {"patch_size": 4}}
    given |= {"mm_tokens_per_image": 4, "image_token_index": 400, "boi_token_index": 401, "eoi_token_index": 402}
    # Tied embeddings let each token be followed by itself.
    model = tiny_vision_model(408, **given, tie_word_embeddings=False)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)  # zero to begin with
    drafter, ids = load_drafter(str(folder), model, tokenizer), torch.tensor([[9, 401, *[400] * 4, 402, 33, 120, 7]])
    picture = {"token_type_ids": (ids == 400).long(), "pixel_values": torch.rand(1, 3, 16, 16)}
    picture |= {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "do_sample": False}
    plain = model.generate(**picture)
    assert torch.equal(model.generate(**picture, assistant_model=drafter), plain)
    assert len(set(plain[0, -8:].tolist())) > 3
    assert not torch.equal(model.generate(**picture | {"pixel_values": torch.zeros(1, 3, 16, 16)}), plain)
    # The README says that token types need the loop.
    with pytest.raises(ValueError, match=r"not used by the model: \['token_type_ids'\]"):
        model.generate(**picture, assistant_model=with_stock_loop(drafter, DRAFT_LENGTH))


# Malformed repositories


@pytest.fixture
def damaged(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "drafter"))


def error_of(folder: Path, target_model: PreTrainedModel, tokenizer) -> str:
    """Load a drafter; return the error's message, if there is one. Any other exception fails the test."""
    message = ""
    try:
        load_drafter(str(folder), target_model, tokenizer)
    except InputError as error:
        message = str(error)
    assert len(message) < 2000
    return message


DAMAGE = [
    lambda content: content[:7],  # within the header
    lambda content: content[: len(content) // 2],
    lambda content: bytes([content[0] ^ 1]) + content[1:],
    lambda content: content[:8] + b"\x00\xff{[" + content[8:],
    *(lambda content, other=other: other for other in (b"", b"\xff\xfe\x00", b'{"model": [1]}', b"[]")),
]


FILES = "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"


@pytest.mark.parametrize("name", [*FILES, VOCABULARY, TABLE])
@pytest.mark.filterwarnings("ignore")
def test_malformed_file_is_rejected_or_harmless(damaged, target_model, tokenizer, name) -> None:
    """A file can be altered together with its hash, and must not lead to a traceback."""
    values, whole = json.loads((damaged / FILE_NAME).read_text(encoding="utf-8")), (damaged / name).read_bytes()
    values["weights"] = {}
    # With another hash, the drafter's own tokenizer is read for a comparison.
    values["tokenizer_sha256"] = "0" * 64 if name.startswith("tokenizer") else values["tokenizer_sha256"]
    for damage in DAMAGE:
        (damaged / name).write_bytes(damage(whole))
        values["files"] = {file: hash_file(damaged / file) for file in values["files"]}
        (damaged / FILE_NAME).write_text(json.dumps(values), encoding="utf-8")
        message = error_of(damaged, target_model, tokenizer)
        assert message or not name.startswith("tokenizer")


def test_unknown_pair_is_rejected(damaged, target_model, tokenizer) -> None:
    """A repository on the Hub can contain any text, and must not lead to a traceback."""
    for pair in ("", "x", "de-en-fr", "\x00", "\u2028-en"):
        describe(damaged, pair=pair)
        assert error_of(damaged, target_model, tokenizer)


def test_pickle_is_not_read(damaged, target_model, tokenizer) -> None:
    """A pickle can run any code, so it is never loaded in place of the weights."""
    describe(damaged, weights={})
    before = "model.safetensors"
    for name in ("pytorch_model.bin", "adapter_model.bin"):
        (damaged / before).rename(damaged / name)
        assert error_of(damaged, target_model, tokenizer)
        before = name
