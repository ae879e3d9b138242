"""Write a drafter's files: what its repository holds, apart from card and results."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer

from drafter_trainer.atomic import write_json
from drafter_trainer.drafters.adapters import ADAPTER, ADAPTER_CONFIG, ADAPTER_WEIGHTS, merge_adapter
from drafter_trainer.drafters.compact import write_compact
from drafter_trainer.drafters.compatibility import check_tokenizers
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.drafters.loop.networkless import MODEL_TYPE, NetworklessDrafter
from drafter_trainer.drafters.loop.repository import TABLE, VOCABULARY
from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.drafters.loop.sources import NETWORK, NGRAM, SOURCES
from drafter_trainer.drafters.saving import complete_folder, describe_drafter, size_of, take_special_ids
from drafter_trainer.drafters.vocabulary import tie_equal_embeddings
from drafter_trainer.errors import InputError
from drafter_trainer.hub.card import IMAGE_TEXT
from drafter_trainer.languages import get_pair, read_languages
from drafter_trainer.provenance import without_folders
from drafter_trainer.repository import Repository
from drafter_trainer.runs import Run, finished_step, read_step
from drafter_trainer.targets import Target
from drafter_trainer.tuning.results import SETTINGS

_HYPERPARAMETERS = (
    "chat_template_kwargs",
    "sanitize_control_tokens",
    "initialization",
    "initial_layers",
    "num_hidden_layers",
    "freeze_embeddings",
    "temperatures",
    "max_new_tokens",
    "max_length",
    "num_train_epochs",
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "loss_type",
    "kl_weight",  # as losses were named in earlier runs
    "acceptance_weight",
    "lora_rank",
    "lora_alpha",
)
_TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True)
class DrafterParts:
    """The parts that a drafter is put together from.

    Args:
        network (`Path`, *optional*): Folder of its network; `None` for a drafter without one.
        files (`Mapping[str, Path]`): What the drafting loop reads besides, by name.
    """

    description: DrafterDescription
    network: Path | None
    files: Mapping[str, Path]


def parts_of_folder(
    drafter: Path,
    target: Target,
    name: str | None = None,
    languages: str | Iterable[str] | None = None,
    draft_length: int | None = None,
) -> DrafterParts:
    """Find the parts of a drafter in its folder, as a trainer or tuning left it.

    Args:
        drafter (`Path`): The folder; without a `drafter.json` in it, any stock model with the target's tokenizer.
    """
    if not (drafter / "config.json").is_file():
        raise InputError(f"{drafter} holds no drafter: name the folder that a trainer or tune left")
    spoken, pair = read_languages(languages)
    new = describe_drafter(name or drafter.resolve().name, target, spoken, pair)
    if (drafter / FILE_NAME).is_file():
        description = DrafterDescription.read(drafter)
        if description.target_revision != target.revision:
            raise InputError(
                f"{drafter} was trained for {description.target}@{description.target_revision}, the target is "
                f"{target.identity}: name its own target"
            )
        if languages is not None:
            description = dataclasses.replace(description, pair=new.pair, languages=new.languages)
        new = dataclasses.replace(description, name=name or description.name)
    if draft_length:
        new = dataclasses.replace(new, draft_length=draft_length)
    is_networkless = AutoConfig.from_pretrained(drafter).model_type == MODEL_TYPE
    return DrafterParts(new, None if is_networkless else drafter, {file: drafter / file for file in new.files})


def parts_of_run(run: Run, target: Target, sources: Sequence[str] = ()) -> DrafterParts:
    """Find the parts of a run's drafter in the folders of its steps."""
    network = not sources or NETWORK in sources
    if network:
        finished_step(run.finetuned, "finetune first")
    pair = get_pair(run.languages)
    loop, files = _read_loop(run, target, sources)
    known = {"loop": loop, "training": _training_record(run, network)}
    description = describe_drafter(run.name, target, pair.languages, pair if pair.is_translation else None, **known)
    return DrafterParts(description, run.finetuned if network else None, files)


def assemble(
    parts: DrafterParts,
    target: Target,
    folder: Path,
    adapter_of: str | None = None,
    compact: int = 0,
    place: Path | None = None,
) -> DrafterDescription:
    """Write a drafter's files, apart from card and results, to a new folder.

    The network's weights are stored in the dtype of the target's checkpoint, and embeddings that are equal to the
    head once.

    Args:
        adapter_of (`str`, *optional*): Write the network's LoRA adapter in place of whole weights, over this drafter.
        compact (`int`, *optional*, defaults to `0`): Bits of a weight, 8 or 4, of a repository without what is the
            target's own: embeddings, head and tokenizer; see `drafters.compact`. 0 for a stock model.
        place (`Path`, *optional*): Folder where it is going to be; `None` on the Hub. An adapter names a base drafter
            in a folder by the way from there.
    """
    tokenizer, description, network = target.load_tokenizer(), parts.description, parts.network
    if network is None:
        model = NetworklessDrafter.for_vocabulary(target.load_config().get_text_config().vocab_size)
    else:
        check_tokenizers(tokenizer, AutoTokenizer.from_pretrained(network), description.probes)
        model = AutoModelForCausalLM.from_pretrained(network, dtype=target.checkpoint_dtype())
        tie_equal_embeddings(model)
    take_special_ids(model, target, tokenizer, description.draft_length)
    over: dict[str, str] = {}
    if compact:
        write_compact(model, target.load_model(str(model.dtype).removeprefix("torch.")), folder, compact)
    elif adapter_of is None:
        model.save_pretrained(folder)
    else:
        over = _add_adapter(network, adapter_of, folder, place)
    size = size_of(model) if network and not over else {}
    prompting: dict[str, Any] = {"stop": [*target.stop]} if target.stop else {}
    if target.chat_template is not None:
        (folder / _TEMPLATE).write_text(target.chat_template, encoding="utf-8")
        prompting["chat_template"] = _TEMPLATE
    if type(target.load_config()) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        prompting["auto_class"] = IMAGE_TEXT
    description = dataclasses.replace(description, adapter_of=over, size=size, prompting=prompting)
    return complete_folder(folder, description, tokenizer, parts.files, keep_tokenizer=not compact)


def _add_adapter(trained: Path, base: str, folder: Path, place: Path | None) -> dict[str, str]:
    """Add a run's adapter, if over the drafter that is named it gives what was trained; identify that drafter."""
    adapter = trained / ADAPTER
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        raise InputError(f"{trained} holds no adapter: finetune with lora_rank")
    identity = Repository.open(base).identity
    revision = None if Path(base).is_dir() else identity
    model = AutoModelForCausalLM.from_pretrained(base, revision=revision, dtype=torch.float32)
    model = merge_adapter(model, adapter)
    expected = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32).state_dict()
    if any(not torch.allclose(weight, expected[name], atol=1e-5) for name, weight in model.state_dict().items()):
        raise InputError(
            f"the adapter in {trained} was not trained over {base}: name the drafter that its training started from"
        )
    if Path(base).is_dir():
        if place is None:
            raise InputError(f"adapter_of {base} is a folder, which nobody else has: publish it, and give its Hub id")
        base = os.path.relpath(Path(base).resolve(), place.resolve())
    folder.mkdir()
    config = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": base, "revision": revision}
    write_json(folder / ADAPTER_CONFIG, config)
    shutil.copyfile(adapter / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
    return {"drafter": base, "revision": identity}


def _read_loop(run: Run, target: Target, chosen: Sequence[str]) -> tuple[dict[str, Any], dict[str, Path]]:
    """Read what was tuned for the drafting loop: its settings, and its files by name."""
    trained, tuned, settings = run.finetuned, run.tuned, LoopSettings().to_dict()
    carried, tuned_for = [trained / VOCABULARY], []
    if read_step(tuned) is not None:
        step = finished_step(tuned, "tune again")
        tuned_for = step["settings"].get("sources", [])
        _check_tuning(tuned, step["inputs"], trained, target, chosen)
        place = tuned / SETTINGS
        settings = LoopSettings.from_dict(json.loads(place.read_text(encoding="utf-8")), str(place)).to_dict()
        carried = [tuned / VOCABULARY, tuned / TABLE]
    if chosen:
        if list(chosen) != tuned_for:  # else it is known which of them are best
            settings["sources"] = [source for source in SOURCES if source in chosen]
        needed = {TABLE: NGRAM, VOCABULARY: NETWORK}
        carried = [path for path in carried if needed[path.name] in settings["sources"]]
        if NETWORK not in settings["sources"] and not any(path.is_file() for path in carried):
            raise InputError(f"{run.folder} has no n-gram table: tune first, or publish with the network")
    return settings, {path.name: path for path in carried if path.is_file()}


def _check_tuning(tuned: Path, inputs: dict[str, str], trained: Path, target: Target, chosen: Sequence[str]) -> None:
    """Refuse what was tuned for another drafter, or without a network for another target."""
    if "drafter" in inputs:
        if inputs["drafter"] != finished_step(trained, "finetune first")["fingerprint"]:
            raise InputError(f"{tuned} was tuned for an earlier drafter: delete it and tune again")
    elif not chosen or NETWORK in chosen:
        raise InputError(
            f"{tuned} was tuned without a network: publish with the sources lookup and ngram, or tune again"
        )
    elif not target.is_known_as(inputs["target"]):
        raise InputError(f"{tuned} was tuned for {inputs['target']}, not {target.identity}: delete it and tune again")


def _training_record(run: Run, network: bool) -> dict[str, Any]:
    learned, tuned = (read_step(folder) for folder in (run.finetuned, run.tuned))
    rows = _rows_of(learned if network else tuned, run.rows)
    before = {"pretrain": read_step(run.pretrained)} if network else {}
    record = {}
    for name, step in (before | rows | ({"finetune": learned} if network else {}) | {"tune": tuned}).items():
        if step is not None:
            settings = {key: step["settings"][key] for key in _HYPERPARAMETERS if key in step["settings"]}
            if isinstance(start := settings.get("initialization"), str):
                settings["initialization"] = without_folders(start)
            record[name] = step["facts"] | settings
    return record


def _rows_of(step: dict[str, Any] | None, default: Path) -> dict[str, dict[str, Any] | None]:
    """Read the distillations of a step's rows, by their folders' names, or their runs' where those are alike."""
    given = step["settings"].get("data") if step else None
    folders = [Path(folder) for folder in ([given] if isinstance(given, str) else given or [default])]
    alike = len({folder.name for folder in folders}) < len(folders)
    return {(folder.parent if alike else folder).name: read_step(folder) for folder in folders}
