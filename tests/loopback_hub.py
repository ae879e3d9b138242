"""A Hugging Face Hub on the loopback interface, for the real client in another process.

It supports the requests of `huggingface_hub`, `transformers` and `datasets` that create, push and read models and
datasets, and add them to collections. All others get an error.
"""

import base64
import hashlib
import json
import re
import secrets
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".gguf", ".parquet")
_GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
_FRONT_MATTER = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", re.DOTALL)
# The type of each item of a card's value: text, or a mapping with certain keys.
_TEXT_KEYS = ("base_model", "datasets", "language", "library_name", "license", "metrics", "pipeline_tag", "tags")
_CARD_KEYS = {key: set[str]() for key in _TEXT_KEYS} | {"configs": {"config_name"}, "model-index": {"name", "results"}}


class HubError(Exception):
    """An error response. The client chooses its exception by `code`, the `X-Error-Code`."""

    def __init__(self, status: int, message: str, code: str = "", **body: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.body = status, code, {"error": message, **body}


class Entry(NamedTuple):
    """A file: its entry in tree listings, and its content. The name of `blob` is the id in the client's cache."""

    info: dict[str, Any]
    blob: Path


class Commit(NamedTuple):
    """A state of all files. `lineage` has the ids of all commits up to this one, `info` is its entry in listings."""

    lineage: tuple[str, ...]
    info: dict[str, Any]
    files: dict[str, Entry]

    def describe(self, path: str) -> dict[str, Any] | None:
        """Return the entry of a file or folder in tree listings, or `None` if it does not exist."""
        if path in self.files:
            return {"path": path, **self.files[path].info}
        is_folder = any(name.startswith(f"{path}/") for name in self.files)
        return {"path": path, "type": "directory", "oid": "0" * 40, "size": 0} if is_folder else None


class Repo:
    """A repository: commits by id, branches and tags that point to them, LFS objects by SHA-256."""

    def __init__(self, repo_id: str, repo_type: str, private: bool) -> None:
        self.repo_id, self.repo_type, self.private = repo_id, repo_type, private
        self.owner = repo_id.split("/")[0]
        self.gated = False  # only its owner may read files
        self.url_path = f"/datasets/{repo_id}" if repo_type == "dataset" else f"/{repo_id}"
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.lfs: dict[str, Entry] = {}

    def at(self, revision: str) -> Commit:
        """Return the commit of a branch, a tag or a full id."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def commit(self, branch: str, author: str, title: str, files: dict[str, Entry], message: str = "") -> str:
        lineage = self.at(branch).lineage if self.commits else ()
        oid, date = secrets.token_hex(20), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        info = {"id": oid, "title": title, "message": message, "authors": [{"user": author}], "date": date}
        self.commits[oid], self.branches[branch] = Commit((*lineage, oid), info, files), oid
        return oid


def read_card(content: bytes) -> tuple[dict[str, Any], list[str]]:
    """Parse a card's metadata; return it with the errors for which the Hub would reject it."""
    block = _FRONT_MATTER.match(content.decode())
    try:
        data = (yaml.safe_load(block[1]) or {}) if block else {}
    except yaml.YAMLError as error:
        return {}, [f"YAML metadata cannot be parsed: {error}"]
    if not isinstance(data, dict):
        return {}, [f"YAML metadata must be a mapping, got {type(data).__name__}"]

    def fits(item: Any, needed: set[str]) -> bool:
        return isinstance(item, dict) and needed <= item.keys() if needed else isinstance(item, str)

    items = {key: value if isinstance(value, list) else [value] for key, value in data.items() if key in _CARD_KEYS}
    wrong = [key for key in items if not all(fits(item, _CARD_KEYS[key]) for item in items[key])]
    return data, [f'"{key}" has a value that the Hub rejects: {data[key]!r}' for key in wrong]


def is_lfs(path: str, size: int) -> bool:
    """Return whether the Hub asks for LFS; the client never sends empty files that way."""
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > 10 * 2**20)


class LoopbackHub:
    """A server for the real client, at `endpoint` within a `with` block. `requests` lists all requests.

    Each token belongs to a user, who can write to the namespace of that name only.
    """

    def __init__(self, root: Path, users: dict[str, str]) -> None:
        self.endpoint, self.users, self.blobs = "", users, root / "blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.requests: list[tuple[str, str]] = []
        self.repos: dict[tuple[str, str], Repo] = {}
        self.collections: dict[str, dict[str, Any]] = {}
        self.collectors = set(users.values())  # users with the right to collections
        self.lock = threading.RLock()

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("_Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, hf_home: Path, token: str | None = None) -> dict[str, str]:
        """Return environment variables for a client of this Hub; with Xet, it would not use LFS."""
        off = {f"HF_HUB_DISABLE_{feature}": "1" for feature in ("XET", "TELEMETRY", "PROGRESS_BARS")}
        return {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(hf_home), **off, **({"HF_TOKEN": token} if token else {})}

    def add_repo(
        self, repo_id: str, files: dict[str, bytes | str | Path], repo_type: str = "model", private: bool = False
    ) -> str:
        """Store a repository without HTTP and return the id of its commit; a `Path` is a local file."""
        with self.lock:
            repo = self.create(repo_id, repo_type, private)
            stored = dict(repo.at("main").files)
            for path, source in files.items():
                data = source.read_bytes() if isinstance(source, Path) else source
                data = data.encode() if isinstance(data, str) else data
                stored[path] = self.store(repo, data, lfs=is_lfs(path, len(data)))
            return repo.commit("main", repo.owner, "add files", stored)

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        """Return the content of each file, including the `.gitattributes` of the initial commit."""
        commit = self.repos[repo_type, repo_id].at(revision)
        return {path: file.blob.read_bytes() for path, file in commit.files.items()}

    def commits(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> list[str]:
        """Return the titles of the commits, oldest first."""
        repo = self.repos[repo_type, repo_id]
        return [repo.commits[oid].info["title"] for oid in repo.at(revision).lineage]

    def create(self, repo_id: str, repo_type: str, private: bool) -> Repo:
        """Create a repository with its initial commit, or raise `HubError`."""
        if repo_type not in ("model", "dataset") or not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
            raise HubError(400, f"expected a model or dataset named namespace/name, got {repo_type} {repo_id!r}")
        repo = Repo(repo_id, repo_type, private)
        if (repo_type, repo_id) in self.repos:
            # With exist_ok, the client takes the address from the error.
            raise HubError(409, f"You already created this {repo_type} repo", url=self.endpoint + repo.url_path)
        repo.commit("main", repo.owner, "initial commit", {".gitattributes": self.store(repo, _GITATTRIBUTES, False)})
        return self.repos.setdefault((repo_type, repo_id), repo)

    def store(self, repo: Repo, data: bytes, lfs: bool) -> Entry:
        """Store a file's content in the repository's LFS store or as a git blob."""
        sha256, size = hashlib.sha256(data).hexdigest(), len(data)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        content = pointer if lfs else data
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        # The id is "oid" in trees, and "blobId" or, for LFS, "sha256" in lists of siblings.
        entry = Entry({"type": "file", "oid": oid, "blobId": oid, "size": size}, self.blobs / (sha256 if lfs else oid))
        if lfs:
            entry.info["lfs"] = {"oid": sha256, "sha256": sha256, "size": size, "pointerSize": len(pointer)}
            repo.lfs[sha256] = entry
        entry.blob.write_bytes(data)
        return entry


class _Handler(BaseHTTPRequestHandler):
    """A handler of requests. `answer` returns bytes or JSON, and may set `status` and the headers `sent`."""

    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    # With Nagle's algorithm, a body sent after its headers waits some 40 ms for a delayed acknowledgement.
    disable_nagle_algorithm = True

    def serve(self) -> None:
        url = urlsplit(self.path)
        self.query, self.status, self.sent = parse_qs(url.query), 200, dict[str, str]()
        # Read the body in any case: otherwise it would be taken for the next request of the connection.
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.given = json.loads(self.body) if self.headers.get("Content-Type", "").endswith(("/json", "+json")) else {}
        with self.hub.lock:  # one request at a time: each sees complete commits
            self.hub.requests.append((self.command, self.path))
            try:
                reply = self.answer("GET" if self.command == "HEAD" else self.command, url.path)
            except HubError as error:
                reply, self.status = error.body, error.status
                # A header is one line of Latin-1; YAML errors have several lines and quote the card.
                message = " ".join(str(error).split()).encode("ascii", "replace").decode()
                self.sent |= {"X-Error-Message": message, "X-Error-Code": error.code}
        data = reply if isinstance(reply, bytes) else json.dumps(reply, default=str).encode()
        self.send_response(self.status)
        for name, value in {"Content-Length": str(len(data)), **self.sent}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else data)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: `LoopbackHub.requests` has all requests."""

    def permit(self, owner: str | None) -> None:
        if self.user is None or self.user != owner:
            raise HubError(403 if self.user else 401, f"{self.user or 'nobody'} may not write to {owner}")

    def find(self, kind: str, repo_id: str) -> Repo:
        repo = self.hub.repos.get((kind.removesuffix("s"), repo_id))
        # A private repository looks missing to others.
        if repo is None or (repo.private and self.user != repo.owner):
            raise HubError(401 if self.user is None else 404, f"Repository not found: {repo_id}", "RepoNotFound")
        if repo.gated and "/resolve/" in self.path and self.user != repo.owner:
            raise HubError(403 if self.user else 401, f"Access to {repo_id} is restricted", "GatedRepo")
        if self.command not in ("GET", "HEAD") and "/paths-info/" not in self.path:
            self.permit(repo.owner)
        return repo

    def answer(self, method: str, url_path: str) -> Any:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            # With any other text, the client would report a missing repository instead of a wrong token.
            raise HubError(401, "Invalid credentials in Authorization header")
        self.user = self.hub.users.get(token)
        parts = [unquote(part) for part in url_path[1:].split("/")]
        match method, parts if parts[0] in ("api", "datasets", "lfs-upload") else ["models", *parts]:
            case "GET", ["api", "agent-harnesses"]:
                return {}
            case "GET", ["api", "whoami-v2"]:
                self.permit(self.user)
                return {"type": "user", "name": self.user, "orgs": [], "auth": {"accessToken": {"role": "write"}}}
            case "POST", ["api", "validate-yaml"]:
                data, errors = read_card(self.given["content"].encode())
                warnings = [] if data or errors else [{"message": "empty or missing yaml metadata in repo card"}]
                self.status = 400 if errors else 200
                return {"errors": [{"message": error} for error in errors], "warnings": warnings}
            case "POST", ["api", "repos", "create"]:
                wanted = {"type": "model", "visibility": "public", **self.given}
                owner = wanted["organization"] or self.user
                self.permit(owner)
                repo = self.hub.create(f"{owner}/{wanted['name']}", wanted["type"], wanted["visibility"] == "private")
                return {"url": self.hub.endpoint + repo.url_path, "name": repo.repo_id}
            case "PUT", ["lfs-upload", kind, owner, name, oid]:
                if hashlib.sha256(self.body).hexdigest() != oid:
                    raise HubError(400, f"expected the LFS object {oid}, got {len(self.body)} other bytes")
                return self.hub.store(self.hub.repos[kind, f"{owner}/{name}"], self.body, lfs=True).info
            case "GET", [kind, owner, name, "resolve", rev, *path]:
                return self.resolve(self.find(kind, f"{owner}/{name}").at(rev), "/".join(path))
            case "POST", [kind, owner, name, "info", "lfs", "objects", "batch" | "verify" as step]:
                repo, wanted = self.find(kind, f"{owner}/{name.removesuffix('.git')}"), self.given
                return self.lfs_batch(repo, wanted["objects"]) if step == "batch" else repo.lfs[wanted["oid"]].info
            case _, ["api", "collections", *rest]:
                return self.answer_collections(method, "/".join(rest))
            case _, ["api", "models" | "datasets" as kind, owner, name, *rest]:
                return self.answer_repo(method, self.find(kind, f"{owner}/{name}"), rest)
        raise HubError(404, f"the loopback Hub does not support {method} {self.path}")

    def answer_collections(self, method: str, rest: str) -> Any:
        if method == "GET" and rest in self.hub.collections:
            return self.hub.collections[rest]
        self.permit(self.given.get("namespace", rest.split("/")[0]))
        if self.user not in self.hub.collectors:
            raise HubError(403, "the token has no right to collections")
        if method == "POST" and not rest:
            title, slug = self.given["title"], re.sub(r"\W+", "-", self.given["title"].lower())
            slug = f"{self.user}/{slug}-0123456789abcdef01234567"
            if slug in self.hub.collections:
                raise HubError(409, "You already have a collection of this title", slug=slug)
            about = {"slug": slug, "title": title, "owner": {"name": self.user}, "items": [], "upvotes": 0}
            about |= {"private": self.given["private"], "description": self.given.get("description"), "position": 0}
            about |= {"theme": "green", "lastUpdated": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
            return self.hub.collections.setdefault(slug, about)
        collection = self.hub.collections.get(rest.removesuffix("/items"))
        if method != "POST" or collection is None:
            raise HubError(404, f"the loopback Hub does not support {method} {self.path}")
        item = self.given["item"]
        if item in [{"id": known["id"], "type": known["type"]} for known in collection["items"]]:
            raise HubError(409, "This item is in the collection already")
        collection["items"].append(item | {"_id": secrets.token_hex(12), "position": len(collection["items"])})
        return collection

    def answer_repo(self, method: str, repo: Repo, rest: list[str]) -> Any:
        match method, rest:
            case "GET", [] | ["revision", _]:
                return self.info(repo, rest[1] if rest else "main")
            case "GET", ["tree", rev, *folders]:
                return self.tree(repo.at(rev), "/".join(folders))
            case "POST", ["paths-info", rev]:
                paths = parse_qs(self.body.decode()).get("paths", [])
                return [info for path in paths if (info := repo.at(rev).describe(path.strip("/")))]
            case "GET", ["commits", rev]:
                return [repo.commits[oid].info for oid in reversed(repo.at(rev).lineage)]
            case "GET", ["refs"]:
                heads = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": o} for n, o in repo.branches.items()]
                tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": o} for n, o in repo.tags.items()]
                return {"branches": heads, "tags": tags, "converts": [], "pullRequests": []}
            case "POST", ["branch" | "tag" as kind, name]:
                refs = repo.branches if kind == "branch" else repo.tags
                ref, start = self.given.get("tag", name), self.given.get("startingPoint", "main")
                if ref in refs:
                    raise HubError(409, f"Reference already exists: {kind} {ref}")
                refs[ref] = repo.at(name if kind == "tag" else start).info["id"]
                return {}
            case "DELETE", ["tag", name] if name in repo.tags:
                del repo.tags[name]
                return {}
            case "POST", ["preupload", rev]:
                known = {path: entry.blob.name for path, entry in repo.at(rev).files.items()}
                asked = [(f["path"], is_lfs(f["path"], f["size"])) for f in self.given["files"]]
                modes = [{"path": path, "uploadMode": "lfs" if lfs else "regular"} for path, lfs in asked]
                return {"files": [mode | {"shouldIgnore": False, "oid": known.get(mode["path"])} for mode in modes]}
            case "POST", ["commit", branch] if branch in repo.branches and "create_pr" not in self.query:
                return self.commit(repo, branch)
        raise HubError(404, f"the loopback Hub does not support {method} {self.path}")

    def info(self, repo: Repo, rev: str) -> dict[str, Any]:
        commit = repo.at(rev)
        files = [{"rfilename": p} | (f.info if "blobs" in self.query else {}) for p, f in commit.files.items()]
        card = read_card(commit.files["README.md"].blob.read_bytes())[0] if "README.md" in commit.files else {}
        about = {"id": repo.repo_id, "author": repo.owner, "private": repo.private, "tags": card.get("tags", [])}
        about |= {"sha": commit.info["id"], "lastModified": commit.info["date"], "siblings": files, "cardData": card}
        return about | {key: card[key] for key in ("library_name", "pipeline_tag") if key in card}

    def tree(self, commit: Commit, folder: str) -> list[Any]:
        names = {str(name) for path in map(PurePosixPath, commit.files) for name in (path, *path.parents)} - {"."}
        start = f"{folder}/" if folder else ""
        inside = sorted(name for name in names if name.startswith(start))
        if folder and not inside:
            raise HubError(404, f"no such folder: {folder}", "EntryNotFound")
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        return [commit.describe(name) for name in inside if recursive or "/" not in name.removeprefix(start)]

    def lfs_batch(self, repo: Repo, wanted: list[dict[str, Any]]) -> dict[str, Any]:
        for item in (item for item in wanted if item["oid"] not in repo.lfs):
            # To this address the client sends no token; the real Hub signs it instead.
            upload = f"/lfs-upload/{repo.repo_type}/{repo.repo_id}/{item['oid']}"
            steps = {"upload": upload, "verify": f"{repo.url_path}.git/info/lfs/objects/verify"}
            item["actions"] = {step: {"href": self.hub.endpoint + path} for step, path in steps.items()}
        return {"transfer": "basic", "objects": wanted}

    def commit(self, repo: Repo, branch: str) -> dict[str, Any]:
        head, header, files = repo.branches[branch], {}, dict(repo.at(branch).files)
        for key, value in ((item["key"], item["value"]) for item in map(json.loads, self.body.splitlines())):
            path = value.get("path", "")
            if key == "header":
                header = value
                if value.get("parentCommit", head) != head:
                    raise HubError(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[path] = self.hub.store(repo, base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile" and value["oid"] in repo.lfs:
                files[path] = repo.lfs[value["oid"]]
            elif key == "deletedFile" and path in files:
                del files[path]
            else:
                raise HubError(404, f"A file with this name doesn't exist: {key} {path!r}", "EntryNotFound")
        if "README.md" in files and (errors := read_card(files["README.md"].blob.read_bytes())[1]):
            raise HubError(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
        oid = repo.commit(branch, self.user, header["summary"], files, header["description"])
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.endpoint}{repo.url_path}/commit/{oid}"}

    def resolve(self, commit: Commit, path: str) -> bytes:
        # Sent with an error too: the client remembers that this commit has no such file.
        self.sent["X-Repo-Commit"] = commit.info["id"]
        if path not in commit.files:
            raise HubError(404, f"no such file: {path}", "EntryNotFound")
        entry = commit.files[path]
        etag, size = f'"{entry.blob.name}"', str(entry.info["size"])
        self.sent |= {"ETag": etag} | ({"X-Linked-Etag": etag, "X-Linked-Size": size} if "lfs" in entry.info else {})
        return entry.blob.read_bytes()
