"""A push over a line that breaks: the old revision or the new one, and the next try finishes."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from drafter_trainer.hub.publish import publish_run
from drafter_trainer.hub.publishing import Publishing
from drafter_trainer.runs import Run
from drafter_trainer.targets import Target
from tests.client import run_client
from tests.hub.conftest import make_run
from tests.loopback_hub import LoopbackHub

REPO = "alice/drafter"
USERS = {"hf_alice_of_the_tests": "alice"}


def publish_over_broken_lines(target: str, revision: str, old: str, new: str) -> list:
    """Publish a new version over a line that breaks after ever more requests, and once more each time."""
    import json
    import os
    import time
    import urllib.request
    from pathlib import Path

    from huggingface_hub.errors import HTTPError

    from drafter_trainer.errors import InputError
    from drafter_trainer.hub.assemble import parts_of_folder
    from drafter_trainer.hub.publish import publish_drafter
    from drafter_trainer.hub.publishing import Publishing
    from drafter_trainer.targets import Target

    time.sleep = lambda seconds: None  # the client waits before it tries again

    def ask(path):
        with urllib.request.urlopen(f"{os.environ['HF_ENDPOINT']}/api/{path}") as reply:
            return json.load(reply)

    def publish(made, **given):
        where = Publishing(repo_id="alice/drafter", check_generation=False, collection=False, **given)
        named = Target("tests/tiny-target", revision, target)
        parts = parts_of_folder(Path(made), named)
        return str(publish_drafter(parts, Path(f"{made}-run"), named, "float32", where))

    def head():
        refs = ask("models/alice/drafter/refs")
        return {ref["name"]: ref["targetCommit"] for ref in (*refs["branches"], *refs["tags"])}

    seen = []
    while not seen or not seen[-1]["said"].startswith("published: "):
        publish(old, overwrite=True)
        before = head()
        ask(f"break-after/{12 * len(seen) + 1}")
        try:
            said = publish(new, overwrite=True, tag="v1")
        except (HTTPError, InputError) as error:
            said = f"{type(error).__name__}: {error}"
        ask("break-after/-1")
        after = head()
        publish(new, overwrite=True, tag="v1")
        seen.append({"said": said, "before": before, "after": after, "end": head()})
    return seen


def test_push_is_whole_or_not_at_all(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, target: Target) -> None:
    """Weights without their tokenizer, or a tag on half of them, would be loaded by whoever comes next."""
    given = {"target": target.path, "revision": target.revision}
    given |= {name: str(tmp_path / name) for name in ("old", "new")}
    for seed, name in enumerate(("old", "new")):
        folder = make_run(tmp_path / f"{name}-run", tokenizer, seed)
        run = Run("tiny-drafter-de-en", folder, "de-en")
        publish_run(run, target, "float32", Publishing(to=given[name]))
    with LoopbackHub(tmp_path / "hub", USERS) as hub:
        seen = run_client(hub, tmp_path / "home", publish_over_broken_lines, token="hf_alice_of_the_tests", **given)
        states = [[hub.files(REPO, revision=cut[name]["main"]) for name in ("before", "after", "end")] for cut in seen]
    *broken, whole = seen
    (old_files, _, new_files), *_ = states
    assert old_files != new_files
    for cut, (before, after, end) in zip(seen, states):
        assert (before, end) == (old_files, new_files)
        assert after in (old_files, new_files)
        assert cut["end"] == {"main": cut["end"]["main"], "v1": cut["end"]["main"]}
        # The tag stands where it stood, is on its way, or stands on all of the new files.
        assert cut["after"].get("v1") in (None, cut["before"].get("v1"), cut["end"]["main"])
        assert "of_the_tests" not in cut["said"]
    assert whole["after"] == whole["end"]
    # Both kinds were met.
    assert 0 < sum(cut["after"]["main"] != cut["before"]["main"] for cut in broken) < len(broken)
