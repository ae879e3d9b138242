"""LoRA adapters from training to publication: over its base, an adapter is the drafter that was trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from drafter_trainer.drafters.adapters import ADAPTER, add_adapter
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.drafters.load import load_drafter
from drafter_trainer.errors import InputError
from drafter_trainer.hub.assemble import assemble, parts_of_run
from drafter_trainer.hub.publish import Publishing, publish_run
from drafter_trainer.runs import Step
from drafter_trainer.targets import Target
from drafter_trainer.training.base import train_to_end
from drafter_trainer.training.trainers import DrafterTrainer
from tests.conftest import make_model
from tests.decoding.lossless import check_greedy
from tests.hub.conftest import make_run
from tests.hub.test_publish import arguments
from tests.training.conftest import finetuning_arguments, make_rows
from tests.training.test_trainers import Stop, StoppedError

PROMPT = [9, 33, 120, 7, 250, 61]


def make_base(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int = 3) -> Path:
    return make_run(folder / "run", tokenizer, seed) / "finetune"


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
def run_folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    base, folder = make_base(tmp_path / "base", tokenizer), tmp_path / "run"
    with Step(folder / "finetune", "finetune", {"lora_rank": 4}, {}):
        train(base, folder / "finetune", tokenizer)
    return folder


def test_training_changes_the_adapter_alone_and_leaves_a_stock_drafter(tmp_path: Path, run_folder: Path) -> None:
    """Prevent a base that moves, whose other adapters would then fit no more, and a head with the draft ids alone."""
    base = load_file(tmp_path / "base" / "run" / "finetune" / "model.safetensors")
    merged = load_file(run_folder / "finetune" / "model.safetensors")
    assert merged.keys() == base.keys()
    changed = {name for name, weight in base.items() if not torch.equal(weight, merged[name])}
    assert changed == {name for name in base if "_proj" in name}
    adapter = load_file(run_folder / "finetune" / ADAPTER / "adapter_model.safetensors")
    assert all("lora_" in name for name in adapter)
    checkpoint = run_folder / "finetune" / "checkpoint-6"
    assert (checkpoint / "adapter_model.safetensors").is_file()
    assert not (checkpoint / "model.safetensors").exists()


def test_a_stopped_adapter_goes_on(tmp_path: Path, run_folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Prevent a resume that begins with a fresh adapter, or forgets the optimizer."""
    base = tmp_path / "base" / "run" / "finetune"
    with pytest.raises(StoppedError):
        train(base, tmp_path / "stopped", tokenizer, callbacks=[Stop(5)])
    train(base, tmp_path / "stopped", tokenizer)
    expected = load_file(run_folder / "finetune" / "model.safetensors")
    for name, weight in load_file(tmp_path / "stopped" / "model.safetensors").items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0)


def test_a_published_adapter_drafts_as_the_whole_drafter(
    tmp_path: Path, run_folder: Path, target: Target, target_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Prevent a drafter that is loaded without its adapter, in silence, and one that needs its weights twice."""
    base = tmp_path / "base" / "run" / "finetune"
    places = {}
    for name, over in (("whole", None), ("adapter", str(base))):
        places[name] = tmp_path / name
        publish_run(arguments(run_folder), target, "float32", Publishing(to=str(places[name]), adapter_of=over))
    size = {name: sum(path.stat().st_size for path in place.glob("*.safetensors")) for name, place in places.items()}
    assert size["adapter"] < 0.3 * size["whole"]
    assert DrafterDescription.read(places["adapter"]).adapter_of["drafter"] == "../base/run/finetune"
    drafters = {name: load_drafter(str(place), target_model, tokenizer) for name, place in places.items()}
    ids = torch.tensor([PROMPT])
    with torch.inference_mode():
        said = {name: drafter(input_ids=ids).logits for name, drafter in drafters.items()}
    torch.testing.assert_close(said["adapter"], said["whole"], atol=1e-5, rtol=0)
    check_greedy(target_model, drafters["adapter"], [PROMPT], 12)


def test_an_adapter_over_another_base_is_refused(tmp_path, run_folder, target, tokenizer) -> None:
    """Prevent an adapter from being published over a drafter that it was not trained with, and an empty repository."""
    other = make_base(tmp_path / "other", tokenizer, seed=4)
    publishing = Publishing(to=str(tmp_path / "published"), adapter_of=str(other))
    with pytest.raises(InputError, match=r"holds no adapter: finetune with lora_rank"):
        publish_run(arguments(other.parent), target, "float32", publishing)
    with pytest.raises(InputError, match="was not trained over"):
        publish_run(arguments(run_folder), target, "float32", publishing)
    parts = parts_of_run(arguments(run_folder), target)
    with pytest.raises(InputError, match="is a folder, which nobody else has"):
        assemble(parts, target, tmp_path / "new", str(tmp_path / "base" / "run" / "finetune"))
    assert not (tmp_path / "published").exists()


def test_a_base_that_has_changed_since_is_refused(tmp_path, run_folder, target, target_model, tokenizer) -> None:
    """Prevent an adapter from going over a newer base in silence."""
    base, place = tmp_path / "base" / "run" / "finetune", tmp_path / "published"
    publish_run(arguments(run_folder), target, "float32", Publishing(to=str(place), adapter_of=str(base)))
    make_model(tokenizer, layers=1, seed=5).save_pretrained(base)
    with pytest.raises(InputError, match=r"is an adapter of .* as it was before"):
        load_drafter(str(place), target_model, tokenizer)
