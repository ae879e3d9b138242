"""What is said where the Hub wants a token, or an access."""

from pathlib import Path

from tests.client import run_client
from tests.loopback_hub import LoopbackHub

DESCRIPTION = """{"name": "d", "target": "t", "target_revision": "1",
"tokenizer_sha256": "0000000000000000000000000000000000000000000000000000000000000000", "pair": "de-en",
"draft_length": 5, "loop": {}, "files": {}, "training": {}, "versions": {}, "schema_version": 1}"""


def load_refused(drafter: str, target: str, tokens_target: str) -> list:
    """Collect what a user reads who loads what is not theirs."""
    from transformers import AutoModelForCausalLM

    from drafter_trainer import load_drafter
    from drafter_trainer.errors import InputError
    from drafter_trainer.targets import resolve_target

    said = []
    model = AutoModelForCausalLM.from_pretrained(target)

    def load_for_gated_target():
        model.name_or_path = tokens_target
        load_drafter(target, model)

    for load in (
        lambda: load_drafter(drafter, model),
        lambda: load_drafter("alice/private", model),
        lambda: resolve_target(tokens_target),
        lambda: resolve_target(f"{target}@no-such-branch"),
        load_for_gated_target,
    ):
        try:
            load()
        except InputError as error:
            said.append(str(error))
    return said


def test_loading_what_is_gated_or_private(target_folder: Path, tmp_path: Path) -> None:
    """Every way in must end in one line with advice, with a token that has no access and without any."""
    model = {path.name: path for path in target_folder.iterdir()}
    described = model | {"drafter.json": DESCRIPTION}
    with LoopbackHub(tmp_path / "hub", {"hf_alice": "alice", "hf_bob": "bob"}) as hub:
        hub.add_repo("alice/drafter", described)
        hub.add_repo("alice/target", described)
        hub.add_repo("alice/gated-target", model)
        hub.add_repo("alice/private", described, private=True)
        hub.repos["model", "alice/drafter"].gated = hub.repos["model", "alice/gated-target"].gated = True
        given = {"drafter": "alice/drafter", "target": "alice/target", "tokens_target": "alice/gated-target"}
        for token in (None, "hf_bob"):
            said = run_client(hub, tmp_path / f"home-{token}", load_refused, token=token, **given)
            assert len(said) == 5
            assert all("\n" not in line and "hf_" not in line for line in said)
            assert all("gated" in said[number] for number in (0, 2, 4)), said
            assert "alice/private" in said[1]
            assert said[3].startswith("alice/target is neither a folder nor a model on the Hub: ")
            assert said[4].endswith(": give it as tokenizer")
