"""Write a drafter's folder: tokenizer, drafting loop and `drafter.json` next to the weights."""

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from drafter_trainer.atomic import hash_file, write_json, write_whole
from drafter_trainer.drafters.compact import COMPACT
from drafter_trainer.drafters.compatibility import hash_tokenizer
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.drafters.loop.build import TABLE, VOCABULARY
from drafter_trainer.drafters.loop.generate import set_draft_length
from drafter_trainer.drafters.loop.settings import LoopSettings
from drafter_trainer.drafters.loop.sources import NGRAM
from drafter_trainer.languages import Language, Pair
from drafter_trainer.provenance import library_versions
from drafter_trainer.targets import Target

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
WEIGHTS = (
    "config.json",
    _SINGLE,
    "model-*.safetensors",
    _INDEX,
    COMPACT,
    "adapter_model.safetensors",
    "adapter_config.json",
)
DRAFT_LENGTH = 5  # tokens that the stock loop drafts in one round
TUNING = "tuning"  # subfolder of a tuned drafter, with its trials and costs


def describe_drafter(
    name: str, target: Target, languages: Iterable[Language], pair: Pair | None, **facts: Any
) -> DrafterDescription:
    """Describe a drafter before its files are written: `complete_folder` fills in hashes, sizes and versions.

    Args:
        facts (`Any`): More fields of the description.
    """
    fields: dict[str, Any] = {"draft_length": DRAFT_LENGTH, "loop": LoopSettings().to_dict()} | facts
    return DrafterDescription(
        name=name,
        target=target.name,
        target_revision=target.revision,
        tokenizer_sha256="",
        pair=str(pair or ""),
        languages=[] if pair else [language.code for language in languages],
        **fields,
    )


def size_of(model: PreTrainedModel) -> dict[str, str]:
    """Return the number and the dtype of a network's parameters, for its card."""
    return {"parameters": f"{model.num_parameters():,}", "dtype": str(model.dtype).removeprefix("torch.")}


def set_special_ids(
    model: PreTrainedModel, target: Target, tokenizer: PreTrainedTokenizerBase, draft_length: int = DRAFT_LENGTH
) -> None:
    """Give a drafter the target's special ids, and the generation settings of an assistant; changed in place.

    Public checkpoints may state other ids than their tokenizer.
    """
    stated = GenerationConfig.from_pretrained(target.path, revision=target.hub_revision)
    special = {}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        own = getattr(stated, name)
        special[name] = own if own is not None else getattr(tokenizer, name)
    ends = {"eos_token_id": target.end_ids(tokenizer)} if target.stop else {}
    model.generation_config = GenerationConfig(**special | ends)
    set_draft_length(model.generation_config, draft_length)
    for name, value in special.items():  # transformers' pipeline compares these
        setattr(model.config, name, value)


def complete_folder(
    folder: Path,
    description: DrafterDescription,
    tokenizer: PreTrainedTokenizerBase,
    files: Mapping[str, Path | bytes],
    keep_tokenizer: bool = True,
) -> DrafterDescription:
    """Write tokenizer, drafting loop and `drafter.json` next to a drafter's weights.

    Args:
        folder (`Path`): Folder of the weights, as `save_pretrained` wrote them.
        description (`DrafterDescription`): Description; hashes, sizes, versions and existing sources are filled in.
        files (`Mapping[str, Path | bytes]`): Draft vocabulary and n-gram table, by name; earlier ones are deleted.
    Returns:
        `DrafterDescription`, as written.
    """
    _index_weights(folder)
    if keep_tokenizer:
        tokenizer.save_pretrained(folder)
    (folder / "custom_generate").mkdir(exist_ok=True)
    for source in resources.files("drafter_trainer.drafters.loop").iterdir():
        if source.name.endswith(".py") and source.name != "__init__.py":
            (folder / "custom_generate" / source.name).write_bytes(source.read_bytes())
    for name, content in files.items():
        write_whole(folder / name, content.read_bytes() if isinstance(content, Path) else content)
    for stale in {VOCABULARY, TABLE} - files.keys():
        (folder / stale).unlink(missing_ok=True)
    loop = dict(description.loop)
    if TABLE not in files:
        loop["sources"] = [source for source in loop["sources"] if source != NGRAM]
    size = {name: value for name, value in description.size.items() if not name.endswith(".safetensors")}
    size |= {path.name: f"{path.stat().st_size / 1e6:.1f} MB" for path in sorted(folder.glob("*.safetensors"))}
    values = vars(description) | {
        "tokenizer_sha256": hash_tokenizer(tokenizer, description.probes),
        "loop": loop,
        "files": {name: hash_file(folder / name) for name in files},
        "versions": library_versions(),
        "weights": {path.name: hash_file(path) for pattern in WEIGHTS for path in sorted(folder.glob(pattern))},
        "size": size,
    }
    completed = DrafterDescription(**values)
    write_whole(folder / FILE_NAME, completed.to_json())
    return completed


def _index_weights(folder: Path) -> None:
    """Write an index of a model's tensors, which transformers does not need for a model of one file.

    vLLM and SGLang load every `*.safetensors` at a repository's root that no index rules out, even the table and the
    draft vocabulary, which are no weights. llama.cpp's converter compares the names with the tensors that it finds.
    """
    weights = folder / _SINGLE
    if not weights.is_file():  # in shards, whose index save_pretrained wrote
        return
    with safe_open(weights, framework="pt") as file:
        names = sorted(file.keys())
        size = sum(tensor.nbytes for tensor in map(file.get_tensor, names))
    index = {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(names, _SINGLE)}
    write_json(folder / _INDEX, index)
