"""The ready configurations, each on tiny models of its target's architecture and of the true depth."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import (
    ApertusConfig,
    Gemma3Config,
    Gemma3TextConfig,
    LlamaConfig,
    Ministral3Config,
    Mistral3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from drafter_trainer.cli.arguments import DrafterArguments
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.drafters.initialization import SIBLINGS, create_drafter
from drafter_trainer.drafters.load import load_drafter, with_stock_loop
from drafter_trainer.drafters.loop.generate import loop_of
from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.drafters.loop.network_kinds import StockNetwork
from drafter_trainer.targets import Target, hash_folder, model_class_of
from drafter_trainer.training.arguments import DrafterTrainingArguments
from drafter_trainer.training.trainers import DrafterTrainer
from tests.conftest import make_tokenizer
from tests.decoding.lossless import check_greedy
from tests.training.conftest import QUIET, make_rows

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"
VOCABULARY = len(make_tokenizer())
PADDED = VOCABULARY + 64
TINY = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
TINY |= {"max_position_embeddings": 128, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2}
TINY |= {"pad_token_id": 0}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 16, "patch_size": 8}


def text(kind: type[PretrainedConfig], layers: int, vocabulary: int = VOCABULARY, **more: object) -> PretrainedConfig:
    return kind(vocab_size=vocabulary, num_hidden_layers=layers, **TINY | more)


def gemma3() -> Gemma3Config:
    """Make the configuration of a tiny multimodal Gemma 3, whose embeddings have rows that no token uses."""
    part = text(Gemma3TextConfig, 2, PADDED, head_dim=8)
    return Gemma3Config(text_config=part.to_dict(), vision_config=VISION)


def mistral3() -> Mistral3Config:
    """Make the configuration of a tiny multimodal Ministral 3 with the 34 layers of the 8B."""
    part = text(Ministral3Config, 34, head_dim=8)
    vision = VISION | {"model_type": "pixtral"}
    return Mistral3Config(text_config=part.to_dict(), vision_config=vision, tie_word_embeddings=False)


# Configuration, target, the checkpoint that its drafter starts from, and what runs the drafter's network
READY = {
    "apertus-8b": (text(ApertusConfig, 32), None, StockNetwork),
    "eurollm-9b": (text(LlamaConfig, 2), text(LlamaConfig, 24), LeanNetwork),
    "gemma-3-12b-it": (gemma3(), text(Gemma3TextConfig, 18, head_dim=8), LeanNetwork),
    "llama-3.1-8b": (text(LlamaConfig, 2), text(LlamaConfig, 16, tie_word_embeddings=True), LeanNetwork),
    "ministral-3-8b": (mistral3(), mistral3(), StockNetwork),
    "qwen3-8b": (
        text(Qwen3Config, 2, PADDED, head_dim=8),
        text(Qwen3Config, 28, head_dim=8, tie_word_embeddings=True),
        LeanNetwork,
    ),
    "translategemma-4b": (gemma3(), text(Gemma3TextConfig, 18, head_dim=8), LeanNetwork),
}


def write_model(folder: Path, config: PretrainedConfig) -> PreTrainedModel:
    """Write a tiny model with its tokenizer; a padded one has a token more, as multimodal models have."""
    tokenizer = make_tokenizer()
    if config.get_text_config().vocab_size == PADDED:
        tokenizer.add_tokens(["<image_soft_token>"])
    torch.manual_seed(0)
    model = model_class_of(config)(config).eval()
    model.generation_config.update(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@pytest.mark.filterwarnings("ignore:.* drafts through its stock modules")
@pytest.mark.parametrize("name", sorted(READY))
def test_configuration_gives_a_drafter_that_drafts(name: str, tmp_path: Path) -> None:
    """A layer that the model does not have, or a family that cannot be loaded, would show after hours on a GPU."""
    target_config, sibling_config, network = READY[name]
    named = ["--config", str(CONFIGS / name / "common.yaml"), "--pair", "nl"]
    objects, _ = parse_arguments("finetune", named, "")
    _, given = parse_arguments("publish", named, "")
    shape = next(found for found in objects if isinstance(found, DrafterArguments))
    training = next(found for found in objects if isinstance(found, DrafterTrainingArguments))
    assert training.learning_rate <= 1e-4
    for sibling, targets in SIBLINGS.items():
        if given["target_model"] in targets:
            assert shape.initialization == sibling
    target_model = write_model(tmp_path / "target", target_config)
    options = shape.options() | {"draft_vocabulary": 128}
    if sibling_config is not None:
        write_model(tmp_path / "sibling", sibling_config)
        options["initialization"] = str(tmp_path / "sibling")
    target = Target(given["target_model"], hash_folder(tmp_path / "target"), str(tmp_path / "target"))
    drafter = create_drafter(target, **options, languages="nl")
    depth = shape.num_hidden_layers or sibling_config.num_hidden_layers
    assert (drafter.config.num_hidden_layers, drafter.config.vocab_size) == (
        depth,
        target_config.get_text_config().vocab_size,
    )
    scaled = {"output_dir": str(tmp_path / "drafter"), "max_steps": 1, "max_length": 64, "warmup_steps": 0, **QUIET}
    kept = ("loss_type", "learning_rate", "prompt_window", "lr_scheduler_type")
    arguments = DrafterTrainingArguments(**scaled, **{key: getattr(training, key) for key in kept})
    trainer = DrafterTrainer(drafter, arguments, train_dataset=Dataset.from_list(make_rows(4)))
    before = drafter.get_decoder().layers[0].self_attn.q_proj.weight.clone()
    trainer.train()
    assert not torch.equal(trainer.model.get_decoder().layers[0].self_attn.q_proj.weight, before)
    trainer.save_model()
    loaded = load_drafter(str(tmp_path / "drafter"), target_model, target.load_tokenizer(), follow_clock=False)
    assert isinstance(loop_of(loaded).network, network)
    for assistant in (loaded, with_stock_loop(loaded, 3)):
        check_greedy(target_model, assistant, [[5, 9, 33, 120]], 12)
