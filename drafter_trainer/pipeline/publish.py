"""Publish a drafter from its folder."""

from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedModel

from drafter_trainer.drafters.description import FILE_NAME
from drafter_trainer.errors import InputError
from drafter_trainer.hub.assemble import parts_of_folder
from drafter_trainer.hub.publish import Publication, publish_drafter
from drafter_trainer.hub.publishing import HUB, Publishing
from drafter_trainer.repository import target_of
from drafter_trainer.targets import Target


def publish(
    drafter: str | Path,
    target: str | Target | PreTrainedModel | None = None,
    to: str | Path = HUB,
    *,
    repo_id: str | None = None,
    name: str | None = None,
    languages: str | Iterable[str] | None = None,
    results: str | Path | None = None,
    license: str | None = None,
    revision: str | None = None,
    tag: str | None = None,
    private: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    draft_length: int | None = None,
    adapter_of: str | None = None,
    format: str = "stock",
    check_generation: bool = True,
    collection: bool = True,
    card_folder: str | Path | None = None,
    dtype: str = "auto",
) -> Publication:
    """Publish a drafter to the Hub or to a folder, with a card of what was measured.

    On the Hub it is one commit, which is then compared by the Hub's hashes, loaded from there, and drafts for one
    prompt; then it is tagged. Once more it sends only what is missing. The token is that of the environment (HF_TOKEN,
    or `hf auth login`).

    Args:
        drafter (`str` or `Path`): The drafter's folder, as `DrafterTrainer.save_model` or `tune` left it, or of any
            stock model with the target's tokenizer.
        target (`str`, `Target` or `PreTrainedModel`, *optional*): The target; the one that the folder names, on the
            Hub, if left out.
        to (`str` or `Path`, *optional*, defaults to `"hub"`): "hub" (the one that HF_ENDPOINT and HF_TOKEN name), or a
            folder.
        repo_id (`str`, *optional*): Repository on the Hub; your own account and the drafter's name if left out.
        name (`str`, *optional*): Name of the drafter; the one that the folder has if left out.
        languages (`str` or `Iterable[str]`, *optional*): Language, languages or pair of the drafter, where the folder
            does not say it or says it wrongly.
        results (`str` or `Path`, *optional*): Folder of `results.json`, as `benchmark` left it; the drafter's own
            folder if left out.
        license (`str`, *optional*): Identifier of the license, for the card; that of the target's card if left
            out.
        revision (`str`, *optional*): Branch on the Hub, created where there is none; main if left out.
        tag (`str`, *optional*): Tag of the commit, such as "v1", once it has been checked.
        private (`bool`, *optional*, defaults to `False`): Whether a new repository is private.
        overwrite (`bool`, *optional*, defaults to `False`): Whether another drafter there is replaced, and an
            existing tag moved.
        dry_run (`bool`, *optional*, defaults to `False`): List the files and their sizes, and send nothing.
        draft_length (`int`, *optional*): Tokens that the stock loop drafts in one round.
        adapter_of (`str`, *optional*): Published base drafter, over which the LoRA adapter alone is published.
        format (`str`, *optional*, defaults to `"stock"`): "stock", a model that every engine loads, or "compact",
            without the target's own embeddings, head and tokenizer, which `load_drafter` takes from the target, its
            weights in int8; "compact-int4" halves them again, and costs about one per cent of the tokens
            per target pass.
        check_generation (`bool`, *optional*, defaults to `True`): Whether the target is loaded
            after an upload, to generate with what came back.
        collection (`bool`, *optional*, defaults to `True`): Gather a target's drafters in a collection.
        card_folder (`str` or `Path`, *optional*): Folder of cards; the card and its inputs are also written to
            `<card_folder>/<name>`, where `drafter-trainer cards` renders it again.
        dtype (`str`, *optional*, defaults to `"auto"`): The target is loaded in it, for this check.
    Returns:
        `Publication`: Its place, and the size of each file.
    Raises:
        InputError: If the folder holds no drafter, the drafter does not fit the target, a file holds a credential,
            the destination cannot be used or holds another drafter, or what comes back from the Hub is of no use.
        HfHubHTTPError: If the Hub refuses.
    """
    folder = Path(drafter)
    if target is None and not (folder / FILE_NAME).is_file():
        raise InputError(f"{folder} does not say which target it is for: name the target")
    target = target_of(folder, target)
    if str(to) != HUB and Path(to).resolve() == folder.resolve():
        raise InputError(f"{folder} cannot be published onto itself: name another folder")
    publishing = Publishing(
        to=str(to),
        repo_id=repo_id,
        revision=revision,
        tag=tag,
        private=private,
        overwrite=overwrite,
        dry_run=dry_run,
        check_generation=check_generation,
        collection=collection,
        adapter_of=adapter_of,
        license=license,
        format=format,
        card_folder=str(card_folder) if card_folder else None,
    )
    parts = parts_of_folder(folder, target, name, languages, draft_length)
    return publish_drafter(parts, Path(results or folder), target, dtype, publishing)
