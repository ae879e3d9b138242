"""Push files to the Hub: the one place that writes there.

One commit of named files on a branch, which a reader meets whole or not at all. What would replace another drafter or
move a tag is refused before anything is sent.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import filter_repo_objects
from huggingface_hub.utils.sha import git_hash

from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription, hash_file
from drafter_trainer.errors import InputError, one_line
from drafter_trainer.hub.card_folder import CARD
from drafter_trainer.hub.publishing import MAIN, Publishing
from drafter_trainer.repository import Repository

_LONGEST_TITLE = 60  # characters, of a collection
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remote:
    """The state of a destination's branch.

    Args:
        commit (`str`, *optional*): Its head; `None` where there is no such branch or repository.
    """

    commit: str | None
    files: dict[str, RepoFile]
    tags: dict[str, str]


def read_remote(api: HfApi, destination: Publishing) -> Remote:
    """Look at a destination."""
    where = {"repo_id": destination.repo_id, "repo_type": destination.repo_type}
    try:
        refs = api.list_repo_refs(**where)
    except RepositoryNotFoundError:
        return Remote(None, {}, {})
    tags = {ref.name: ref.target_commit for ref in refs.tags}
    commit = {ref.name: ref.target_commit for ref in refs.branches}.get(destination.branch)
    if commit is None:
        return Remote(None, {}, tags)
    tree = api.list_repo_tree(**where, revision=commit, recursive=True)
    return Remote(commit, {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}, tags)


def changed_files(remote: Remote, files: Mapping[str, Path], owned: Sequence[str]) -> list[str]:
    """Return the paths that a commit would add, replace or delete.

    Args:
        owned (`Sequence[str]`): Patterns of what is deleted where it is not among the files: an earlier publication
            left it. What else lies in the repository, such as a license, stays.
    """
    added = [path for path, source in files.items() if not _is_same(remote.files.get(path), source)]
    return added + [path for path in filter_repo_objects(remote.files, allow_patterns=[*owned]) if path not in files]


def check_same_drafter(destination: Publishing, remote: Remote, description: DrafterDescription) -> None:
    """Refuse a branch that holds anything but a drafter of this target and pair, unless it is to be replaced."""
    others = remote.files.keys() - {".gitattributes", ".gitignore", "LICENSE", CARD}
    if destination.overwrite or not others:
        return
    advice = "name another repository or branch, or replace it, with overwrite"
    if FILE_NAME not in remote.files:
        raise InputError(f"{destination} holds no drafter but {min(others)}: {advice}")
    try:
        published = Repository(destination.repo_id, remote.commit).description
    except InputError as error:
        raise InputError(f"{destination} holds a drafter that cannot be told ({error}): {advice}") from error
    for name, then, now in (
        ("target", published.target, description.target),
        ("languages", _spoken(published), _spoken(description)),
    ):
        if then != now:
            raise InputError(f"{destination} holds a drafter of {name} {then}, this one is of {now}: {advice}")


def _spoken(description: DrafterDescription) -> str:
    return description.pair or ", ".join(description.languages) or "none"


def check_overwrite(destination: Publishing, remote: Remote, changed: Sequence[str], precious: Sequence[str]) -> None:
    """Refuse to replace what was published before, unless that was asked for.

    Args:
        precious (`Sequence[str]`): Patterns of files that a second publication of the same thing leaves as they are.
    """
    if destination.overwrite:
        return
    advice = "name another branch, or replace it, with overwrite"
    lost = [path for path in filter_repo_objects(changed, allow_patterns=[*precious]) if path in remote.files]
    if lost:
        raise InputError(f"{destination} holds another {lost[0]} than the one to be published: {advice}")
    tagged = remote.tags.get(destination.tag or "")
    if tagged is not None and (tagged != remote.commit or changed):
        raise InputError(
            f"the tag {destination.tag} of {destination.repo_id} stands on {tagged[:8]}, which is not what is to be "
            "published: give another tag, or move it, with overwrite"
        )


def push(
    destination: Publishing,
    files: Mapping[str, Path],
    owned: Sequence[str],
    precious: Sequence[str],
    message: str,
    description: DrafterDescription | None = None,
) -> CommitInfo | None:
    """Send files in one commit, and compare what arrived by the Hub's own hashes.

    Where nothing has changed, no commit is made.
    Interrupted, it leaves the branch as it was; what the Hub has received by then is not sent again. Where somebody
    commits meanwhile, the Hub refuses.

    Args:
        owned, precious (`Sequence[str]`): Patterns; see `changed_files` and `check_overwrite`.
        description (`DrafterDescription`, *optional*): Of the drafter that the branch may hold, if it is one.
    Returns:
        `CommitInfo`, `None` in a dry run.
    """
    api, where = HfApi(), {"repo_id": destination.repo_id, "repo_type": destination.repo_type}
    remote = read_remote(api, destination)
    if description is not None:
        check_same_drafter(destination, remote, description)
    changed = changed_files(remote, files, owned)
    check_overwrite(destination, remote, changed, precious)
    if destination.dry_run:
        return None
    try:  # before there is a repository
        RepoCard(files[CARD].read_text(encoding="utf-8")).validate(destination.repo_type)
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(
            f"the Hub refuses the card of {destination}: {one_line(error)}: mend what it is rendered from"
        ) from error
    api.create_repo(**where, private=destination.private or None, exist_ok=True)  # None: as the owner has it
    if remote.commit is None and destination.branch != MAIN:
        # From the first commit, which is empty: until its own one the branch would show another version's drafter.
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
    except RuntimeError as error:  # how the client reports a large file that did not get through
        raise InputError(f"{destination} is as it was ({one_line(error)}): run the same command again") from error
    if missing := changed_files(read_remote(api, destination), files, owned):
        raise InputError(f"{missing[0]} is not at {destination} as it was sent: publish again")
    return commit


def set_tag(destination: Publishing, commit: str) -> None:
    """Put the destination's tag on a commit, if it has one; that it may be moved has been checked."""
    api, where = HfApi(), {"repo_id": destination.repo_id, "repo_type": destination.repo_type}
    if destination.tag is None:
        return
    tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(**where).tags}
    if tags.get(destination.tag) == commit:
        return
    if destination.tag in tags and destination.overwrite:
        api.delete_tag(**where, tag=destination.tag)
    api.create_tag(**where, tag=destination.tag, revision=commit)


def add_to_collection(destination: Publishing, target: str) -> None:
    """Gather a target's drafters in a collection of the repository's owner.

    What hinders it, such as a token that has no right to collections, is said in one line and fails nothing: what was
    pushed stands, and can be added by hand.
    """
    api, owner, name = HfApi(), destination.repo_id.split("/")[0], target.rsplit("/", maxsplit=1)[-1]
    try:
        private = api.repo_info(destination.repo_id, repo_type=destination.repo_type).private
        collection = api.create_collection(
            title=f"Drafters for {name}"[:_LONGEST_TITLE],
            namespace=owner,
            description=f"Drafters that make {target} answer faster"[:150],
            private=bool(private),
            exists_ok=True,
        )
        api.add_collection_item(collection.slug, destination.repo_id, destination.repo_type, exists_ok=True)
    except HTTPError as error:
        _logger.warning(
            f"{destination} is published, and in no collection: {one_line(error)}: give the token write access to "
            f"{owner}'s collections, or leave collections out (collection=False)"
        )


def _is_same(entry: RepoFile | None, source: Path) -> bool:
    if entry is None or entry.size != source.stat().st_size:
        return False
    if entry.lfs is not None:
        return entry.lfs.sha256 == hash_file(source)
    return entry.blob_id == git_hash(source.read_bytes())
