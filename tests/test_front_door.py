"""The library as a newcomer types it: five lines from prompts to a published drafter, and what a Trainer promises."""

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainingArguments,
)

import drafter_trainer
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.drafters.loop.build import read_vocabulary
from drafter_trainer.errors import InputError
from drafter_trainer.training.rows import Rows
from tests.client import run_client
from tests.conftest import make_model
from tests.decoding.lossless import check_greedy
from tests.loopback_hub import LoopbackHub
from tests.training.conftest import QUIET, datasets_cache, make_draft_model, make_rows

__all__ = ["datasets_cache"]  # a fixture, for pytest to find

DUTCH = [
    [{"role": "system", "content": "Je bent een behulpzame assistent."}, {"role": "user", "content": f"Vraag {n}?"}]
    for n in range(24)
]
FAST = {"use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False, "report_to": []}
ROWS = {"max_new_tokens": 8, "batch_size": 8}
BRIEF = {"longest_draft": 4, "repeats": 2, "table_bytes": 1 << 16}  # of tuning


@pytest.fixture(scope="module")
def named(target_folder: Path) -> str:
    return str(target_folder)


@pytest.fixture
def other_target(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A target with other weights and the same tokenizer."""
    make_model(tokenizer, seed=9).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, named: str) -> Rows:
    folder = tmp_path_factory.mktemp("rows") / "rows"
    chats = datasets.Dataset.from_dict({"messages": DUTCH})
    return drafter_trainer.distill(named, chats, temperatures=[0.0, 1.0], output_dir=folder, languages="nl", **ROWS)


# The package


def test_importing_the_package_takes_no_time_and_needs_no_extra() -> None:
    """Asking for the version would wait for torch; `pip install .` brings no extra, and every import would fail."""
    code = (
        "import importlib.util, sys, drafter_trainer; assert not {'torch', 'transformers'} & sys.modules.keys()\n"
        "find, absent = importlib.util.find_spec, ('peft', 'matplotlib', 'sacrebleu', 'py3langid')\n"
        "sys.modules.update(dict.fromkeys(absent))\n"
        "importlib.util.find_spec = lambda name, *more: None if name in absent else find(name, *more)\n"
        "import drafter_trainer.benchmark.summary\n"  # a subpackage would stand in a function's place
        "from drafter_trainer import *\n"
        "assert all(callable(getattr(drafter_trainer, name)) for name in drafter_trainer.__all__)\n"
        "import drafter_trainer.hub.card_folder, drafter_trainer.benchmark.page, drafter_trainer.benchmark.quality\n"
        "from drafter_trainer.drafters.adapters import add_adapter\n"
        "try: add_adapter(None, 4, 8)\n"
        "except ValueError as error: assert 'pip install \"drafter_trainer[lora]\"' in str(error), error\n"
        "else: raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (Path(drafter_trainer.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'no_such_thing'"):
        _ = drafter_trainer.no_such_thing


# Rows


def test_chats_are_completed_behind_the_users_last_message(rows, tokenizer) -> None:
    """A system's words that are lost, or an answer of the dataset in the prompt, would make rows of other chats."""
    assert len(rows) == rows.train.num_rows
    assert len(rows) + rows.validation.num_rows == 2 * len(DUTCH)
    texts = {tokenizer.decode(ids) for ids in rows.train["prompt_ids"]}
    assert all(text.startswith("<|system|>Je bent") and text.endswith("<|assistant|>") for text in texts)
    assert [language.code for language in rows.languages] == ["nl"]
    assert rows.record["train"]["rows"] == len(rows)
    assert Rows.open(rows.path) == rows


@pytest.mark.parametrize("kind", ["texts", "file", "prompts", "splits"])
def test_prompts_are_anybodys(tmp_path: Path, named: str, tokenizer, kind: str) -> None:
    """Whoever has prompts in another form would have to write code before anything works."""
    texts = [f"Hoe laat is het op plaats {n}?" for n in range(8)]
    given = {
        "texts": texts,
        "prompts": datasets.Dataset.from_dict({"prompt": texts}),
        "splits": {"train": [{"prompt": text} for text in texts[2:]], "test": texts[:2]},
        "file": tmp_path / "prompts.txt",
    }[kind]
    (tmp_path / "prompts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    rows = drafter_trainer.distill(named, given, temperatures=[0.0], output_dir=tmp_path / "rows", **ROWS)
    splits = [{tokenizer.decode(ids) for ids in split["prompt_ids"]} for split in (rows.train, rows.validation)]
    assert splits[0].isdisjoint(splits[1])
    assert splits[0] | splits[1] == {f"<|user|>{text}<|end|><|assistant|>" for text in texts}


def test_what_is_no_prompt_is_refused_in_the_callers_words(tmp_path: Path, named: str) -> None:
    """A library's user has no command line to be sent to."""
    given = {"output_dir": tmp_path / "rows", "temperatures": [0.0], **ROWS}
    (tmp_path / "broken.csv").write_bytes(b"prompt\n\xff\xfe\n")
    for prompts, said in (
        ([{"question": "Hoe?"}], "row 0: expected a column prompt or messages"),
        ({"test": ["Hoe?"]}, "need a split called train"),
        ("no/such file", "neither a file nor a Hub id of a dataset"),
        ("nothing.jsonl", "^nothing.jsonl: no such file: give an existing file, or the Hub id of a dataset$"),
        ([], "^list has no prompts: give at least one prompt$"),
        (tmp_path / "broken.csv", "broken.csv cannot be read as CSV"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            drafter_trainer.distill(named, prompts, **given)
        assert "--" not in str(caught.value)
    for name in ("samples", "max_new_tokens", "batch_size"):
        with pytest.raises(InputError, match=f"{name} must be at least 1, got 0"):
            drafter_trainer.distill(named, ["Hoe?"], **given | {name: 0})
    with pytest.raises(InputError, match=r"temperatures must be a list, such as \[0.7\], got 0.7"):
        drafter_trainer.distill(named, ["Hoe?"], **given | {"temperatures": 0.7})
    with pytest.raises(InputError, match="unknown question set wmt99: expected sample, wmt14"):
        drafter_trainer.distill(named, ["Hoe?"], evaluation_questions=["wmt99"], **given)


# The five lines


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, named: str, rows: Rows) -> drafter_trainer.DrafterTrainer:
    """A trainer that has trained a drafter and saved it to its output folder."""
    drafter = drafter_trainer.create_drafter(named, num_hidden_layers=1, languages="nl", draft_vocabulary=128)
    folder = tmp_path_factory.mktemp("trained") / "drafter"
    arguments = drafter_trainer.DrafterTrainingArguments(folder, num_train_epochs=1, **FAST)
    trainer = drafter_trainer.DrafterTrainer(drafter, arguments, train_dataset=rows)
    trainer.train()
    trainer.save_model()
    return trainer


@pytest.fixture
def saved(trained: drafter_trainer.DrafterTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the trained drafter's folder, which a test may change, as the trainer's output folder."""
    folder = shutil.copytree(trained.args.output_dir, tmp_path / "drafter")
    monkeypatch.setattr(trained.args, "output_dir", str(folder))
    return folder


def test_save_model_leaves_a_drafter_that_loads_and_drafts(trained, target_model, tokenizer) -> None:
    """A head over the draft vocabulary alone, or a missing tokenizer, would only show where the drafter is used."""
    folder = Path(trained.args.output_dir)
    stock = AutoModelForCausalLM.from_pretrained(folder)
    assert stock.get_output_embeddings().weight.shape[0] == len(tokenizer)
    assert stock.config.use_cache
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()
    description = DrafterDescription.read(folder)
    assert (description.pair, description.languages, description.name) == ("", ["nl"], "tiny-target-drafter-nl")
    assert description.training["finetune"]["draft_vocabulary"] == 128
    assert description.training["finetune"]["eval_expected_alpha"] > 0
    assert description.training["distill"]["train"]["rows"] == len(trained.rows)
    drafter = drafter_trainer.load_drafter(str(folder), target_model, tokenizer)
    for each in (drafter, AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)):
        check_greedy(target_model, each)
    # A checkpoint of the Trainer is a stock model too.
    checkpoint = AutoModelForCausalLM.from_pretrained(next(folder.glob("checkpoint-*")))
    assert checkpoint.get_output_embeddings().weight.shape[0] == len(tokenizer)


def test_a_folder_is_published_without_a_run(saved: Path, tmp_path: Path, named, target_model, tokenizer) -> None:
    """Publishing must need a folder and a target, and no file that only a script of ours writes."""
    to = tmp_path / "published"
    drafter_trainer.publish(saved, named, to)
    card = (to / "README.md").read_text(encoding="utf-8")
    assert "when it responds in Dutch" in card
    assert "language:\n- nl\n" in card
    assert not list(to.glob("*.bin"))
    assert str(tmp_path) not in card + (to / "drafter.json").read_text(encoding="utf-8")
    drafter_trainer.load_drafter(str(to), target_model, tokenizer)
    (saved / "drafter.json").unlink()
    with pytest.raises(InputError, match="does not state the drafter's target") as caught:
        drafter_trainer.publish(saved, to=to)
    assert "--" not in str(caught.value)
    with pytest.raises(InputError, match=r"nowhere has no drafter: give the output folder of a trainer or of tune"):
        drafter_trainer.publish(tmp_path / "nowhere", to=to)


@pytest.mark.parametrize("form", ["stock", "compact"])
def test_a_published_drafter_is_adapted_to_a_finetuned_target(
    form, tmp_path, named, rows, tokenizer, other_target, monkeypatch
) -> None:
    """The drafter of a finetuned target would be made from nothing, or learn from the completions of the old one."""
    monkeypatch.setattr("drafter_trainer.pipeline.adapt.tune", functools.partial(drafter_trainer.tune, **BRIEF))
    first = drafter_trainer.create_drafter(
        named, num_hidden_layers=1, languages="nl", draft_vocabulary=128, freeze_embeddings=True
    )
    arguments = drafter_trainer.DrafterTrainingArguments(tmp_path / "drafter", num_train_epochs=1, **FAST)
    drafter_trainer.DrafterTrainer(first, arguments, train_dataset=rows).save_model()
    drafter_trainer.publish(tmp_path / "drafter", named, tmp_path / "published", format=form)
    prompts = [f"Wat is {number} plus {number}?" for number in range(24)]
    given = (tmp_path / "published", str(other_target), prompts, tmp_path / "adapted")
    found = drafter_trainer.adapt(*given, max_new_tokens=8, arguments=arguments)
    assert found.drafter == tmp_path / "adapted" / "drafter"
    assert DrafterDescription.read(found.drafter).languages == ["nl"]
    finetuned = AutoModelForCausalLM.from_pretrained(other_target)
    check_greedy(finetuned, drafter_trainer.load_drafter(str(found.drafter), finetuned, tokenizer))
    arguments.learning_rate = 1.0
    with pytest.raises(InputError, match="was made with other settings"):  # whose checkpoints would be taken for these
        drafter_trainer.adapt(*given, max_new_tokens=8, arguments=arguments)


def test_the_drafter_of_another_target_is_not_published(trained, tmp_path: Path, other_target: Path) -> None:
    """A drafter of another checkpoint's completions would be published under the wrong name."""
    with pytest.raises(InputError, match="was trained for"):
        drafter_trainer.publish(trained.args.output_dir, str(other_target), tmp_path / "published")
    drafter = drafter_trainer.create_drafter(str(other_target), num_hidden_layers=1)
    with pytest.raises(InputError, match="learns only from its own target's completions"):
        drafter_trainer.DrafterTrainer(drafter, train_dataset=trained.rows)


# What a Trainer promises


def make(folder: Path, given: list[dict], arguments: TrainingArguments | None = None, **more):
    return drafter_trainer.DrafterTrainer(
        make_draft_model(),
        arguments or drafter_trainer.DrafterTrainingArguments(folder, **QUIET, max_steps=2),
        train_dataset=datasets.Dataset.from_list(given),
        **more,
    )


def bare(count: int, seed: int = 0) -> list[dict]:
    """Rows without the target's top k, as another tool calls their columns."""
    return [{"prompt_ids": row["prompt_ids"], "completion_ids": row["response_ids"]} for row in make_rows(count, seed)]


def test_plain_arguments_and_rows_without_top_k_train(tmp_path: Path) -> None:
    """Whoever knows the Trainer passes `TrainingArguments` and a dataset, and must not meet an AttributeError."""

    class Count(TrainerCallback):
        steps = 0

        def on_step_end(self, *_, **__) -> None:
            Count.steps += 1

    arguments = TrainingArguments(tmp_path, max_steps=3, per_device_train_batch_size=2, learning_rate=1e-3, **FAST)
    held_out = datasets.Dataset.from_list(bare(3, seed=1))
    trainer = make(tmp_path, bare(8), arguments, eval_dataset=held_out, callbacks=[Count()])
    trainer.train()
    assert Count.steps == trainer.state.global_step == 3
    assert trainer.args.learning_rate == 1e-3
    metrics = trainer.evaluate()
    assert 0 <= metrics["eval_accuracy"] <= 1
    assert "eval_expected_alpha" not in metrics
    trainer.save_model()
    AutoModelForCausalLM.from_pretrained(tmp_path)


def test_a_loss_that_reads_the_top_k_says_that_there_is_none(tmp_path: Path) -> None:
    """The first step would end in a KeyError."""
    arguments = drafter_trainer.DrafterTrainingArguments(tmp_path, loss_type="topk_kl", **QUIET)
    with pytest.raises(InputError, match="loss_type topk_kl needs the target's log-probabilities") as caught:
        make(tmp_path, bare(4), arguments)
    assert "--" not in str(caught.value)
    with pytest.raises(InputError, match="lacks prompt_ids, response_ids"):
        make(tmp_path, [{"text": "nothing"}])


def test_without_held_out_rows_nothing_is_evaluated(tmp_path: Path) -> None:
    """Defaults that evaluate every epoch would refuse a dataset without a validation split."""
    arguments = drafter_trainer.DrafterTrainingArguments(tmp_path, num_train_epochs=1, **FAST)
    trainer = make(tmp_path, make_rows(4), arguments)
    trainer.train()
    assert not any("eval_loss" in entry for entry in trainer.state.log_history)


def test_training_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    """`resume_from_checkpoint=True` must find a head of the size that it saved."""
    values = QUIET | {"save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-2, "draft_vocabulary": 30}

    def start(name: str) -> drafter_trainer.DrafterTrainer:
        arguments = drafter_trainer.DrafterTrainingArguments(tmp_path / name, **values, max_steps=4)
        return make(tmp_path / name, make_rows(8), arguments)

    whole = start("whole")
    whole.train()
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "part" / "checkpoint-2")
    again = start("part")
    again.train(resume_from_checkpoint=True)
    for trainer in (whole, again):
        trainer.save_model()
    expected = load_file(tmp_path / "whole" / "model.safetensors")
    for name, weight in load_file(tmp_path / "part" / "model.safetensors").items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0)


def test_text_is_packed_by_the_pretraining_trainer(tmp_path: Path, named: str) -> None:
    """Pretraining must not need a file that only a script of ours packs."""
    texts = datasets.Dataset.from_dict({"text": [f"De trein van {hour} uur vertrekt later." for hour in range(40)]})
    drafter = drafter_trainer.create_drafter(named, "scratch", num_hidden_layers=1, hidden_size=16)
    arguments = drafter_trainer.PretrainingArguments(tmp_path, max_length=32, max_steps=2, **QUIET)
    trainer = drafter_trainer.PretrainingTrainer(drafter, arguments, train_dataset=texts)
    assert {len(row["input_ids"]) for row in trainer.train_dataset} == {32}
    trainer.train()
    trainer.save_model()
    again = drafter_trainer.create_drafter(named, str(tmp_path))
    assert again.drafter_setup.training["pretrain"]["max_steps"] == 2


# From prompts to the Hub and back


def five_lines(target: str, folder: str) -> dict:
    """The five lines as the README has them, and what comes back from the Hub."""
    import torch
    from datasets import Dataset
    from huggingface_hub import HfApi
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from drafter_trainer import DrafterTrainer, DrafterTrainingArguments, create_drafter, distill, load_drafter

    chats = [[{"role": "user", "content": f"Hoe laat vertrekt trein {number}?"}] for number in range(24)]
    dataset = Dataset.from_dict({"messages": chats})
    fast = {"use_cpu": True, "num_train_epochs": 1, "report_to": []}

    rows = distill(
        target, prompts=dataset, temperatures=[0.0, 0.7], output_dir=f"{folder}/rows", max_new_tokens=8, languages="nl"
    )
    drafter = create_drafter(target, num_hidden_layers=1, languages="nl")
    trainer = DrafterTrainer(drafter, DrafterTrainingArguments(f"{folder}/nl", **fast), train_dataset=rows)
    trainer.train()
    trainer.push_to_hub("alice/tiny-target-drafter-nl")

    model = AutoModelForCausalLM.from_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(target)
    inputs = tokenizer.apply_chat_template(chats[0], add_generation_prompt=True, return_dict=True, return_tensors="pt")
    drafter = load_drafter("alice/tiny-target-drafter-nl", model)
    plain, assisted = (
        model.generate(**inputs, max_new_tokens=12, do_sample=False, **more)
        for more in ({}, {"assistant_model": drafter})
    )
    return {
        "equal": torch.equal(plain, assisted),
        "files": sorted(HfApi().list_repo_files("alice/tiny-target-drafter-nl")),
        "revision": HfApi().model_info(target).sha,
    }


def test_the_five_lines_end_on_the_hub(tmp_path: Path, target_folder: Path) -> None:
    """What a newcomer types must work as it stands: no folder of ours, no option, no step in between."""
    with LoopbackHub(tmp_path / "hub", {"hf_alice": "alice"}) as hub:
        files = {path.name: path.read_bytes() for path in target_folder.iterdir() if path.is_file()}
        hub.add_repo("alice/tiny-target", files | {"README.md": "---\nlicense: gemma\n---\n"})
        given = {"target": "alice/tiny-target", "folder": str(tmp_path)}
        said = run_client(hub, tmp_path / "home", five_lines, token="hf_alice", **given)
        published = hub.files("alice/tiny-target-drafter-nl")
    assert said["equal"]
    description = json.loads(published["drafter.json"])
    assert (description["target"], description["target_revision"]) == ("alice/tiny-target", said["revision"])
    assert (description["languages"], description["pair"]) == (["nl"], "")
    assert b"license: gemma\n" in published["README.md"]
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(said["files"])
    assert not any(name.endswith((".bin", ".pt", ".pth")) or "checkpoint" in name for name in said["files"])


def test_a_drafter_is_tuned_measured_and_published_with_its_numbers(trained, saved, tmp_path, named: str) -> None:
    """Each step takes what the one before left, and the card must hold what was measured of this very drafter."""
    folder = saved
    kept = read_vocabulary(folder / "draft_vocabulary.safetensors", 400)
    for _ in range(2):  # once more, it starts from the vocabulary that the network was trained with
        tuned = drafter_trainer.tune(folder, trained.rows, named, **BRIEF)
        again = read_vocabulary(folder / "tuning" / "draft_vocabulary.safetensors", 400)
        assert torch.equal(again, kept)
    assert tuned.drafter == folder
    assert tuned.trials
    assert DrafterDescription.read(folder).loop == tuned.settings.to_dict()
    asked = [{"prompt": f"Hoe laat is het op plaats {number}?"} for number in range(3)]
    given = {"temperatures": [0.0], "max_new_tokens": 8}
    results = drafter_trainer.benchmark(folder, named, asked, **given)
    assert [method["name"] for method in results["runs"][0]["methods"]] == ["plain", "prompt lookup", "drafter"]
    assert results["runs"][0]["pair"] == "nl-nl"
    with pytest.raises(InputError, match="two methods are called drafter: name each once"):
        drafter_trainer.benchmark(folder, named, asked, against={"drafter": str(folder)}, output_dir=tmp_path, **given)
    before = (folder / "results.json").stat().st_mtime_ns
    assert drafter_trainer.benchmark(folder, named, asked, **given)["provenance"]["date"]
    assert (folder / "results.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="was tuned, and to save it again would undo that: call publish"):
        trained.push_to_hub()
    drafter_trainer.publish(folder, named, tmp_path / "published")
    card = (tmp_path / "published" / "README.md").read_text(encoding="utf-8")
    assert "Not measured yet" not in card
    assert "| Dutch" in card
    assert (tmp_path / "published" / "results.json").is_file()
    trained.save_model()  # other weights: what tuning kept of the earlier ones must not be taken for theirs
    assert not (folder / "tuning").exists()
