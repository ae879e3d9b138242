"""Tiny models and tokenizers, made in process: no test needs the network or an accelerator."""

import os

# Before any Hugging Face import: nothing may reach the real Hub, and two cores are shared with nobody's threads.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Splitting tiny matrix products over cores only slows them down, and the tests run side by side.
os.environ["OMP_NUM_THREADS"] = "1"

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from drafter_trainer.corpora.sample import sample_rows
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target, hash_folder
from tests.decoding.lossless import make_toy_target

torch.set_num_threads(1)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL_TOKENS = ["<|pad|>", "<|start|>", "<|end|>", "<|user|>", "<|assistant|>"]


def make_tokenizer(vocabulary: int = 400) -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer on the bundled sample; equal sizes give equal tokenizers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (row[language] for row in sample_rows("train") for language in ("de", "en"))
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|start|>",
        eos_token="<|end|>",
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )


TINY = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}


def tiny_model(kind: str, seed: int = 0, norms: float = 0.0, **given: Any) -> PreTrainedModel:
    """Make a tiny model of a family, whose norms differ by up to `norms`; greedy decoding is decided."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **TINY | {"initializer_range": 0.3} | given)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name and norms:
                weight.add_(norms * (torch.rand(weight.shape) - 0.5))
    return model


def make_model(tokenizer: PreTrainedTokenizerFast, layers: int = 4, seed: int = 0, **config: int) -> PreTrainedModel:
    """Make a tiny Llama that fits a tokenizer."""
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    sizes = {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": layers,
        "max_position_embeddings": 512,
        "head_dim": None,
    }
    return tiny_model("llama", seed, **sizes | ids | {"tie_word_embeddings": True} | config)


def tiny_vision_model(size: int, **given: Any) -> PreTrainedModel:
    """Make a tiny multimodal Gemma 3 whose text part knows so many ids."""
    torch.manual_seed(0)
    text = TINY | {"vocab_size": size, "num_hidden_layers": 4, "max_position_embeddings": 512}
    text |= {"initializer_range": 0.3} | given.pop("text", {})
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 16} | given.pop("vision", {"patch_size": 8})
    return Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, **given)).eval()


def change_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.fixture(autouse=True)
def one_line_errors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail wherever a message for the user has more than one line."""
    said: list[str] = []

    def note(self: InputError, *given: object) -> None:
        ValueError.__init__(self, *given)
        said.append(str(self))

    monkeypatch.setattr(InputError, "__init__", note)
    yield
    assert [message for message in said if "\n" in message] == []


@pytest.fixture(scope="session", autouse=True)
def warm_caches() -> Iterator[None]:
    """Let replays leave the processor's caches alone, which takes them ten milliseconds a round."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("drafter_trainer.decoding.replay.evict_caches", lambda device: None)
        yield


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def target_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A tiny target with its tokenizer, as `from_pretrained` loads it."""
    folder = tmp_path_factory.mktemp("target") / "tiny-target"
    make_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def target(target_folder: Path) -> Target:
    """The tiny target by name and revision."""
    return Target("tests/tiny-target", hash_folder(target_folder), str(target_folder))


@pytest.fixture
def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def target_model(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The tiny target's model; a new one for each test, because generation configurations are set on it."""
    return make_model(tokenizer)


@pytest.fixture(scope="module")
def toy_target() -> PreTrainedModel:
    """A target whose every answer of three tokens has a known chance."""
    return make_toy_target()
