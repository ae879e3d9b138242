"""A push over a connection that breaks: the old revision or the new one, and the next try finishes."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from drafter_trainer.targets import Target
from tests.client import run_client
from tests.hub.conftest import make_run
from tests.loopback_hub import LoopbackHub

CUTS = 8
USERS = {"hf_alice_of_the_tests": "alice"}


def push_over_broken_connections(target: str, old: str, new: str, cuts: int) -> list:
    """Publish a new version through a proxy that cuts at points drawn over the whole length, then once more."""
    import json
    import os
    import random
    import shutil
    import time
    import urllib.request

    from tests.cutting_proxy import CuttingProxy

    hub = os.environ["HF_ENDPOINT"]
    proxy = CuttingProxy(hub)
    os.environ["HF_ENDPOINT"] = proxy.endpoint

    from huggingface_hub.errors import HTTPError

    import drafter_trainer.hub.publish as publish_module
    from drafter_trainer.cli.arguments import PublishingArguments, RunArguments
    from drafter_trainer.errors import InputError
    from drafter_trainer.targets import Target

    sleep, time.sleep = time.sleep, lambda seconds: None  # the client waits before it tries again

    made, assemble = {}, publish_module.assemble

    def assemble_once(*given, **options):
        run, folder = given[0].run_folder, given[3]
        if run not in made:
            made[run] = assemble(*given, **options)
            shutil.copytree(folder, f"{run}/made")
        else:
            shutil.copytree(f"{run}/made", folder)
        return made[run]

    publish_module.assemble = assemble_once

    def publish(folder, repo, **given):
        run = RunArguments(pair="de-en", drafter_name="tiny-drafter-de-en", run_folder=folder)
        named = Target("tests/tiny-target", "0", target)
        return publish_module.publish_run(
            run, named, "float32", PublishingArguments(repo_id=repo, check_generation=False, collection=False, **given)
        )

    def head(repo):
        with urllib.request.urlopen(f"{hub}/api/models/{repo}/refs") as reply:
            refs = json.load(reply)
        return {ref["name"]: ref["targetCommit"] for ref in (*refs["branches"], *refs["tags"])}

    chosen, seen = random.Random(6), []
    publish(old, "alice/length")
    proxy.allow(None)
    publish(new, "alice/length", overwrite=True, tag="v1")
    length = proxy.passed
    for number in range(cuts):
        repo, point = f"alice/drafter-{number}", chosen.randrange(length)
        publish(old, repo)
        before = head(repo)
        proxy.allow(point)
        try:
            said = str(publish(new, repo, overwrite=True, tag="v1"))
        except (HTTPError, InputError) as error:
            said = f"{type(error).__name__}: {error}"
        after = head(repo)
        proxy.allow(None)
        publish(new, repo, overwrite=True, tag="v1")
        seen.append({"point": point, "said": said, "before": before, "after": after, "end": head(repo)})
    time.sleep = sleep
    return [length, seen]


def test_push_is_whole_or_not_at_all(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, target: Target) -> None:
    """Weights without their tokenizer, or a tag on half of them, would be loaded by whoever comes next."""
    old, new = make_run(tmp_path / "old", tokenizer), make_run(tmp_path / "new", tokenizer, seed=8)
    with LoopbackHub(tmp_path / "hub", USERS) as hub:
        length, seen = run_client(
            hub,
            tmp_path / "home",
            push_over_broken_connections,
            token="hf_alice_of_the_tests",
            target=target.path,
            old=str(old),
            new=str(new),
            cuts=CUTS,
        )
        expected = hub.files("alice/length", revision="v1")
        assert length > sum(map(len, expected.values()))  # the proxy sees the weights too
        for number, cut in enumerate(seen):
            repo = f"alice/drafter-{number}"
            states = {name: hub.files(repo, revision=cut[name]["main"]) for name in ("before", "after", "end")}
            # The card names its own repository.
            wanted = {
                name: content.replace(b"alice/length", repo.encode()) if name == "README.md" else content
                for name, content in expected.items()
            }
            assert states["end"] == wanted
            assert states["after"] in (states["before"], wanted)
            assert cut["end"] == {"main": cut["end"]["main"], "v1": cut["end"]["main"]}
            assert cut["after"].get("v1") in (None, cut["end"]["main"])
            assert hub.commits(repo) == ["initial commit", "Add the drafter", "Add the drafter"]
            assert "of_the_tests" not in cut["said"]
    changed = sum(cut["after"]["main"] != cut["before"]["main"] for cut in seen)
    assert 0 < changed < CUTS, json.dumps(seen)  # both kinds were met
    assert all(not cut["said"].startswith("published: ") for cut in seen)
