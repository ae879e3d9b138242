"""Write the files of a drafter's repository, apart from its card and its results."""

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer

from drafter_trainer.atomic import write_json
from drafter_trainer.drafters.adapters import ADAPTER, ADAPTER_CONFIG, ADAPTER_WEIGHTS, merge_adapter
from drafter_trainer.drafters.compact import write_compact
from drafter_trainer.drafters.compatibility import check_tokenizers
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.drafters.loop.build import TABLE, VOCABULARY
from drafter_trainer.drafters.loop.networkless import MODEL_TYPE, NetworklessDrafter
from drafter_trainer.drafters.loop.sources import NETWORK, NGRAM
from drafter_trainer.drafters.repository import Repository
from drafter_trainer.drafters.saving import complete_folder, set_special_ids, size_of
from drafter_trainer.drafters.vocabulary import tie_equal_embeddings
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target

_TEMPLATE = "chat_template.jinja"
# The class of multimodal targets such as Mistral 3, which are not causal language models in transformers.
_IMAGE_TEXT = "AutoModelForImageTextToText"


def assemble(
    drafter: Path,
    description: DrafterDescription,
    target: Target,
    folder: Path,
    *,
    sources: Sequence[str] = (),
    adapter_of: str | None = None,
    compact: int = 0,
    destination: Path | None = None,
) -> DrafterDescription:
    """Write a drafter's files, apart from card and results, to a new folder.

    The network's weights are stored in the dtype of the target's checkpoint. If the embeddings are equal to the head,
    they are stored only once.

    Args:
        drafter (`Path`): Folder of the drafter, written by a trainer or by tuning.
        description (`DrafterDescription`): The drafter's description.
        sources (`Sequence[str]`, *optional*): Draft sources to keep; without "network" no weights are written.
        adapter_of (`str`, *optional*): Base drafter of the network's LoRA adapter, which is written instead of all
            weights.
        compact (`int`, *optional*, defaults to `0`): Bits of a weight, 8 or 4, of a repository without the target's
            own embeddings, head and tokenizer; see `drafters.compact`. 0 for a stock model.
        destination (`Path`, *optional*): Final folder of the drafter; `None` on the Hub. If the base drafter of an
            adapter is a folder, the adapter stores the folder's path relative to `destination`.
    Returns:
        `DrafterDescription`, as written to the folder.
    """
    if sources:
        description = _restrict(drafter, description, sources)
    tokenizer = target.load_tokenizer()
    network = AutoConfig.from_pretrained(drafter).model_type != MODEL_TYPE and (not sources or NETWORK in sources)
    if network:
        check_tokenizers(tokenizer, AutoTokenizer.from_pretrained(drafter), description.probes)
        model = AutoModelForCausalLM.from_pretrained(drafter, dtype=target.checkpoint_dtype())
        tie_equal_embeddings(model)
    else:
        model = NetworklessDrafter.for_vocabulary(target.load_config().get_text_config().vocab_size)
    set_special_ids(model, target, tokenizer, description.draft_length)
    over: dict[str, str] = {}
    if compact:
        write_compact(model, target.load_model(str(model.dtype).removeprefix("torch.")), folder, compact)
    elif adapter_of is None:
        model.save_pretrained(folder)
    else:
        over = _add_adapter(drafter, adapter_of, folder, destination)
    prompting: dict[str, Any] = {"stop": [*target.stop]} if target.stop else {}
    if target.chat_template is not None:
        (folder / _TEMPLATE).write_text(target.chat_template, encoding="utf-8")
        prompting["chat_template"] = _TEMPLATE
    if type(target.load_config()) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        prompting["auto_class"] = _IMAGE_TEXT
    size = size_of(model) if network and not over else {}
    description = dataclasses.replace(description, adapter_of=over, size=size, prompting=prompting)
    files = {name: drafter / name for name in description.files}
    return complete_folder(folder, description, tokenizer, files, keep_tokenizer=not compact)


def _restrict(drafter: Path, description: DrafterDescription, sources: Sequence[str]) -> DrafterDescription:
    """Keep only some of a drafter's sources, with the files that they read."""
    kept = [source for source in description.loop["sources"] if source in sources]
    needed = {TABLE: NGRAM, VOCABULARY: NETWORK}
    files = {name: digest for name, digest in description.files.items() if needed.get(name) in (None, *kept)}
    training = description.training
    if NETWORK not in sources:
        if TABLE not in files:
            raise InputError(f"{drafter} has no n-gram table: tune it first, or publish it with the network")
        training = {step: facts for step, facts in training.items() if step not in ("pretrain", "finetune")}
    loop = description.loop | {"sources": kept}
    return dataclasses.replace(description, loop=loop, files=files, training=training)


def _add_adapter(trained: Path, base: str, folder: Path, destination: Path | None) -> dict[str, str]:
    """Write a drafter's adapter, if base and adapter give the trained weights; return the base's identity."""
    adapter = trained / ADAPTER
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        raise InputError(f"{trained} holds no adapter: finetune with lora_rank")
    identity = Repository.open(base).identity
    revision = None if Path(base).is_dir() else identity
    model = AutoModelForCausalLM.from_pretrained(base, revision=revision, dtype=torch.float32)
    expected = AutoModelForCausalLM.from_pretrained(trained).state_dict()  # perhaps rounded to the target's dtype
    for name, weight in merge_adapter(model, adapter).state_dict().items():
        close = {"atol": 1e-5, "rtol": max(1e-5, torch.finfo(expected[name].dtype).eps)}
        if not torch.allclose(weight.to(expected[name].dtype), expected[name], **close):
            raise InputError(
                f"the adapter in {trained} was not trained over {base}: name the drafter that its training started "
                "from"
            )
    if Path(base).is_dir():
        if destination is None:
            raise InputError(f"adapter_of {base} is a local folder: publish this base drafter, and give its Hub id")
        base = os.path.relpath(Path(base).resolve(), destination.resolve())
    folder.mkdir()
    config = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": base, "revision": revision}
    write_json(folder / ADAPTER_CONFIG, config)
    shutil.copyfile(adapter / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
    return {"drafter": base, "revision": identity}
