"""LoRA adapters from training to publication: over its base, an adapter is the drafter that was trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from drafter_trainer import publish
from drafter_trainer.drafters.adapters import ADAPTER, add_adapter
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.drafters.load import load_drafter
from drafter_trainer.drafters.saving import complete_folder, describe_drafter
from drafter_trainer.errors import InputError
from drafter_trainer.hub.assemble import assemble
from drafter_trainer.languages import get_pair
from drafter_trainer.pipeline.finetune import copy_drafter
from drafter_trainer.runs import Run
from drafter_trainer.targets import Target
from drafter_trainer.training.base import train_to_end
from drafter_trainer.training.trainers import DrafterTrainer
from tests.conftest import make_model
from tests.decoding.lossless import check_greedy
from tests.hub.conftest import NAME, make_drafter
from tests.training.conftest import finetuning_arguments, make_rows
from tests.training.test_trainers import Stop, StoppedError

PROMPT = [9, 33, 120, 7, 250, 61]


def train(base: Path, folder: Path, tokenizer: PreTrainedTokenizerFast, **given: Any) -> dict[str, float]:
    """Train an adapter over a base, over a draft vocabulary, as finetune.py does."""
    settings = {"max_steps": 6, "learning_rate": 1e-2, "lora_rank": 4, "save_strategy": "steps", "save_steps": 2}
    callbacks = given.pop("callbacks", None)
    torch.manual_seed(0)  # the adapter's first weights are drawn
    trainer = DrafterTrainer(
        model=add_adapter(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), 4, 32),
        draft_ids=torch.arange(2, 60),
        args=finetuning_arguments(folder, loss_type="topk_kl", **settings | given),
        train_dataset=Dataset.from_list(make_rows(12)),
        eval_dataset=make_rows(5, seed=1),
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    return train_to_end(trainer)


@pytest.fixture
def base(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, target: Target) -> Path:
    return make_drafter(tmp_path / "base", tokenizer, target)


@pytest.fixture
def trained(tmp_path: Path, base: Path, tokenizer: PreTrainedTokenizerFast, target: Target) -> Path:
    folder = tmp_path / "trained"
    train(base, folder, tokenizer)
    complete_folder(folder, describe_drafter(NAME, target, (), get_pair("de-en")), tokenizer, {})
    return folder


def test_training_changes_the_adapter_alone_and_leaves_a_stock_drafter(base: Path, trained: Path) -> None:
    """Prevent a base that moves, whose other adapters would then fit no more, and a head with the draft ids alone."""
    before, merged = load_file(base / "model.safetensors"), load_file(trained / "model.safetensors")
    assert merged.keys() == before.keys()
    changed = {name for name, weight in before.items() if not torch.equal(weight, merged[name])}
    assert changed == {name for name in before if "_proj" in name}
    adapter = load_file(trained / ADAPTER / "adapter_model.safetensors")
    assert all("lora_" in name for name in adapter)
    checkpoint = trained / "checkpoint-6"
    assert (checkpoint / "adapter_model.safetensors").is_file()
    assert not (checkpoint / "model.safetensors").exists()


def test_a_stopped_adapter_goes_on(tmp_path: Path, base: Path, trained: Path, tokenizer) -> None:
    """Prevent a resume that begins with a fresh adapter, or forgets the optimizer."""
    with pytest.raises(StoppedError):
        train(base, tmp_path / "stopped", tokenizer, callbacks=[Stop(5)])
    train(base, tmp_path / "stopped", tokenizer)
    expected = load_file(trained / "model.safetensors")
    for name, weight in load_file(tmp_path / "stopped" / "model.safetensors").items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0)


def test_a_published_adapter_drafts_as_the_whole_drafter(tmp_path, base, trained, target, tokenizer) -> None:
    """Prevent a drafter that is loaded without its adapter, in silence, and one that needs its weights twice."""
    target_model, places = make_model(tokenizer), {}
    for name, over in (("whole", None), ("adapter", str(base))):
        places[name] = tmp_path / name
        publish(trained, target, places[name], adapter_of=over)
    size = {name: sum(path.stat().st_size for path in place.glob("*.safetensors")) for name, place in places.items()}
    assert size["adapter"] < 0.3 * size["whole"]
    assert DrafterDescription.read(places["adapter"]).adapter_of["drafter"] == "../base"
    drafters = {name: load_drafter(str(place), target_model, tokenizer) for name, place in places.items()}
    ids = torch.tensor([PROMPT])
    with torch.inference_mode():
        said = {name: drafter(input_ids=ids).logits for name, drafter in drafters.items()}
    torch.testing.assert_close(said["adapter"], said["whole"], atol=1e-5, rtol=0)
    check_greedy(target_model, drafters["adapter"], [PROMPT], 12)


def test_an_adapter_is_published_from_the_rounded_copy_of_a_run(tmp_path, base, trained, target, tokenizer) -> None:
    """Prevent the adapter of a run from being refused, or lost, where the target's checkpoint is in bfloat16."""
    make_model(tokenizer).to(torch.bfloat16).save_pretrained(tmp_path / "target")
    tokenizer.save_pretrained(tmp_path / "target")
    rounded, run = Target(target.name, target.revision, str(tmp_path / "target")), Run(NAME, tmp_path, "de-en")
    copy_drafter(trained, run.published, run, rounded)
    assert load_file(run.published / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16
    publish(run.published, rounded, tmp_path / "published", adapter_of=str(base))
    assert (tmp_path / "published" / "adapter_model.safetensors").is_file()
    other = make_drafter(tmp_path / "other", tokenizer, target, seed=4)
    with pytest.raises(InputError, match="was not trained over"):
        publish(run.published, rounded, tmp_path / "published", adapter_of=str(other))


def test_an_adapter_over_another_base_is_refused(tmp_path, base, trained, target, tokenizer) -> None:
    """Prevent an adapter from being published over a drafter that it was not trained with, and an empty repository."""
    other = make_drafter(tmp_path / "other", tokenizer, target, seed=4)
    for drafter, message in ((base, "holds no adapter: finetune with lora_rank"), (trained, "was not trained over")):
        with pytest.raises(InputError, match=message):
            publish(drafter, target, tmp_path / "published", adapter_of=str(other))
    with pytest.raises(InputError, match="is a local folder"):
        assemble(trained, DrafterDescription.read(trained), target, tmp_path / "new", adapter_of=str(base))
    assert not (tmp_path / "published").exists()


def test_a_base_that_has_changed_since_is_refused(tmp_path, base, trained, target, tokenizer) -> None:
    """Prevent an adapter from going over a newer base in silence."""
    place = tmp_path / "published"
    publish(trained, target, place, adapter_of=str(base))
    make_model(tokenizer, layers=1, seed=5).save_pretrained(base)
    with pytest.raises(InputError, match=r"is an adapter of an earlier "):
        load_drafter(str(place), make_model(tokenizer), tokenizer)
