"""Check a folder's files and push them to the Hub: the only module that writes there.

A push is one commit of allowed files on a branch. A push that would replace another drafter or move a tag is rejected
before anything is sent.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import filter_repo_objects
from huggingface_hub.utils.sha import git_hash

from drafter_trainer.atomic import hash_file
from drafter_trainer.credentials import find_credential, find_path
from drafter_trainer.drafters.adapters import ADAPTER_CONFIG
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.drafters.loop.build import TABLE, VOCABULARY
from drafter_trainer.drafters.repository import Repository
from drafter_trainer.drafters.saving import WEIGHTS
from drafter_trainer.errors import InputError, one_line
from drafter_trainer.hub.card import PLOT
from drafter_trainer.hub.card_folder import CARD, MEASUREMENTS
from drafter_trainer.hub.destination import MAIN, Destination
from drafter_trainer.results import RESULTS

# All files of a drafter that may be published: no optimizer state, no pickled arguments, no token.
ALLOWED = (
    *(CARD, PLOT, FILE_NAME, *MEASUREMENTS, *WEIGHTS, VOCABULARY, TABLE, "custom_generate/*.py"),
    *("generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    *("special_tokens_map.json", "chat_template.jinja"),
)
# Files that are searched for paths. A tokenizer is not: it has tokens such as "/usr/bin".
_TEXTS = (CARD, FILE_NAME, RESULTS, "config.json", "generation_config.json", "tokenizer_config.json", ADAPTER_CONFIG)
_LONGEST_TITLE = 60  # characters, of a collection
_logger = logging.getLogger(__name__)


def allowed_files(folder: Path) -> dict[str, Path]:
    """Return the files of a drafter that may be published, by path; delete all other files from the folder."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    allowed = {name: files[name] for name in filter_repo_objects(files, allow_patterns=[*ALLOWED])}
    for name in files.keys() - allowed.keys():
        files[name].unlink()
    check_private(allowed)
    return allowed


def check_private(files: Mapping[str, Path]) -> None:
    """Raise an error if a file contains a credential or a path of this machine."""
    for name, path in files.items():
        if path.name in _TEXTS and (found := find_path(path)):
            raise InputError(f"{name} contains {found}, a path of this machine: remove it from the file's source")
        if found := find_credential(path):
            raise InputError(f"{name} contains {found}: remove it from the file's source before you publish it")


class Remote(NamedTuple):
    """The state of a branch on the Hub. `commit` is its head, `None` if there is no such branch or repository."""

    commit: str | None
    files: dict[str, RepoFile]
    tags: dict[str, str]


def read_remote(api: HfApi, destination: Destination) -> Remote:
    """Read the state of a destination's branch."""
    try:
        refs = api.list_repo_refs(**destination.address)
    except RepositoryNotFoundError:
        return Remote(None, {}, {})
    tags = {ref.name: ref.target_commit for ref in refs.tags}
    commit = {ref.name: ref.target_commit for ref in refs.branches}.get(destination.branch)
    tree = api.list_repo_tree(**destination.address, revision=commit, recursive=True) if commit else ()
    return Remote(commit, {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}, tags)


def changed_files(remote: Remote, files: Mapping[str, Path], owned: Sequence[str]) -> list[str]:
    """Return the paths that a commit would add, replace or delete.

    Args:
        owned (`Sequence[str]`): Patterns of files that are deleted if they are not in `files`. Other files of the
            repository, such as a license, are kept.
    """
    added = [path for path, source in files.items() if not _is_same(remote.files.get(path), source)]
    return added + [path for path in filter_repo_objects(remote.files, allow_patterns=[*owned]) if path not in files]


def _is_same(entry: RepoFile | None, source: Path) -> bool:
    if entry is None or entry.size != source.stat().st_size:
        return False
    if entry.lfs is not None:
        return entry.lfs.sha256 == hash_file(source)
    return entry.blob_id == git_hash(source.read_bytes())


def check_overwrite(
    destination: Destination,
    remote: Remote,
    changed: Sequence[str],
    precious: Sequence[str],
    description: DrafterDescription | None,
) -> None:
    """Raise an error if a push without `overwrite` would replace another drafter, or move a tag.

    Args:
        precious (`Sequence[str]`): Patterns of files that stay the same when the same drafter is published again.
        description (`DrafterDescription`, *optional*): The description of the drafter; `None` for a dataset.
    """
    if destination.overwrite:
        return
    advice = "name another repository or branch, or replace it with overwrite"
    others = remote.files.keys() - {".gitattributes", ".gitignore", "LICENSE", CARD}
    if others and description is not None:
        if FILE_NAME not in remote.files:
            raise InputError(f"{destination} contains {min(others)} and no drafter: {advice}")
        try:
            published = Repository(destination.repo_id, remote.commit).description
        except InputError as error:
            raise InputError(f"the drafter of {destination} cannot be read ({error}): {advice}") from error
        languages = [each.pair or ", ".join(each.languages) or "none" for each in (published, description)]
        for name, then, now in (("target", published.target, description.target), ("languages", *languages)):
            if then != now:
                raise InputError(f"{destination} holds a drafter for the {name} {then}, not {now}: {advice}")
    lost = [path for path in filter_repo_objects(changed, allow_patterns=[*precious]) if path in remote.files]
    if lost:
        raise InputError(f"{destination} holds another {lost[0]}: {advice}")
    tagged = remote.tags.get(destination.tag or "")
    if tagged is not None and (tagged != remote.commit or changed):
        raise InputError(
            f"the tag {destination.tag} of {destination.repo_id} is on another version ({tagged[:8]}): give another "
            "tag, or move it with overwrite"
        )


def push(
    destination: Destination,
    files: Mapping[str, Path],
    owned: Sequence[str],
    precious: Sequence[str],
    message: str,
    description: DrafterDescription | None = None,
) -> CommitInfo | None:
    """Push files in one commit, and compare the uploaded files by the Hub's own hashes.

    Without a change, no commit is made. If a push is interrupted, the branch is unchanged, and the next push does not
    upload finished files again. The Hub rejects the commit if somebody else has committed in the meantime.

    Args:
        owned, precious, description: See `changed_files` and `check_overwrite`.
    Returns:
        `CommitInfo`, or `None` in a dry run.
    """
    api, where = HfApi(), destination.address
    remote = read_remote(api, destination)
    changed = changed_files(remote, files, owned)
    check_overwrite(destination, remote, changed, precious, description)
    if destination.dry_run:
        return None
    try:  # before the repository is created
        RepoCard(files[CARD].read_text(encoding="utf-8")).validate(destination.repo_type)
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(
            f"the Hub rejects the card of {destination}: {one_line(error)}: correct the files that it is made from"
        ) from error
    api.create_repo(**where, private=destination.private or None, exist_ok=True)  # None: the owner's default
    if remote.commit is None and destination.branch != MAIN:
        # From the first, empty commit: otherwise the branch would show another branch's drafter until the push.
        first = api.list_repo_commits(**where)[-1].commit_id
        api.create_branch(**where, branch=destination.branch, revision=first, exist_ok=True)
    head = remote.commit or api.repo_info(**where, revision=destination.branch).sha
    operations = [
        CommitOperationAdd(path, files[path]) if path in files else CommitOperationDelete(path) for path in changed
    ]
    try:
        commit = api.create_commit(
            **where, operations=operations, revision=destination.branch, parent_commit=head, commit_message=message
        )
    except RuntimeError as error:  # a failed upload of a large file
        raise InputError(f"{destination} is unchanged ({one_line(error)}): run the same command again") from error
    if missing := changed_files(read_remote(api, destination), files, owned):
        raise InputError(f"the upload of {missing[0]} to {destination} is damaged: publish again")
    return commit


def set_tag(destination: Destination, commit: str) -> None:
    """Tag a commit with the destination's tag, if there is one; `push` has checked that it may be moved."""
    api, where = HfApi(), destination.address
    if destination.tag is None:
        return
    tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(**where).tags}
    if tags.get(destination.tag) == commit:
        return
    if destination.tag in tags and destination.overwrite:
        api.delete_tag(**where, tag=destination.tag)
    api.create_tag(**where, tag=destination.tag, revision=commit)


def add_to_collection(destination: Destination, target: str) -> None:
    """Add a drafter to its owner's collection of drafters for the target.

    A failure is only logged, for example if the token has no right to collections: the drafter is published.
    """
    api, owner, name = HfApi(), destination.repo_id.split("/")[0], target.rsplit("/", maxsplit=1)[-1]
    try:
        collection = api.create_collection(
            title=f"Drafters for {name}"[:_LONGEST_TITLE],
            namespace=owner,
            description=f"Drafters that make {target} faster"[:150],
            private=bool(api.repo_info(**destination.address).private),
            exists_ok=True,
        )
        api.add_collection_item(collection.slug, destination.repo_id, destination.repo_type, exists_ok=True)
    except HTTPError as error:
        _logger.warning(
            f"{destination} is published, but not in a collection: {one_line(error)}: give the token write access to "
            f"{owner}'s collections, or leave collections out (collection=False)"
        )
