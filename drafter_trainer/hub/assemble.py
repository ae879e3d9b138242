"""Write a drafter's files: what its repository holds, apart from card and results."""

import json
import os
import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from drafter_trainer.arguments import RunArguments
from drafter_trainer.drafters.adapters import ADAPTER, ADAPTER_CONFIG, ADAPTER_WEIGHTS, merge_adapter
from drafter_trainer.drafters.compact import COMPACT, write_compact
from drafter_trainer.drafters.compatibility import check_tokenizers, hash_tokenizer
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription, hash_file
from drafter_trainer.drafters.load import identify_drafter
from drafter_trainer.drafters.loop.generate import set_draft_length
from drafter_trainer.drafters.loop.networkless import NetworklessDrafter
from drafter_trainer.drafters.loop.policy import NETWORK, NGRAM, SOURCES
from drafter_trainer.drafters.loop.repository import TABLE, VOCABULARY
from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.drafters.vocabulary import tie_equal_embeddings
from drafter_trainer.errors import InputError
from drafter_trainer.languages import get_pair
from drafter_trainer.provenance import library_versions, without_folders
from drafter_trainer.steps import finished_step, read_step
from drafter_trainer.targets import Target
from drafter_trainer.tuning.results import SETTINGS

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
WEIGHTS = (
    "config.json",
    _SINGLE,
    "model-*.safetensors",
    _INDEX,
    COMPACT,
    ADAPTER_WEIGHTS,
    ADAPTER_CONFIG,
)
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


def assemble(
    run: RunArguments,
    target: Target,
    draft_length: int,
    folder: Path,
    adapter_of: str | None = None,
    sources: Sequence[str] = (),
    compact: bool = False,
    place: Path | None = None,
) -> DrafterDescription:
    """Write a drafter's files, apart from card and results, to a new folder.

    The network's weights are stored in the dtype of the target's checkpoint, and embeddings that are equal to the
    head once.

    Args:
        adapter_of (`str`, *optional*): Write the run's LoRA adapter in place of whole weights, over this drafter.
        sources (`Sequence[str]`, *optional*): Draft with these alone; all that were tuned if left out.
        compact (`bool`, *optional*, defaults to `False`): Leave out what is the target's own: embeddings, head and
            tokenizer; see `drafters.compact`.
        place (`Path`, *optional*): Folder where it is going to be; `None` on the Hub. An adapter names a base drafter
            in a folder by the way from there.
    Raises:
        InputError: If the run has no finished drafter, or without a network no table for this target, or its adapter
            is not over the drafter that is named.
        IncompatibleTokenizerError: If its tokenizer is not the target's.
    """
    trained, network = run.folder / "finetune", not sources or NETWORK in sources
    if network:
        finished_step(trained, "run finetune.py first")
    pair = get_pair(run.pair)
    tokenizer = target.load_tokenizer()
    if network:
        check_tokenizers(tokenizer, AutoTokenizer.from_pretrained(trained), pair.probes)

    if network:
        model = AutoModelForCausalLM.from_pretrained(trained, dtype=target.checkpoint_dtype())
        tie_equal_embeddings(model)
    else:
        config = AutoConfig.from_pretrained(target.path, revision=target.hub_revision)
        model = NetworklessDrafter.for_vocabulary(config.get_text_config().vocab_size)
    special = {name: _special_id(target, tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    ends = {"eos_token_id": target.end_ids(tokenizer)} if target.stop else {}
    model.generation_config = GenerationConfig(**special | ends)
    set_draft_length(model.generation_config, draft_length)
    for name, value in special.items():  # pipeline compares them here
        setattr(model.config, name, value)
    over: dict[str, str] = {}
    if compact:
        write_compact(model, target.load_model(str(model.dtype).removeprefix("torch.")), folder)
    elif adapter_of is None:
        model.save_pretrained(folder)
        index_weights(folder)
    else:
        over = _add_adapter(trained, adapter_of, folder, place)
    if not compact:
        tokenizer.save_pretrained(folder)
    sha256 = hash_tokenizer(tokenizer, pair.probes)
    loop, files = _add_loop(run, target, folder, sources)
    description = DrafterDescription(
        name=run.drafter_name,
        target=target.name,
        target_revision=target.revision,
        tokenizer_sha256=sha256,
        pair=str(pair),
        draft_length=draft_length,
        loop=loop,
        files=files,
        training=_training_record(run, network),
        versions=library_versions(),
        adapter_of=over,
        weights=hash_weights(folder),
        size=(
            {"parameters": f"{model.num_parameters():,}", "dtype": str(model.dtype).removeprefix("torch.")}
            if network and not over
            else {}
        )
        | {path.name: f"{path.stat().st_size / 1e6:.1f} MB" for path in sorted(folder.glob("*.safetensors"))},
    )
    (folder / FILE_NAME).write_text(description.to_json(), encoding="utf-8")
    return description


def hash_weights(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the files that a network is loaded from, by name."""
    return {path.name: hash_file(path) for pattern in WEIGHTS for path in sorted(folder.glob(pattern))}


def index_weights(folder: Path) -> None:
    """Name the tensors of the model in a folder in an index, which a model of one file does not need in transformers.

    vLLM and SGLang load every `*.safetensors` at a repository's root that no index rules out: table and draft
    vocabulary too, which are no weights. llama.cpp's converter compares the names with those that it finds.
    """
    weights = folder / _SINGLE
    if not weights.is_file():  # in shards, and save_pretrained wrote their index
        return
    with safe_open(weights, framework="pt") as file:
        names = sorted(file.keys())
        size = sum(tensor.nbytes for tensor in map(file.get_tensor, names))
    index = {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(names, _SINGLE)}
    (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _add_adapter(trained: Path, base: str, folder: Path, place: Path | None) -> dict[str, str]:
    """Add a run's adapter, if over the drafter that is named it gives what was trained; identify that drafter.

    Raises:
        InputError: If there is no adapter, or it was trained over another drafter.
    """
    adapter = trained / ADAPTER
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        raise InputError(f"{trained} holds no adapter: finetune with --lora_rank")
    identity = identify_drafter(base)
    revision = None if Path(base).is_dir() else identity
    model = AutoModelForCausalLM.from_pretrained(base, revision=revision, dtype=torch.float32)
    model = merge_adapter(model, adapter)
    expected = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32).state_dict()
    if any(not torch.allclose(weight, expected[name], atol=1e-5) for name, weight in model.state_dict().items()):
        raise InputError(f"the adapter in {trained} was not trained over {base}: name what --initialization named")
    if Path(base).is_dir():
        if place is None:
            raise InputError(f"adapter_of {base} is a folder, which nobody else has: publish it, and give its Hub id")
        base = os.path.relpath(Path(base).resolve(), place.resolve())
    folder.mkdir()
    config = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": base, "revision": revision}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(adapter / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
    return {"drafter": base, "revision": identity}


def _add_loop(
    run: RunArguments, target: Target, folder: Path, chosen: Sequence[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Add the drafting loop and what was tuned for it; return its settings and the hashes of its files."""
    sources = resources.files("drafter_trainer.drafters.loop")
    (folder / "custom_generate").mkdir()
    for source in sources.iterdir():
        if source.name.endswith(".py") and source.name != "__init__.py":
            (folder / "custom_generate" / source.name).write_bytes(source.read_bytes())
    trained, tuned, settings = run.folder / "finetune", run.folder / "tune", LoopSettings().to_dict()
    carried, tuned_for = [trained / VOCABULARY], []
    if read_step(tuned) is not None:
        step = finished_step(tuned, "run tune.py again")
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
            raise InputError(f"{run.folder} has no n-gram table: run tune.py, or publish with the network")
    files = {}
    for path in filter(Path.is_file, carried):
        shutil.copyfile(path, folder / path.name)
        files[path.name] = hash_file(path)
    if TABLE not in files:
        settings["sources"] = [source for source in settings["sources"] if source != NGRAM]
    return settings, files


def _check_tuning(tuned: Path, inputs: dict[str, str], trained: Path, target: Target, chosen: Sequence[str]) -> None:
    """Refuse what was tuned for another drafter, or without a network for another target."""
    if "drafter" in inputs:
        if inputs["drafter"] != finished_step(trained, "run finetune.py first")["fingerprint"]:
            raise InputError(f"{tuned} was tuned for an earlier drafter: delete it and run tune.py again")
    elif not chosen or NETWORK in chosen:
        raise InputError(f"{tuned} was tuned without a network: publish with --sources lookup ngram, or tune again")
    elif not target.is_known_as(inputs["target"]):
        raise InputError(
            f"{tuned} was tuned for {inputs['target']}, not {target.identity}: delete it and run tune.py again"
        )


def _special_id(target: Target, tokenizer, name: str) -> int | list[int] | None:
    own = getattr(GenerationConfig.from_pretrained(target.path, revision=target.hub_revision), name)
    return own if own is not None else getattr(tokenizer, name)


def _training_record(run: RunArguments, network: bool) -> dict[str, Any]:
    learned, tuned = (read_step(run.folder / name) for name in ("finetune", "tune"))
    rows = _rows_of(learned if network else tuned, run.folder / "distill")
    before = {"pretrain": read_step(run.folder / "pretrain")} if network else {}
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
