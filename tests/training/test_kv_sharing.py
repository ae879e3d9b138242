"""Training with the target's own keys and values: a drafter reads what it will read when it drafts."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset

from benchmarks.studies import replay_at_fixed_length
from drafter_trainer import DrafterTrainer, create_drafter
from drafter_trainer.decoding.target_cache import TargetTexts
from drafter_trainer.drafters.loop.calls import CACHE
from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target
from drafter_trainer.training.collators import IGNORED, SelfDistilledCollator
from drafter_trainer.training.kv_sharing import DRAFTED, TargetReader, keep_windows, share_keys
from tests.decoding.drafts import partly_agreeing
from tests.training.conftest import BY_HEART, finetuning_arguments, make_rows

LAYERS = [0, 1, 2, 3]


def collate(rows: list[dict], window: int | None = None) -> dict[str, torch.Tensor]:
    return SelfDistilledCollator(0, 128, window)(rows)


@pytest.mark.parametrize("beginning", [0, 40], ids=["nothing in common", "a common beginning"])
def test_a_drafter_is_trained_on_what_it_drafts_from(target_model, beginning: int) -> None:
    """Prevent training with other keys, at other positions or in other drafts than in use."""
    rows = make_rows(6, seed=3)
    for row in rows:
        row["prompt_ids"] = [*range(60, 60 + beginning), *row["prompt_ids"]]
    drafter, reader = partly_agreeing(target_model, 0.015), TargetReader(target_model, LAYERS)
    drafter.config.kv_sharing_layers = LAYERS
    network, texts = LeanNetwork(drafter), TargetTexts(target_model)
    for offset in (0, 2):
        for _ in range(2):  # the second time beginnings are known
            batch = share_keys(collate(rows), reader, torch.full((len(rows),), offset))
        read = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids", CACHE)}
        with torch.inference_mode():
            logits = drafter(**read, use_cache=False).logits
        for row, found, labels in zip(rows, logits, batch["labels"]):
            prompt, response = row["prompt_ids"], row["response_ids"]
            assert labels[labels != IGNORED].tolist() == response
            text = texts.read(network, [*prompt, *response])
            for place in range(len(response)):
                first = max(0, (place + offset) // DRAFTED * DRAFTED - offset)
                verified = len(prompt) - 1 + first
                network.crop(0)
                if verified:
                    assert network.share(text.first(verified), 0, verified)
                expected = network.read([*prompt, *response][verified : len(prompt) + place])
                torch.testing.assert_close(found[place], expected, atol=1e-4, rtol=0)


def test_windows_are_those_of_the_collator() -> None:
    """Prevent training without the target's keys on other tokens than in use."""
    rows = make_rows(6, seed=4)
    kept, expected = keep_windows(collate(rows), 5), collate(rows, 5)
    real = expected["attention_mask"].bool()
    for name in ("attention_mask", "labels"):
        assert torch.equal(kept[name], expected[name])
    for name in ("input_ids", "topk_ids", "topk_logprobs"):
        assert torch.equal(kept[name][real], expected[name][real])


def test_a_drafter_learns_to_draft_with_the_targets_keys(tmp_path, target) -> None:
    """Prevent a trainer that saves a drafter without what it was trained with, or whose drafter does not draft so."""
    rows = [row for row in make_rows(12, seed=2) if len(row["response_ids"]) > 8][:4]
    drafter = create_drafter(target, layers=[0, 1])
    given = BY_HEART | {"max_steps": 120, "prompt_window": 4, "loss_type": "topk_kl"}
    arguments, dataset = finetuning_arguments(tmp_path, kv_sharing_layers=[2, 3], **given), Dataset.from_list(rows)
    trainer = DrafterTrainer(drafter, arguments, train_dataset=dataset, eval_dataset=dataset)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 1
    trainer.save_model()
    loaded = LeanNetwork(type(drafter).from_pretrained(tmp_path).eval())
    assert loaded.kv_sharing_layers == [2, 3]
    completions = [(row["prompt_ids"], row["response_ids"]) for row in rows]
    tokens = sum(len(completion) for _, completion in completions)
    rounds = replay_at_fixed_length(loaded, completions, 4, target=TargetTexts(target.load_model("float32")))
    assert len(rounds) < tokens / 3
    loaded.kv_sharing_layers = None  # and without the target
    assert len(replay_at_fixed_length(loaded, completions, 4)) < tokens / 2


def test_drafters_that_cannot_share_are_rejected(tmp_path: Path, target: Target) -> None:
    """Prevent a training that ends in its first step, or a drafter that no cache fits."""
    rows = Dataset.from_list(make_rows(4))
    drafter, capped = (create_drafter(target, layers=[0, 1]) for _ in range(2))
    capped.config.attn_logit_softcapping = 30.0
    for model, layers, given, message in (
        (drafter, [0], {}, "names 1 layers, the drafter has 2"),
        (drafter, [0, 4], {}, "must be 0 to 3"),
        (drafter, [0, 1], {"activation_checkpointing": True}, "activation_checkpointing cannot be combined with kv_s"),
        (capped, [0, 1], {}, "its logits are capped"),
        (create_drafter(target, "scratch", num_key_value_heads=1), [0, 1], {}, "num_key_value_heads"),
        (type(drafter)(drafter.config), [0, 1], {}, "create_drafter"),
    ):
        arguments = finetuning_arguments(tmp_path, kv_sharing_layers=layers, **given)
        with pytest.raises(InputError, match=message):
            DrafterTrainer(model, arguments, train_dataset=rows)


def test_a_drafter_goes_on_sharing(tmp_path: Path, target: Target) -> None:
    """Prevent a further training, as adapt does it, from taking from a drafter what it has learned to read."""
    drafter = create_drafter(target, layers=[0, 1])
    drafter.config.kv_sharing_layers = [2, 3]
    rows = Dataset.from_list(make_rows(8))
    trainer = DrafterTrainer(drafter, finetuning_arguments(tmp_path, max_steps=1), train_dataset=rows)
    batch = trainer.prepare(next(iter(trainer.get_train_dataloader())), training=False)
    assert CACHE in batch
    trainer.train()
    assert drafter.config.kv_sharing_layers == [2, 3]
