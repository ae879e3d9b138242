"""The loopback Hub, driven by the real client in processes of its own."""

import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.client import run_client
from tests.loopback_hub import LoopbackHub

USERS = {"hf_alice": "alice", "hf_bob": "bob"}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    """Serve an empty Hub."""
    with LoopbackHub(tmp_path / "hub", USERS) as served:
        yield served


def push_and_pull_folder(folder: str) -> dict:
    """Upload a folder twice and download it."""
    from huggingface_hub import HfApi, snapshot_download

    api = HfApi()
    api.create_repo("alice/folder")
    first = api.upload_folder(repo_id="alice/folder", folder_path=folder, commit_message="push")
    again = api.upload_folder(repo_id="alice/folder", folder_path=folder, commit_message="push again")
    entries = {entry.path: entry for entry in api.list_repo_tree("alice/folder", recursive=True)}
    infos = api.model_info("alice/folder", files_metadata=True).siblings
    return {
        "snapshot": snapshot_download("alice/folder"),
        "commits": [first.oid, again.oid],
        "top": [entry.path for entry in api.list_repo_tree("alice/folder")],
        "nested": [entry.path for entry in api.list_repo_tree("alice/folder", "nested")],
        "lfs": {path: entry.lfs.sha256 for path, entry in entries.items() if getattr(entry, "lfs", None)},
        "sibling_lfs": {info.rfilename: info.lfs.sha256 for info in infos if info.lfs},
        "paths": [entry.path for entry in api.get_paths_info("alice/folder", ["nested", "config.json", "absent"])],
    }


def test_folder_survives_the_round_trip(hub: LoopbackHub, tmp_path: Path) -> None:
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

    seen = run_client(hub, tmp_path / "home", push_and_pull_folder, token="hf_alice", folder=str(folder))

    snapshot = Path(seen["snapshot"])
    pulled = {str(path.relative_to(snapshot)): path.read_bytes() for path in snapshot.rglob("*") if path.is_file()}
    pushed = hub.files("alice/folder")
    assert pulled == pushed
    assert pushed.pop(".gitattributes")
    assert pushed == contents
    lfs = {path: hashlib.sha256(contents[path]).hexdigest() for path in ("model.safetensors", "large.dat")}
    assert seen["lfs"] == seen["sibling_lfs"] == lfs
    puts = [path for method, path in hub.requests if method == "PUT"]
    assert sorted(path.split("/")[-1] for path in puts) == sorted(lfs.values())
    assert seen["commits"][0] == seen["commits"][1]
    assert hub.commits("alice/folder") == ["initial commit", "push"]
    assert seen["top"] == sorted([".gitattributes", *(path for path in contents if "/" not in path), "nested"])
    assert seen["nested"] == ["nested/a b"]
    assert sorted(seen["paths"]) == ["config.json", "nested"]


def push_model() -> str:
    """Push a random model and return the digest of its weights."""
    import hashlib

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, num_key_value_heads=2, **sizes))
    model.push_to_hub("alice/tiny", commit_message="push model")
    weights = b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in model.state_dict().items())
    return hashlib.sha256(weights).hexdigest()


def pull_model() -> str:
    """Load the model and return the digest of its weights."""
    import hashlib

    from transformers import AutoModelForCausalLM

    state = AutoModelForCausalLM.from_pretrained("alice/tiny").state_dict()
    return hashlib.sha256(b"".join(k.encode() + v.numpy().tobytes() for k, v in state.items())).hexdigest()


def test_pushed_model_loads_elsewhere(hub: LoopbackHub, tmp_path: Path) -> None:
    """A repository that only its own process could load, from its cache, would pass for a published one."""
    pushed = run_client(hub, tmp_path / "pusher", push_model, token="hf_alice")
    assert {"config.json", "generation_config.json", "model.safetensors"} <= hub.files("alice/tiny").keys()
    assert hub.commits("alice/tiny")[-1] == "push model"
    before = len(hub.requests)
    assert run_client(hub, tmp_path / "puller", pull_model) == pushed
    assert any(method == "GET" and path.endswith("/model.safetensors") for method, path in hub.requests[before:])


def push_cards() -> dict:
    """Push a good card and several bad ones."""
    import warnings

    from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData

    api = HfApi()
    api.create_repo("alice/card")
    metric = {"metric_type": "speedup", "metric_value": 1.5}
    result = EvalResult(task_type="translation", dataset_type="alice/corpus", dataset_name="corpus", **metric)
    data = ModelCardData(
        language=["de", "en"], license="apache-2.0", tags=["drafter"], model_name="tiny", eval_results=[result]
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n# Tiny\n").push_to_hub("alice/card")
    loaded = ModelCard.load("alice/card")
    bad = {
        "unparsable": "---\nlicense: [mit\n---\n",
        "no mapping": "---\n- license\n---\n",
        "wrong type": "---\ntags:\n  drafter: 1\n---\n",
        "boolean language": "---\nlanguage: no\n---\n",
        "nameless result": "---\nmodel-index:\n- results: []\n---\n",
    }
    refused = {}
    for name, content in bad.items():
        try:
            api.upload_file(path_or_fileobj=content.encode(), path_in_repo="README.md", repo_id="alice/card")
        except ValueError as error:
            refused[name] = str(error)
    try:
        ModelCard("---\nlicense: 3\n---\n").validate()
    except ValueError as error:
        refused["card.validate"] = str(error)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        api.upload_file(path_or_fileobj=b"# Bare\n", path_in_repo="README.md", repo_id="alice/card", revision="main")
    info = api.model_info("alice/card", revision=api.list_repo_commits("alice/card")[1].commit_id)
    return {
        "loaded": loaded.data.to_dict(),
        "text": loaded.text,
        "score": loaded.data.eval_results[0].metric_value,
        "refused": refused,
        "names": [*bad, "card.validate"],
        "warned": " ".join(str(warning.message) for warning in caught),
        "info": [info.card_data.license, info.tags],
    }


def test_card_metadata_is_checked_and_kept(hub: LoopbackHub, tmp_path: Path) -> None:
    """A card that the real Hub refuses would be found out only at the first real publication."""
    seen = run_client(hub, tmp_path / "home", push_cards, token="hf_alice")
    assert seen["loaded"]["license"] == "apache-2.0"
    assert seen["loaded"]["language"] == ["de", "en"]
    assert seen["score"] == 1.5
    assert seen["text"].strip() == "# Tiny"
    assert seen["info"] == ["apache-2.0", ["drafter"]]
    assert list(seen["refused"]) == seen["names"]
    assert "cannot be parsed" in seen["refused"]["unparsable"]
    assert '"tags"' in seen["refused"]["wrong type"]
    assert "empty or missing yaml metadata" in seen["warned"]
    assert len(hub.commits("alice/card")) == 3


def use_refs() -> dict:
    """Create, use and delete branches and tags; copy and delete files."""
    from pathlib import Path

    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    api, repo = HfApi(), "alice/refs"
    api.create_repo(repo)
    api.upload_file(path_or_fileobj=b"1", path_in_repo="a/one.txt", repo_id=repo, commit_message="one")
    api.create_tag(repo, tag="v1", tag_message="first")
    api.create_branch(repo, branch="exp/two", revision="v1")
    api.upload_file(
        path_or_fileobj=b"2", path_in_repo="a/one.txt", repo_id=repo, revision="exp/two", commit_message="two"
    )
    operations = [
        CommitOperationAdd("weights.bin", b"lfs"),
        CommitOperationAdd("b/c.txt", b"c"),
        CommitOperationAdd("b/d.txt", b"d"),
    ]
    api.create_commit(repo, operations, commit_message="three", commit_description="with a description")
    operations = [
        CommitOperationCopy("weights.bin", "copied.bin"),
        CommitOperationCopy("a/one.txt", "copied.txt"),
        CommitOperationDelete("b/"),
        CommitOperationDelete("weights.bin"),
    ]
    api.create_commit(repo, operations, commit_message="four")
    refused = {}

    def attempt(name: str, call: object, *args: object, **kwargs: object) -> None:
        try:
            call(*args, **kwargs)
        except HfHubHTTPError as error:
            refused[name] = [type(error).__name__, error.response.status_code]

    attempt("branch twice", api.create_branch, repo, branch="exp/two")
    attempt("tag twice", api.create_tag, repo, tag="v1")
    attempt("delete main", api.delete_branch, repo, branch="main")
    attempt("tag from nowhere", api.create_tag, repo, tag="v9", revision="nowhere")
    attempt("delete absent file", api.delete_file, "absent.txt", repo)
    attempt(
        "upload to absent branch", api.upload_file, path_or_fileobj=b"x", path_in_repo="x", repo_id=repo, revision="no"
    )
    api.create_branch(repo, branch="exp/two", exist_ok=True)
    api.create_tag(repo, tag="v1", exist_ok=True)
    local = {rev: hf_hub_download(repo, "a/one.txt", revision=rev) for rev in ("main", "v1", "exp/two")}
    contents = {rev: Path(path).read_text() for rev, path in local.items()}
    refs = api.list_repo_refs(repo)
    found = {"branches": [ref.name for ref in refs.branches], "tags": [ref.ref for ref in refs.tags]}
    commits = [[commit.title, commit.message] for commit in api.list_repo_commits(repo)]
    api.delete_tag(repo, tag="v1")
    api.delete_branch(repo, branch="exp/two")
    attempt("deleted tag", api.model_info, repo, revision="v1")
    attempt("delete tag twice", api.delete_tag, repo, tag="v1")
    return {"contents": contents, "refs": found, "commits": commits, "refused": refused}


def test_branches_tags_and_commit_operations(hub: LoopbackHub, tmp_path: Path) -> None:
    """A revision pinned in a recipe could silently resolve to something else than what was tagged."""
    seen = run_client(hub, tmp_path / "home", use_refs, token="hf_alice")
    assert seen["contents"] == {"main": "1", "v1": "1", "exp/two": "2"}
    assert seen["refs"] == {"branches": ["main", "exp/two"], "tags": ["refs/tags/v1"]}
    titles = [["four", ""], ["three", "with a description"], ["one", ""], ["initial commit", ""]]
    assert seen["commits"] == titles
    assert hub.commits("alice/refs") == [title for title, _ in reversed(titles)]
    assert seen["refused"] == {
        "branch twice": ["HfHubHTTPError", 409],
        "tag twice": ["HfHubHTTPError", 409],
        "delete main": ["HfHubHTTPError", 403],
        "tag from nowhere": ["RevisionNotFoundError", 404],
        "delete absent file": ["RemoteEntryNotFoundError", 404],
        "upload to absent branch": ["RevisionNotFoundError", 404],
        "deleted tag": ["RevisionNotFoundError", 404],
        "delete tag twice": ["RevisionNotFoundError", 404],
    }
    files = hub.files("alice/refs")
    del files[".gitattributes"]
    assert files == {"a/one.txt": b"1", "copied.bin": b"lfs", "copied.txt": b"1"}


def use_private_repos(caches: str) -> dict:
    """Read and write as the owner, another user, with an unknown token and with none."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    refused = {}

    def attempt(name: str, call: object, *args: object, **kwargs: object) -> None:
        try:
            call(*args, **kwargs)
            refused[name] = "allowed"
        except HfHubHTTPError as error:
            refused[name] = [type(error).__name__, error.response.status_code]

    alice = HfApi(token="hf_alice")
    people = {
        "alice": alice,
        "bob": HfApi(token="hf_bob"),
        "stranger": HfApi(token="hf_?"),
        "nobody": HfApi(token=False),
    }
    alice.create_repo("alice/secret", private=True)
    alice.upload_file(path_or_fileobj=b"s", path_in_repo="s.txt", repo_id="alice/secret")
    for name, api in people.items():
        attempt(f"{name} reads", api.model_info, "alice/secret")
        attempt(
            f"{name} downloads",
            hf_hub_download,
            "alice/secret",
            "s.txt",
            token=api.token,
            cache_dir=f"{caches}/{name}",
        )
        attempt(f"{name} reads public", api.model_info, "alice/public")
        attempt(
            f"{name} writes public", api.upload_file, path_or_fileobj=b"x", path_in_repo="x", repo_id="alice/public"
        )
        attempt(f"{name} creates", api.create_repo, f"alice/{name}")
    listed = {
        name: sorted(m.id for m in people[name].list_models(author="alice")) for name in ("alice", "bob", "nobody")
    }
    names = {name: people[name].whoami()["name"] for name in ("alice", "bob")}
    attempt("stranger asks who", people["nobody"].whoami, token="hf_?")
    alice.update_repo_settings("alice/secret", private=False)
    attempt("nobody reads opened", people["nobody"].model_info, "alice/secret")
    return {"refused": refused, "listed": listed, "names": names}


def test_private_repositories_and_tokens(hub: LoopbackHub, tmp_path: Path) -> None:
    """Code that drops its token, or confuses a missing repository with a refused one, would pass unnoticed."""
    hub.add_repo("alice/public", {"a.txt": "a"})
    seen = run_client(hub, tmp_path / "home", use_private_repos, caches=str(tmp_path / "caches"))
    missing = "RepositoryNotFoundError"
    assert seen["refused"] == {
        "alice reads": "allowed",
        "alice downloads": "allowed",
        "alice reads public": "allowed",
        "alice writes public": "allowed",
        "alice creates": "allowed",
        "bob reads": [missing, 404],
        "bob downloads": [missing, 404],
        "bob reads public": "allowed",
        "bob writes public": ["HfHubHTTPError", 403],
        "bob creates": ["HfHubHTTPError", 403],
        "stranger reads": ["HfHubHTTPError", 401],
        "stranger downloads": ["HfHubHTTPError", 401],
        "stranger reads public": ["HfHubHTTPError", 401],
        "stranger writes public": ["HfHubHTTPError", 401],
        "stranger creates": ["HfHubHTTPError", 401],
        "nobody reads": [missing, 401],
        "nobody downloads": [missing, 401],
        "nobody reads public": "allowed",
        "nobody writes public": ["HfHubHTTPError", 401],
        "nobody creates": ["HfHubHTTPError", 401],
        "stranger asks who": ["HfHubHTTPError", 401],
        "nobody reads opened": "allowed",
    }
    public = ["alice/alice", "alice/public"]
    assert seen["listed"] == {"alice": [*public, "alice/secret"], "bob": public, "nobody": public}
    assert seen["names"] == {"alice": "alice", "bob": "bob"}


def meet_refusals() -> dict:
    """Create twice, commit on a stale parent, ask for what is missing, delete."""
    from pathlib import Path

    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    api, repo, refused = HfApi(), "alice/model", {}

    def attempt(name: str, call: object, *args: object, **kwargs: object) -> None:
        try:
            refused[name] = str(call(*args, **kwargs))
        except HfHubHTTPError as error:
            refused[name] = [type(error).__name__, error.response.status_code]

    api.create_repo(repo)
    attempt("create twice", api.create_repo, repo)
    attempt("create twice, exist_ok", api.create_repo, repo, exist_ok=True)
    attempt("create a dataset of that name", api.create_repo, repo, repo_type="dataset")
    start = api.model_info(repo).sha
    api.upload_file(path_or_fileobj=b"1", path_in_repo="f", repo_id=repo, parent_commit=start)
    attempt("stale parent", api.upload_file, path_or_fileobj=b"2", path_in_repo="f", repo_id=repo, parent_commit=start)
    content = Path(hf_hub_download(repo, "f")).read_text()
    attempt("missing revision", hf_hub_download, repo, "f", revision="absent")
    attempt("missing revision of a snapshot", snapshot_download, repo, revision="absent")
    attempt("missing entry", hf_hub_download, repo, "absent.txt")
    attempt("missing folder", lambda: list(api.list_repo_tree(repo, "absent")))
    attempt("missing repository", hf_hub_download, "alice/absent", "f")
    attempt("missing dataset", api.dataset_info, "alice/absent")
    exists = [api.file_exists(repo, "f"), api.file_exists(repo, "g"), api.revision_exists(repo, "absent")]
    exists += [api.repo_exists(repo), api.repo_exists("alice/absent")]
    api.delete_repo(repo)
    attempt("deleted repository", api.model_info, repo)
    attempt("delete twice", api.delete_repo, repo)
    api.delete_repo(repo, missing_ok=True)
    return {"refused": refused, "exists": exists, "content": content}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Meet all refusals in one process, because a process costs more than a refusal."""
    folder = tmp_path_factory.mktemp("refusals")
    with LoopbackHub(folder / "hub", USERS) as served:
        seen = run_client(served, folder / "home", meet_refusals, token="hf_alice")
        return seen | {"endpoint": served.endpoint, "dataset": served.commits("alice/model", repo_type="dataset")}


def test_creating_twice_is_refused_unless_allowed(refusals: Any) -> None:
    """A second publication under a taken name would overwrite the first without a word."""
    assert refusals["refused"]["create twice"] == ["HfHubHTTPError", 409]
    assert refusals["refused"]["create twice, exist_ok"] == f"{refusals['endpoint']}/alice/model"
    address = f"{refusals['endpoint']}/datasets/alice/model"
    assert refusals["refused"]["create a dataset of that name"] == address
    assert refusals["dataset"] == ["initial commit"]


def test_stale_parent_commit_is_refused(refusals: Any) -> None:
    """Two pushes at once could lose one of them."""
    assert refusals["refused"]["stale parent"] == ["HfHubHTTPError", 412]
    assert refusals["content"] == "1"


def test_what_is_missing_has_its_own_exception(refusals: Any) -> None:
    """Code that takes one kind of absence for another would work here and fail against the real Hub."""
    missing = {name: seen for name, seen in refusals["refused"].items() if name.startswith("missing")}
    assert missing == {
        "missing revision": ["RevisionNotFoundError", 404],
        "missing revision of a snapshot": ["RevisionNotFoundError", 404],
        "missing entry": ["RemoteEntryNotFoundError", 404],
        "missing folder": ["RemoteEntryNotFoundError", 404],
        "missing repository": ["RepositoryNotFoundError", 404],
        "missing dataset": ["RepositoryNotFoundError", 404],
    }
    assert refusals["exists"] == [True, False, False, True, False]


def test_deleted_repository_is_gone(refusals: Any) -> None:
    """A test that cleans up after itself would leave its repository to the next one."""
    assert refusals["refused"]["deleted repository"] == ["RepositoryNotFoundError", 404]
    assert refusals["refused"]["delete twice"] == ["RepositoryNotFoundError", 404]


def test_files_are_served_in_ranges_with_the_headers_of_the_hub(hub: LoopbackHub) -> None:
    """Streaming reads by range: a wrong slice gives wrong rows, a missing header a download that never resumes."""
    content = bytes(range(256))
    oid = hub.add_repo("alice/ranges", {"weights.bin": content, "a.txt": "abc"})
    url = f"{hub.endpoint}/alice/ranges/resolve/main"

    def fetch(path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, Any]:
        request = urllib.request.Request(f"{url}/{path}", method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return reply.status, reply.read(), reply.headers
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.status, refusal.read(), refusal.headers

    for asked, start, stop in (("0-9", 0, 10), ("250-", 250, 256), ("-6", 250, 256), ("100-999", 100, 256)):
        status, body, headers = fetch("weights.bin", Range=f"bytes={asked}")
        assert (status, body) == (206, content[start:stop])
        assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/256"
    status, body, headers = fetch("weights.bin", Range="bytes=256-")
    assert (status, body, headers["Content-Range"]) == (416, b"", "bytes */256")
    status, body, headers = fetch("weights.bin", method="HEAD")
    etag = f'"{hashlib.sha256(content).hexdigest()}"'
    assert (status, body, headers["Content-Length"]) == (200, b"", "256")
    assert (headers["X-Repo-Commit"], headers["ETag"], headers["X-Linked-Etag"]) == (oid, etag, etag)
    assert headers["X-Linked-Size"] == "256"
    _, body, headers = fetch("a.txt")
    assert (body, headers["ETag"]) == (b"abc", f'"{hashlib.sha1(b"blob 3" + bytes(1) + b"abc").hexdigest()}"')
    assert headers["X-Linked-Etag"] is None
    status, _, headers = fetch("absent.txt")
    assert (status, headers["X-Error-Code"], headers["X-Repo-Commit"]) == (404, "EntryNotFound", oid)


CONFIGS = {"de-en": ("train", "test"), "ja-en": ("train", "validation")}


def rows(pair: str, split: str) -> list[dict[str, Any]]:
    """Make rows that tell which file they came from."""
    return [{"id": index, "text": f"{pair}/{split} ümlaut {index}"} for index in range(5 if split == "train" else 2)]


def data_repo(suffix: str, encode: Callable[[list[dict[str, Any]]], bytes]) -> dict[str, bytes | str | Path]:
    """Lay out a data repository: the training split in two files, all of it declared by the card."""
    lines, files = ["---", "license: mit", "configs:"], {}
    for pair, splits in CONFIGS.items():
        lines += [f"- config_name: {pair}", "  data_files:"]
        for split in splits:
            lines += [f"  - split: {split}", f"    path: data/{pair}/{split}-*.{suffix}"]
            made = rows(pair, split)
            parts = [made[:3], made[3:]] if split == "train" else [made]
            files |= {f"data/{pair}/{split}-{n}.{suffix}": encode(part) for n, part in enumerate(parts)}
    return {"README.md": "\n".join([*lines, "---", "", "# Corpus", ""]), **files}


def encode_parquet(made: list[dict[str, Any]]) -> bytes:
    """Encode rows as a parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(made), sink)
    return sink.getvalue().to_pybytes()


def encode_json_lines(made: list[dict[str, Any]]) -> bytes:
    """Encode rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made).encode()


def load_corpus(repo_id: str) -> dict:
    """Load every split of every configuration, streaming and not."""
    from datasets import get_dataset_config_names, load_dataset

    loaded = {}
    for pair in get_dataset_config_names(repo_id):
        for streaming in (False, True):
            splits = load_dataset(repo_id, pair, streaming=streaming)
            loaded[f"{pair} {streaming}"] = {split: list(splits[split]) for split in splits}
    return loaded


@pytest.mark.parametrize(
    ("suffix", "encode"), [("parquet", encode_parquet), ("jsonl", encode_json_lines)], ids=["parquet", "jsonl"]
)
def test_load_dataset_reads_every_configuration(
    hub: LoopbackHub, tmp_path: Path, suffix: str, encode: Callable[[list[dict[str, Any]]], bytes]
) -> None:
    """A pair's configuration could load another pair's rows, or a split miss one of its files, without an error."""
    hub.add_repo("alice/corpus", data_repo(suffix, encode), repo_type="dataset", private=True)
    loaded = run_client(hub, tmp_path / "home", load_corpus, token="hf_alice", repo_id="alice/corpus")
    expected = {pair: {split: rows(pair, split) for split in splits} for pair, splits in CONFIGS.items()}
    assert loaded == {f"{pair} {streaming}": expected[pair] for pair in CONFIGS for streaming in (False, True)}
