"""The loopback Hub, driven by the real client in processes of its own: what it does differently hides faults."""

import hashlib
import os
from pathlib import Path

import pytest

from tests.client import run_client
from tests.loopback_hub import LoopbackHub, read_card

USERS = {"hf_alice": "alice", "hf_bob": "bob"}


def push_and_pull_folder(folder: str) -> dict:
    """Upload a folder twice and download it."""
    from huggingface_hub import HfApi, snapshot_download

    api = HfApi()
    api.create_repo("alice/folder")
    first = api.upload_folder(repo_id="alice/folder", folder_path=folder, commit_message="push")
    again = api.upload_folder(repo_id="alice/folder", folder_path=folder, commit_message="push again")
    entries = {entry.path: entry for entry in api.list_repo_tree("alice/folder", recursive=True)}
    return {
        "snapshot": snapshot_download("alice/folder"),
        "commits": [first.oid, again.oid],
        "lfs": {path: entry.lfs.sha256 for path, entry in entries.items() if getattr(entry, "lfs", None)},
    }


def test_folder_survives_the_round_trip(tmp_path: Path) -> None:
    """A pushed file that comes back changed, or weights that bypass LFS, would go unnoticed by every Hub test."""
    folder = tmp_path / "model"
    (folder / "nested" / "a b").mkdir(parents=True)
    contents = {
        "model.safetensors": os.urandom(300_000),
        "large.dat": os.urandom(10 * 2**20 + 1),
        "config.json": b'{"a": 1}',
        "empty.safetensors": b"",
        "nested/a b/ümlaut #1.txt": "Grüße\r\n".encode(),
    }
    for path, content in contents.items():
        (folder / path).write_bytes(content)
    with LoopbackHub(tmp_path / "hub", USERS) as hub:
        seen = run_client(hub, tmp_path / "home", push_and_pull_folder, token="hf_alice", folder=str(folder))
    snapshot = Path(seen["snapshot"])
    pulled = {str(path.relative_to(snapshot)): path.read_bytes() for path in snapshot.rglob("*") if path.is_file()}
    pushed = hub.files("alice/folder")
    assert pulled == pushed
    assert pushed.pop(".gitattributes")
    assert pushed == contents
    lfs = {path: hashlib.sha256(contents[path]).hexdigest() for path in ("model.safetensors", "large.dat")}
    assert seen["lfs"] == lfs
    puts = [path for method, path in hub.requests if method == "PUT"]
    assert sorted(path.split("/")[-1] for path in puts) == sorted(lfs.values())
    assert seen["commits"][0] == seen["commits"][1]
    assert hub.commits("alice/folder") == ["initial commit", "push"]


def meet_refusals(cache: str) -> dict:
    """Do what the Hub refuses, and what it allows beside it."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    api, bob, nobody, repo, seen = HfApi(), HfApi(token="hf_bob"), HfApi(token=False), "alice/model", {}

    def attempt(name: str, call: object, *args: object, **kwargs: object) -> None:
        try:
            call(*args, **kwargs)
            seen[name] = "allowed"
        except HfHubHTTPError as error:
            seen[name] = f"{type(error).__name__} {error.response.status_code}"

    api.create_repo(repo)
    attempt("create twice", api.create_repo, repo)
    attempt("create twice, exist_ok", api.create_repo, repo, exist_ok=True)
    attempt("create a dataset of that name", api.create_repo, repo, repo_type="dataset")
    given = {"path_in_repo": "f", "repo_id": repo, "parent_commit": api.model_info(repo).sha}
    attempt("commit", api.upload_file, path_or_fileobj=b"1", **given)
    attempt("commit on a stale parent", api.upload_file, path_or_fileobj=b"2", **given)
    attempt("tag", api.create_tag, repo, tag="v1")
    attempt("tag twice", api.create_tag, repo, tag="v1")
    attempt("tag twice, exist_ok", api.create_tag, repo, tag="v1", exist_ok=True)
    attempt("tag from nowhere", api.create_tag, repo, tag="v9", revision="nowhere")
    attempt("read a tag", hf_hub_download, repo, "f", revision="v1")
    attempt("read no revision", hf_hub_download, repo, "f", revision="absent")
    attempt("read no entry", hf_hub_download, repo, "absent.txt")
    attempt("read no repository", hf_hub_download, "alice/absent", "f")
    attempt("read no dataset", api.dataset_info, "alice/absent")
    api.create_repo("alice/secret", private=True)
    api.upload_file(path_or_fileobj=b"s", path_in_repo="s.txt", repo_id="alice/secret")
    attempt("read what is private", api.model_info, "alice/secret")
    for name, user in (("bob", bob), ("nobody", nobody)):
        attempt(f"{name} reads what is private", user.model_info, "alice/secret")
        place = {"token": user.token, "cache_dir": f"{cache}/{name}"}
        attempt(f"{name} downloads what is private", hf_hub_download, "alice/secret", "s.txt", **place)
        attempt(f"{name} reads", user.model_info, repo)
        attempt(f"{name} writes", user.upload_file, path_or_fileobj=b"x", path_in_repo="x", repo_id=repo)
    attempt("stranger reads", HfApi(token="hf_?").model_info, repo)
    return seen


def test_refusals_are_the_hubs(tmp_path: Path) -> None:
    """Code that takes one refusal for another, or drops its token, would pass here and fail against the real Hub."""
    with LoopbackHub(tmp_path / "hub", USERS) as hub:
        seen = run_client(hub, tmp_path / "home", meet_refusals, token="hf_alice", cache=str(tmp_path / "cache"))
    taken, missing = "HfHubHTTPError 409", "RepositoryNotFoundError"
    assert seen == {
        "create twice": taken,
        "create twice, exist_ok": "allowed",
        "create a dataset of that name": "allowed",
        "commit": "allowed",
        "commit on a stale parent": "HfHubHTTPError 412",
        "tag": "allowed",
        "tag twice": taken,
        "tag twice, exist_ok": "allowed",
        "tag from nowhere": "RevisionNotFoundError 404",
        "read a tag": "allowed",
        "read no revision": "RevisionNotFoundError 404",
        "read no entry": "RemoteEntryNotFoundError 404",
        "read no repository": f"{missing} 404",
        "read no dataset": f"{missing} 404",
        "read what is private": "allowed",
        "bob reads what is private": f"{missing} 404",
        "bob downloads what is private": f"{missing} 404",
        "bob reads": "allowed",
        "bob writes": "HfHubHTTPError 403",
        "nobody reads what is private": f"{missing} 401",
        "nobody downloads what is private": f"{missing} 401",
        "nobody reads": "allowed",
        "nobody writes": "HfHubHTTPError 401",
        "stranger reads": "HfHubHTTPError 401",
    }
    assert hub.files("alice/model")["f"] == b"1"


@pytest.mark.parametrize(
    ("card", "error"),
    [
        ("---\nlicense: mit\ntags: [drafter]\nlanguage: de\n---\n# Tiny\n", ""),
        ("# Bare\n", ""),
        ("---\nlicense: [mit\n---\n", "cannot be parsed"),
        ("---\n- license\n---\n", "must be a mapping, got list"),
        ("---\ntags:\n  drafter: 1\n---\n", '"tags" has a value'),
        ("---\nlanguage: no\n---\n", '"language" has a value'),
        ("---\nmodel-index:\n- results: []\n---\n", '"model-index" has a value'),
    ],
)
def test_cards_are_checked(card: str, error: str) -> None:
    """A card that the real Hub refuses would be found out only at the first real publication."""
    errors = read_card(card.encode())[1]
    assert [error in said for said in errors] == ([True] if error else [])
