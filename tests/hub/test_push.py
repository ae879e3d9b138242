"""Publishing to the Hub: rejected pushes, repeated pushes, and the published files."""

import copy
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
# Planted credentials: all messages and all published files are searched for them.
USERS = {"hf_alice_of_the_tests": "alice", "hf_bob_of_the_tests": "bob"}


def publish_in_turn(target: str, steps: list) -> list:
    """Publish several times; return the message of each step, its log, and the branches and tags after it."""
    import logging
    import os
    from pathlib import Path

    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    import drafter_trainer.hub.card_folder as card_folder
    import drafter_trainer.hub.push as push
    from drafter_trainer.errors import InputError
    from drafter_trainer.hub.destination import Destination
    from drafter_trainer.pipeline.publish import publish, publish_rows
    from drafter_trainer.targets import Target

    class Log(logging.Handler):
        def emit(self, record):
            log.append(record.getMessage())

    logging.getLogger("drafter_trainer").addHandler(Log())
    read_remote, render_card = push.read_remote, card_folder.render_card

    def without_config(api, destination):
        remote = read_remote(api, destination)
        remote.files.pop("config.json", None)
        return remote

    api, done, name = HfApi(), [], "tiny-drafter-de-en"
    for step in steps:
        log = []
        run = Path(step.pop("run"))
        named = Target(step.pop("target", "tests/tiny-target"), "0", target)
        rows, altered, card = step.pop("rows", False), step.pop("altered", False), step.pop("card", None)
        os.environ["HF_TOKEN"] = step.pop("token", "hf_alice_of_the_tests")
        push.read_remote = without_config if altered else read_remote
        card_folder.render_card = (lambda *_, card=card: card) if card else render_card
        try:
            if rows:
                message = str(publish_rows(run / "distill", named, Destination(**step), f"{name}-rows", None))
            else:
                message = str(publish(run / "drafter", named, results=run, dtype="float32", **step))
        except (InputError, HTTPError) as error:
            message = f"{type(error).__name__}: {error}"
        repo = {"repo_id": step.get("repo_id") or f"alice/{name}{'-rows' if rows else ''}"}
        repo |= {"repo_type": "dataset" if rows else "model"}
        os.environ["HF_TOKEN"] = "hf_alice_of_the_tests"
        refs = api.list_repo_refs(**repo) if api.repo_exists(**repo) else None
        refs = {ref.name: ref.target_commit for ref in (*refs.branches, *refs.tags)} if refs else {}
        done.append({"message": message, "refs": refs, "log": log})
    return done


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
    """Rows name the folder of their target, and are compressed: a search for paths does not find it."""
    make_rows(tmp_path / "run", target="/home/somebody/target")
    named = Target("tests/tiny-target", "0", target.path)
    publish_rows(tmp_path / "run" / "distill", named, Destination(to=str(tmp_path / "rows")), f"{NAME}-rows", None)
    published = RowStore(tmp_path / "rows" / "train")
    assert {name for table in published.tables() for name in table["target"].to_pylist()} == {"tests/tiny-target"}
    assert published.count() == RowStore(tmp_path / "run" / "distill" / "train").count()
    assert "tests/tiny-target" in (tmp_path / "rows" / "README.md").read_text(encoding="utf-8")


class Story(NamedTuple):
    """A Hub after several publications, and the outcome of each step."""

    hub: LoopbackHub
    steps: dict[str, dict[str, Any]]
    folder: Path

    def main(self, step: str) -> str:
        return self.steps[step]["refs"]["main"]


@pytest.fixture(scope="module")
def story(tmp_path_factory, tokenizer, target) -> Iterator[Story]:
    """A drafter, its versions and its rows, published in all ways."""
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
    steps = {
        "dry": {"run": first, "dry_run": True},
        "card": {"run": first, "card": "---\nlicense: [1]\n---\n"},
        "published": {"run": first},
        "again": {"run": first, "tag": "v1"},
        "branch": {"run": first, "revision": "dry", "dry_run": True},
        "adapter": {"run": lora, "repo_id": "alice/lora", "adapter_of": REPO},
        "measured": {"run": folder / "measured"},
        "tag": {"run": first, "tag": "v1"},
        "retrained": {"run": other},
        "second": {"run": other, "revision": "v2", "tag": "v2"},
        "pair": {"run": first, "languages": "fr-en"},
        "target": {"run": renamed, "target": "tests/another-target"},
        "foreign": {"run": first, "repo_id": "alice/foreign"},
        "leaking": {"run": folder / "leaking", "repo_id": "alice/leaking"},
        "altered": {"run": first, "repo_id": "alice/altered", "tag": "v1", "altered": True},
        "forbidden": {"run": first, "repo_id": "bob/drafter"},
        "unknown": {"run": first, "repo_id": "alice/other", "token": "hf_wrong_one_of_the_tests"},
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
        done = run_client(
            hub, folder / "home", publish_in_turn, token="hf_alice_of_the_tests", target=target.path, steps=given
        )
        yield Story(hub, dict(zip(steps, done)), folder)


@pytest.mark.parametrize(
    ("step", "message", "unchanged"),
    [
        ("dry", f"dry run, nothing went to {REPO}:\n", None),
        ("card", f"InputError: the Hub rejects the card of {REPO}:", None),
        ("tag", f"InputError: the tag v1 of {REPO} is on another version (", "measured"),
        ("retrained", f"InputError: {REPO} holds another model.safetensors: ", "measured"),
        ("pair", f"InputError: {REPO} holds a drafter for the languages de-en, not fr-en", "second"),
        ("target", f"InputError: {REPO} holds a drafter for the target tests/tiny-target, not tests/", "second"),
        ("foreign", "InputError: alice/foreign contains pytorch_model.bin and no drafter", "foreign"),
        ("other_rows", f"InputError: datasets/{REPO}-rows holds another train/rows-000-000000.parquet", "rows"),
        ("leaking", "InputError: README.md contains text that looks like a token", None),
        ("forbidden", "HfHubHTTPError: ", None),
        ("unknown", "HfHubHTTPError: ", None),
    ],
)
def test_rejected_push_changes_nothing(story: Story, step: str, message: str, unchanged: str | None) -> None:
    """A drafter that users load by name must not be replaced silently, and an error must leave no empty repository."""
    done = story.steps[step]
    assert done["message"].startswith(message)
    assert "\n" not in done["message"] or not message.startswith("InputError")
    assert done["message"].endswith("with overwrite") == (unchanged is not None)
    assert done["refs"] == (story.steps[unchanged]["refs"] if unchanged else {})
    assert story.hub.commits("alice/foreign") == ["initial commit", "add files"]
    assert "dry" not in story.steps["branch"]["refs"]


def test_publishing_again_makes_no_second_commit(story: Story) -> None:
    """Each rerun would move the revision that results name; it only adds the tag."""
    assert story.steps["again"]["message"] == story.steps["published"]["message"]
    head = story.main("published")
    assert story.steps["again"]["refs"] == {"main": head, "v1": head}
    assert story.hub.commits(REPO, revision=head) == ["initial commit", "Add the drafter"]


def test_results_need_no_permission(story: Story) -> None:
    """A drafter is published, measured, and published again with its card: no overwrite is needed."""
    commit = story.main("measured")
    assert story.hub.commits(REPO, revision=commit)[1:] == ["Add the drafter", "Add the benchmark's results"]
    before, after = (story.hub.files(REPO, revision=story.main(name)) for name in ("published", "measured"))
    assert after.keys() - before.keys() == {"results.json", "acceptance.png"}
    assert after["acceptance.png"].startswith(b"\x89PNG")
    assert b"![Acceptance by position in the draft](acceptance.png)" in after["README.md"]
    assert {name for name in before if before[name] != after[name]} == {"README.md"}


def test_branch_has_only_its_own_version(story: Story) -> None:
    """A branch from main would show main's drafter until its own commit, and main's results after it."""
    refs = story.steps["second"]["refs"]
    assert refs["v2"] != refs["main"] == story.main("measured")
    assert story.hub.commits(REPO, revision="v2") == ["initial commit", "Add the drafter"]
    assert "results.json" not in story.hub.files(REPO, revision="v2")


def test_overwriting_replaces_drafter_and_tag(story: Story) -> None:
    """With overwrite, no results of the earlier drafter may stay."""
    done = story.steps["replaced"]
    assert done["message"].startswith("published: ")
    assert done["refs"]["main"] == done["refs"]["v1"] != story.main("measured")
    files = story.hub.files(REPO)
    assert files["model.safetensors"] == story.hub.files(REPO, revision="v2")["model.safetensors"]
    assert not {"results.json", "acceptance.png"} & files.keys()


def test_altered_upload_is_an_error(story: Story) -> None:
    """The first user would find the altered file, and no tag may recommend it."""
    done = story.steps["altered"]
    assert done["message"].startswith("InputError: the upload of config.json to alice/altered is damaged")
    assert done["refs"].keys() == {"main"}


def test_no_credential_is_published_or_shown(story: Story) -> None:
    """Recorded commands may contain a server's password, and a Trainer pickles its arguments with a token."""
    assert "swordfish" not in json.dumps(story.steps)
    assert "of_the_tests" not in json.dumps(story.steps)
    for (kind, repo), stored in story.hub.repos.items():
        for commit in stored.commits:
            for name, content in story.hub.files(repo, kind, commit).items():
                assert not name.endswith((".bin", ".pkl", ".pt")) or repo == "alice/foreign"
                assert b"swordfish" not in content
                assert b"hf_alice_of_the_tests" not in content


def test_collection_has_the_drafters_of_a_target(story: Story) -> None:
    """Users look for a target's drafters in one collection. Without the right to it, publishing only logs a line."""
    (collection,) = story.hub.collections.values()
    assert collection["title"] == "Drafters for tiny-target"
    assert [(item["id"], item["type"]) for item in collection["items"]] == [(REPO, "model"), ("alice/lora", "model")]
    assert story.steps["bobs"]["message"].startswith("published: ")
    (line,) = [line for line in story.steps["bobs"]["log"] if "collection" in line]
    assert line.startswith("bob/drafter is published, but not in a collection: ")
    assert "\n" not in line


def read_all(target: str, repo: str, base: str) -> dict:
    """Draft with the adapter, which is another drafter than its base, and load the rows."""
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


def test_published_files_load_in_a_fresh_process(story: Story, target: Target) -> None:
    """A user has only the names of the adapter and of the dataset, and an empty cache."""
    # The tag was moved later: the base is the commit that the adapter names.
    base = story.main("published")
    read = run_client(story.hub, story.folder / "reader", read_all, target=target.path, repo=REPO, base=base)
    files = story.hub.files("alice/lora")
    assert "adapter_model.safetensors" in files
    assert "model.safetensors" not in files
    assert read["equal"]
    assert read["moved"]
    # Shards of dropped rows have other columns, and would make the dataset unreadable.
    assert story.steps["rows"]["message"].startswith("published: ")
    assert story.steps["rows_again"]["refs"] == story.steps["rows"]["refs"]
    files = story.hub.files(f"{REPO}-rows", "dataset")
    assert {Path(name).parts[0] for name in files} == {".gitattributes", "README.md", "train", "validation"}
    assert not any("dropped" in name for name in files)
    assert read["rows"] == {"train": 5, "validation": 2}
    assert {"prompt_ids", "response_ids", "topk_ids", "topk_logprobs", "target_revision"} <= set(read["columns"])
    assert read["ids"] == [5, 6, 2]
