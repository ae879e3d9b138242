"""Publishing to the Hub by the rules: what is refused, what is done once, and what comes back."""

import copy
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from drafter_trainer import publish
from drafter_trainer.distillation.requests import Completion, Request
from drafter_trainer.distillation.store import RowStore
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.hub.destination import Destination
from drafter_trainer.pipeline.publish import publish_rows
from drafter_trainer.runs import Step
from drafter_trainer.targets import Target
from tests.client import run_client
from tests.hub.conftest import NAME, make_drafter, results_for
from tests.hub.test_adapters import train
from tests.loopback_hub import LoopbackHub

REPO = f"alice/{NAME}"
# Taken for planted credentials: whatever is said or published is searched for them.
USERS = {"hf_alice_of_the_tests": "alice", "hf_bob_of_the_tests": "bob"}


def publish_in_turn(target: str, steps: list) -> list:
    """Publish one after the other; say of each what came of it, and which branches and tags there were then."""
    import logging
    import os
    import warnings
    from pathlib import Path

    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    import drafter_trainer.hub.card_folder as card_folder
    import drafter_trainer.hub.push as push
    from drafter_trainer.errors import InputError
    from drafter_trainer.hub.destination import Destination
    from drafter_trainer.pipeline.publish import publish, publish_rows
    from drafter_trainer.targets import Target

    class Notes(logging.Handler):
        def emit(self, record):
            notes.append(record.getMessage())

    logging.getLogger("drafter_trainer").addHandler(Notes())
    look, render = push.read_remote, card_folder.render_card

    def spoil(api, destination):
        remote = look(api, destination)
        remote.files.pop("config.json", None)
        return remote

    api, seen, name = HfApi(), [], "tiny-drafter-de-en"
    for step in steps:
        notes = []
        run = Path(step.pop("run"))
        named = Target(step.pop("target", "tests/tiny-target"), "0", target)
        rows, spoiled, card = step.pop("rows", False), step.pop("spoiled", False), step.pop("card", None)
        os.environ["HF_TOKEN"] = step.pop("token", "hf_alice_of_the_tests")
        push.read_remote = spoil if spoiled else look
        card_folder.render_card = (lambda *_, card=card: card) if card else render
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                if rows:
                    said = str(publish_rows(run / "distill", named, Destination(**step), f"{name}-rows", None))
                else:
                    said = str(publish(run / "drafter", named, results=run, dtype="float32", **step))
        except (InputError, HTTPError) as error:
            said = f"{type(error).__name__}: {error}"
        refs = {}
        repo = step.get("repo_id") or f"alice/{name}{'-rows' if rows else ''}"
        os.environ["HF_TOKEN"] = "hf_alice_of_the_tests"
        if api.repo_exists(repo, repo_type="dataset" if rows else "model"):
            listed = api.list_repo_refs(repo, repo_type="dataset" if rows else "model")
            refs = {ref.name: ref.target_commit for ref in (*listed.branches, *listed.tags)}
        seen.append({"said": said, "refs": refs, "notes": notes, "warnings": [str(note.message) for note in caught]})
    return seen


def make_rows(folder: Path, answer: Sequence[int] = (5, 6, 2), target: str = "tests/tiny-target") -> None:
    given = {"temperatures": [0.0], "pair": "de-en"}
    with Step(folder / "distill", "distill", given, {"target": f"{target}@0"}) as step:
        step.facts["corpora"] = [{"name": "sample"}]
        for split, count in (("train", 5), ("validation", 2)):
            store = RowStore(folder / "distill" / split)
            requests = [
                Request([1, 2, number], 0.0, number, 8, f"{split}-{number}", "sample", "de-en", target, "0")
                for number in range(count)
            ]
            store.write([(request, Completion([*answer], None, None, "stop")) for request in requests], "transformers")
            store.write_dropped([(requests[0], "loop")], "English")
            step.facts[split] = {"prompts": count} | store.count() | {"dropped": dict(store.drops())}


def test_rows_of_a_target_in_a_folder_are_published_under_its_name(tmp_path: Path, target: Target) -> None:
    """Rows say in whose folder their target lay, and are compressed: no search for paths would find that."""
    make_rows(tmp_path / "run", target="/home/somebody/target")
    named = Target("tests/tiny-target", "0", target.path)
    publish_rows(tmp_path / "run" / "distill", named, Destination(to=str(tmp_path / "rows")), f"{NAME}-rows", None)
    published = RowStore(tmp_path / "rows" / "train")
    assert {name for table in published.tables() for name in table["target"].to_pylist()} == {"tests/tiny-target"}
    assert published.count() == RowStore(tmp_path / "run" / "distill" / "train").count()
    assert "tests/tiny-target" in (tmp_path / "rows" / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def story(tmp_path_factory, tokenizer, target) -> Iterator[dict[str, Any]]:
    """A Hub on which a drafter lives through all that publishing knows; what was said at each step."""
    folder = tmp_path_factory.mktemp("story")
    named = Target("tests/tiny-target", "0", target.path)
    first, other, lora, renamed = (folder / name for name in ("first", "other", "lora", "renamed"))
    base = make_drafter(first / "drafter", tokenizer, named)
    make_drafter(other / "drafter", tokenizer, named, seed=8)
    make_drafter(renamed / "drafter", tokenizer, Target("tests/another-target", "0", target.path))
    train(base, lora / "drafter", tokenizer)
    shutil.copy(base / "drafter.json", lora / "drafter")
    make_rows(first)
    make_rows(lora, (5, 7, 2))
    publish(base, named, folder / "published")
    results = results_for(NAME, DrafterDescription.read(folder / "published").fingerprint())
    runs = {"measured": results, "leaking": copy.deepcopy(results)}
    runs["leaking"]["provenance"]["command"] = "bench.py --servers http://alice:swordfish@host:8000"
    for name, values in runs.items():
        shutil.copytree(first, folder / name)
        (folder / name / "results.json").write_text(json.dumps(values), encoding="utf-8")
    measured, leaking = folder / "measured", folder / "leaking"
    steps = {
        "dry": {"run": first, "dry_run": True},
        "card": {"run": first, "card": "---\nlicense: [1]\n---\n"},
        "published": {"run": first},
        "again": {"run": first, "tag": "v1"},
        "branch": {"run": first, "revision": "dry", "dry_run": True},
        "adapter": {"run": lora, "repo_id": "alice/lora", "adapter_of": REPO},
        "measured": {"run": measured},
        "tag": {"run": first, "tag": "v1"},
        "retrained": {"run": other},
        "second": {"run": other, "revision": "v2", "tag": "v2"},
        "pair": {"run": first, "languages": "fr-en"},
        "target": {"run": renamed, "target": "tests/another-target"},
        "foreign": {"run": first, "repo_id": "alice/foreign"},
        "leaking": {"run": leaking, "repo_id": "alice/leaking"},
        "spoiled": {"run": first, "repo_id": "alice/spoiled", "tag": "v1", "spoiled": True},
        "refused": {"run": first, "repo_id": "bob/drafter"},
        "wrong": {"run": first, "repo_id": "alice/other", "token": "hf_wrong_one_of_the_tests"},
        "bobs": {"run": first, "repo_id": "bob/drafter", "token": "hf_bob_of_the_tests"},
        "replaced": {"run": other, "overwrite": True, "tag": "v1", "repo_id": REPO},
        "rows": {"run": first, "rows": True},
        "rows_again": {"run": first, "rows": True},
        "other_rows": {"run": lora, "rows": True},
    }
    with LoopbackHub(folder / "hub", USERS) as hub:
        hub.add_repo("alice/foreign", {"README.md": "mine", "pytorch_model.bin": b"pickle"})
        hub.collectors.discard("bob")
        given = [step | {"run": str(step["run"])} for step in steps.values()]
        seen = run_client(
            hub, folder / "home", publish_in_turn, token="hf_alice_of_the_tests", target=target.path, steps=given
        )
        yield {"hub": hub, "said": dict(zip(steps, seen)), "folder": folder}


@pytest.fixture(scope="module")
def read(story: dict[str, Any], target: Target) -> dict[str, Any]:
    """What somebody else finds in a fresh process with an empty cache."""
    # What alice replaced in the end stands at the tag no more: the base is the commit that the adapter names.
    base = story["said"]["published"]["refs"]["main"]
    return run_client(story["hub"], story["folder"] / "reader", read_all, target=target.path, repo=REPO, base=base)


def test_dry_run_touches_nothing(story: dict[str, Any]) -> None:
    """Whoever looks first must not find that it has happened already."""
    dry = story["said"]["dry"]
    assert dry["said"].startswith(f"dry run, nothing went to {REPO}:\n")
    assert "bytes  model.safetensors" in dry["said"]
    assert dry["refs"] == {}
    assert "dry" not in story["said"]["branch"]["refs"]


def test_malformed_card_leaves_no_repository(story: dict[str, Any]) -> None:
    """Refused after the repository was made, it would leave an empty one."""
    card = story["said"]["card"]
    assert card["said"].startswith(f"InputError: the Hub rejects the card of {REPO}:")
    assert "\n" not in card["said"]
    assert card["refs"] == {}


def test_publishing_again_makes_no_second_commit(story: dict[str, Any]) -> None:
    """Every rerun would move the revision that results name; it tags what is there."""
    said, hub = story["said"], story["hub"]
    assert said["again"]["said"] == said["published"]["said"]
    head = said["published"]["refs"]["main"]
    assert said["again"]["refs"] == {"main": head, "v1": head}
    assert hub.commits(REPO, revision=head) == ["initial commit", "Add the drafter"]


def test_results_need_no_permission(story: dict[str, Any]) -> None:
    """The order is publish, bench, card: the second commit is the normal one."""
    said, hub = story["said"], story["hub"]
    commit = said["measured"]["refs"]["main"]
    assert hub.commits(REPO, revision=commit)[1:] == ["Add the drafter", "Add the benchmark's results"]
    before, after = (hub.files(REPO, revision=said[name]["refs"]["main"]) for name in ("published", "measured"))
    assert after.keys() - before.keys() == {"results.json", "acceptance.png"}
    assert after["acceptance.png"].startswith(b"\x89PNG")
    assert b"![Acceptance by position in the draft](acceptance.png)" in after["README.md"]
    assert {name for name in before if before[name] != after[name]} == {"README.md"}


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("tag", f"the tag v1 of {REPO} is on another version ("),
        ("retrained", f"{REPO} holds another model.safetensors: "),
        ("pair", f"{REPO} holds a drafter for the languages de-en, not fr-en"),
        ("target", f"{REPO} holds a drafter for the target tests/tiny-target, not tests/another-target"),
        ("foreign", "alice/foreign contains pytorch_model.bin and no drafter"),
        ("other_rows", f"datasets/{REPO}-rows holds another train/rows-000-000000.parquet"),
    ],
)
def test_what_would_be_lost_is_refused(story: dict[str, Any], step: str, message: str) -> None:
    """A drafter that users load by name must not become another one in silence."""
    said = story["said"][step]
    assert said["said"].startswith(f"InputError: {message}")
    assert said["said"].endswith("with overwrite")
    if step == "other_rows":
        assert said["refs"] == story["said"]["rows"]["refs"]
    elif step != "foreign":
        assert {name: said["refs"][name] for name in ("main", "v1")} == {
            "main": story["said"]["measured"]["refs"]["main"],
            "v1": story["said"]["published"]["refs"]["main"],
        }
    assert story["hub"].commits("alice/foreign") == ["initial commit", "add files"]


def test_branch_holds_its_own_version_alone(story: dict[str, Any]) -> None:
    """Branched off main it would show main's drafter until its commit, and its results afterwards."""
    said, hub = story["said"]["second"], story["hub"]
    assert said["refs"]["v2"] != said["refs"]["main"] == story["said"]["measured"]["refs"]["main"]
    assert hub.commits(REPO, revision="v2") == ["initial commit", "Add the drafter"]
    assert "results.json" not in hub.files(REPO, revision="v2")


def test_overwriting_replaces_drafter_and_tag(story: dict[str, Any]) -> None:
    """What was asked for in so many words must be done whole: no results of the drafter before."""
    said, hub = story["said"]["replaced"], story["hub"]
    assert said["said"].startswith("published: ")
    assert said["refs"]["main"] == said["refs"]["v1"] != story["said"]["measured"]["refs"]["main"]
    files = hub.files(REPO)
    assert files["model.safetensors"] == hub.files(REPO, revision="v2")["model.safetensors"]
    assert not {"results.json", "acceptance.png"} & files.keys()


def test_what_arrived_otherwise_fails_the_command(story: dict[str, Any]) -> None:
    """A file that the Hub altered would be found by the first user; and no tag may recommend it."""
    said = story["said"]["spoiled"]
    assert said["said"].startswith("InputError: config.json did not arrive unchanged at alice/spoiled")
    assert said["refs"].keys() == {"main"}


def test_credential_in_a_file_is_refused_and_not_shown(story: dict[str, Any]) -> None:
    """A password in the address of a server stands in the command that results record."""
    said = story["said"]["leaking"]
    assert said["said"].startswith("InputError: ")
    assert " contains text that looks like a token" in said["said"]
    assert said["refs"] == {}
    assert "swordfish" not in json.dumps(story["said"])
    hub = story["hub"]
    for (kind, repo), stored in hub.repos.items():
        for commit in stored.commits:
            for name, content in hub.files(repo, kind, commit).items():
                assert not name.endswith((".bin", ".pkl", ".pt")) or repo == "alice/foreign"
                assert b"swordfish" not in content
                assert b"hf_alice_of_the_tests" not in content
    assert "of_the_tests" not in json.dumps(story["said"])


def test_others_repositories_are_refused(story: dict[str, Any]) -> None:
    """A refusal of the Hub must fail the command."""
    assert story["said"]["refused"]["said"].startswith("HfHubHTTPError: ")
    assert story["said"]["refused"]["refs"] == {}
    assert story["said"]["wrong"]["said"].startswith("HfHubHTTPError: ")
    assert ("model", "alice/other") not in story["hub"].repos


def test_collection_gathers_the_drafters_of_a_target(story: dict[str, Any]) -> None:
    """Added twice, or to a second collection, they would be found by nobody."""
    (collection,) = story["hub"].collections.values()
    assert collection["title"] == "Drafters for tiny-target"
    gathered = [(item["id"], item["type"]) for item in collection["items"]]
    assert gathered == [(REPO, "model"), ("alice/lora", "model")]


def test_token_without_the_right_to_collections_is_said(story: dict[str, Any]) -> None:
    """The push has succeeded by then and stands: to fail would be wrong, to be silent too."""
    bobs = story["said"]["bobs"]
    assert bobs["said"].startswith("published: ")
    (note,) = [note for note in bobs["notes"] if "collection" in note]
    assert note.startswith("bob/drafter is published, but in no collection: ")
    assert "\n" not in note


def read_all(target: str, repo: str, base: str) -> dict:
    """Draft with the adapter, which is another drafter than its base; load the rows."""
    import torch
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from drafter_trainer import load_drafter

    model = AutoModelForCausalLM.from_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(repo, revision=base)
    inputs = tokenizer("Guten Tag", return_tensors="pt", return_token_type_ids=False)
    asked = {**inputs, "max_new_tokens": 12, "do_sample": False}
    whole, adapter = load_drafter(repo, model, tokenizer, revision=base), load_drafter("alice/lora", model, tokenizer)
    outputs = [model.generate(**asked, **more) for more in ({}, {"assistant_model": adapter})]
    other, rows = adapter.state_dict(), load_dataset(f"{repo}-rows")
    return {
        "equal": torch.equal(*outputs),
        "moved": any(not torch.equal(weight, other[name]) for name, weight in whole.state_dict().items()),
        "rows": {split: entries.num_rows for split, entries in rows.items()},
        "columns": rows["train"].column_names,
        "ids": rows["train"][0]["response_ids"],
    }


def test_adapter_loads_in_a_fresh_process(story: dict[str, Any], read: dict[str, Any]) -> None:
    """Whoever has nothing but the name must be able to draft with an adapter over its base."""
    files = story["hub"].files("alice/lora")
    assert "adapter_model.safetensors" in files
    assert "model.safetensors" not in files
    assert read["equal"]
    assert read["moved"]


def test_rows_load_as_a_data_set(story: dict[str, Any], read: dict[str, Any]) -> None:
    """Shards of what was dropped have other columns, and one of them would make the whole unreadable."""
    said = story["said"]
    assert said["rows"]["said"].startswith("published: ")
    assert said["rows_again"]["refs"] == said["rows"]["refs"]
    files = story["hub"].files(f"{REPO}-rows", "dataset")
    assert {Path(name).parts[0] for name in files} == {".gitattributes", "README.md", "train", "validation"}
    assert not any("dropped" in name for name in files)
    assert read["rows"] == {"train": 5, "validation": 2}
    assert {"prompt_ids", "response_ids", "topk_ids", "topk_logprobs", "target_revision"} <= set(read["columns"])
    assert read["ids"] == [5, 6, 2]
