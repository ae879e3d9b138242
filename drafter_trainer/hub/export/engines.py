"""Export a published drafter for vLLM, SGLang and llama.cpp, with checks of the requirements of each engine."""

import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import huggingface_hub
import torch
from jinja2 import StrictUndefined, Template
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from drafter_trainer.atomic import write_whole
from drafter_trainer.drafters.compact import COMPACT, embeddings_and_head, read_compact
from drafter_trainer.drafters.compatibility import check_tokenizers
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.drafters.repository import target_of
from drafter_trainer.drafters.saving import complete_folder
from drafter_trainer.errors import InputError, check_positive
from drafter_trainer.extras import require
from drafter_trainer.serving.commands import (
    DRAFTER_GGUF,
    NETWORK,
    PARTS,
    WHOLE,
    choose_draft_length,
    llamacpp_command,
    mixes_attention,
    vllm_command,
    vllm_config,
)
from drafter_trainer.serving.vllm import VERSION, open_for_engine
from drafter_trainer.targets import Target

ENGINES = ("vllm", "sglang", "llamacpp")
DTYPES = ("float32", "float16", "bfloat16")
STOCK = "drafter"  # folder of the stock model of a compact drafter
# If a model's path contains one of these words, vLLM loads it as another kind of drafter.
_READ_BY_VLLM = ("eagle-", "eagle3", "dflash", "dspark")


def export_drafter(
    drafter: str | Path,
    target: str | Target | PreTrainedModel | None = None,
    *,
    output_dir: str | Path,
    engines: Sequence[str] = ENGINES,
    draft_length: int | None = None,
    gguf_dtype: str = "float16",
    target_gguf: str | Path | None = None,
) -> list[str]:
    """Write the files with which vLLM, SGLang and llama.cpp use a drafter, after a check of their requirements.

    Args:
        drafter (`str` or `Path`): Folder or Hub id of a published drafter.
        target (`str`, `Target` or `PreTrainedModel`, *optional*): The target; by default the Hub model that the
            drafter names.
        output_dir (`str` or `Path`): Folder of the engines' files, with a README.
        engines (`Sequence[str]`, *optional*): Any of "vllm", "sglang" and "llamacpp"; all by default.
        draft_length (`int`, *optional*): Number of tokens that the engines draft in one round; by default chosen by
            the drafter's acceptance.
        gguf_dtype (`str`, *optional*, defaults to `"float16"`): Dtype of the weights in `drafter.gguf`.
        target_gguf (`str` or `Path`, *optional*): GGUF file of the target; its tokenizer is copied to `drafter.gguf`.
    Returns:
        `list[str]`: The passed checks, one sentence each.
    Raises:
        InputError: If the drafter or the target does not meet the requirements of an engine.
        IncompatibleTokenizerError: If their tokenizers differ.
    """
    if unknown := [engine for engine in engines if engine not in ENGINES]:
        raise InputError(f"engines must be among {', '.join(ENGINES)}, got {', '.join(unknown)}")
    if gguf_dtype not in DTYPES:
        raise InputError(f"gguf_dtype must be one of {', '.join(DTYPES)}, got {gguf_dtype}")
    check_positive(draft_length=draft_length)
    folder, target_gguf = Path(output_dir), Path(target_gguf) if target_gguf else None
    export = _resolve(str(drafter), target_of(drafter, target), folder)
    description, target_name = export.description, export.target.name
    lengths = {part: draft_length or choose_draft_length(description, part) for part in PARTS}
    length, files = lengths[NETWORK], {}
    checked = [f"The tokenizer is the same as that of {export.target.identity}: texts, ids and special tokens."]
    if "vllm" in engines:
        check_path(export.drafter)
        checked.append(check_sizes("vLLM", *export.configs) + ".")
        config = vllm_config(export.drafter, length, export.commit, NETWORK)
        files["vllm.json"] = json.dumps(config["speculative_config"], indent=2)
        config = vllm_config(export.drafter, lengths[WHOLE], export.commit)
        files["vllm_whole.txt"] = shlex.join([*vllm_command("python", target_name, config), *export.template()])
    if "sglang" in engines:
        files["sglang.txt"], check = _sglang_command(export, length)
        checked.append(check)
    folder.mkdir(parents=True, exist_ok=True)
    if "llamacpp" in engines:
        checked += _write_gguf(export, folder / DRAFTER_GGUF, gguf_dtype, target_gguf)
        files["llamacpp.txt"] = shlex.join(llamacpp_command(str(target_gguf or "TARGET.gguf"), DRAFTER_GGUF, length))
        files[FILE_NAME] = description.to_json().rstrip()  # read by `serve`
    files["README.md"] = _render_readme(export, files, checked).rstrip()
    for name, text in files.items():
        write_whole(folder / name, f"{text}\n")
    return checked


@dataclass(frozen=True)
class _Export:
    """A drafter with its target. Engines get `drafter`, a Hub id or an absolute path; `folder` has its files."""

    drafter: str
    commit: str | None
    folder: Path
    description: DrafterDescription
    target: Target
    configs: tuple[PreTrainedConfig, PreTrainedConfig]

    def template(self) -> list[str]:
        template = self.description.prompting.get("chat_template")
        return ["--chat-template", str(self.folder.resolve() / template)] if template else []


def _resolve(drafter: str, target: Target, output: Path) -> _Export:
    """Find a drafter's files, and compare its tokenizer with the target's; the engines do not compare them."""
    repository = open_for_engine(drafter)
    description, commit = repository.description, repository.commit
    folder = Path(huggingface_hub.snapshot_download(drafter, revision=commit)) if commit else Path(drafter).resolve()
    if COMPACT in description.weights:
        compact, folder, commit = folder, output.resolve() / STOCK, None
        description = _write_stock(compact, description, target, folder)
    configs = target.load_config(), AutoConfig.from_pretrained(folder)
    check_tokenizers(target.load_tokenizer(), AutoTokenizer.from_pretrained(folder), description.probes)
    return _Export(drafter if commit else str(folder), commit, folder, description, target, configs)


def _write_stock(compact: Path, description: DrafterDescription, target: Target, folder: Path) -> DrafterDescription:
    """Write a compact drafter as a stock model, with the target's embeddings, head and tokenizer."""
    dtype = AutoConfig.from_pretrained(compact).dtype or torch.float32
    model = read_compact(compact, *embeddings_and_head(target.load_model(str(dtype).removeprefix("torch."))), dtype)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    shutil.copyfile(compact / "generation_config.json", folder / "generation_config.json")
    files = {name: compact / name for name in description.files}
    return complete_folder(folder, description, target.load_tokenizer(), files)


def check_sizes(engine: str, target: PreTrainedConfig, draft: PreTrainedConfig) -> str:
    """Check that both vocabularies have the same size, as vLLM and SGLang require; return the beginning of a sentence.

    Source: `SpeculativeConfig` in vllm/config/speculative.py of vLLM; standalone_worker.py and model_config.py in
        python/sglang/srt of SGLang; both on their main branches in 2026
    """
    sizes = target.get_text_config().vocab_size, draft.vocab_size
    if sizes[0] != sizes[1]:
        raise InputError(
            f"{engine} needs vocabularies of the same size: the target's has {sizes[0]}, the drafter's {sizes[1]}: "
            f"train a drafter for this target, or leave {engine.lower()} out of engines"
        )
    return f"{engine}: both vocabularies have {sizes[0]} entries"


def check_path(location: str) -> None:
    """Raise an error if vLLM would load a Hub id or folder as another kind of drafter."""
    if named := [word for word in _READ_BY_VLLM if word in location.lower()]:
        raise InputError(
            f"vLLM loads {location} as another kind of drafter because its path contains {named[0]!r}: rename it"
        )


def _sglang_command(export: _Export, length: int) -> tuple[str, str]:
    """Return the command and a sentence with the passed checks."""
    check = check_sizes("SGLang", *export.configs)
    words = ["python", "-m", "sglang.launch_server", "--model-path", export.target.name]
    words += ["--speculative-algorithm", "STANDALONE", "--speculative-draft-model-path", export.drafter]
    if export.commit is not None:
        words += ["--speculative-draft-model-revision", export.commit]
    # One branch; the target verifies the drafted tokens and the token before them.
    words += ["--speculative-num-steps", str(length), "--speculative-eagle-topk", "1"]
    words += ["--speculative-num-draft-tokens", str(length + 1)]
    # SGLang starts a drafter with the target's context length, and fails if the drafter's own is shorter.
    target, draft = export.configs
    if (limit := draft.max_position_embeddings) < target.get_text_config().max_position_embeddings:
        words += ["--context-length", str(limit)]
        check += f"; the server's context is limited to {limit} tokens, the context length of the drafter"
    return shlex.join([*words, *export.template()]), f"{check}."


def _write_gguf(export: _Export, path: Path, dtype: str, target_gguf: Path | None) -> list[str]:
    """Write the GGUF file, and return sentences with the passed checks."""
    require("gguf", "gguf")
    from drafter_trainer.hub.export import gguf_file

    checked = [f"llama.cpp: the vocabulary is that of {target_gguf.name}."] if target_gguf else []

    def write_and_check(partial: Path) -> None:
        gguf_file.write_gguf(export.folder, dtype, partial, target_gguf)
        rounded, exact = gguf_file.check_gguf(export.folder, partial, dtype, export.description.probes)
        check = f"llama.cpp: {path.name}, loaded back, gives the drafter's token ids, and its logits to {rounded:.2g}"
        if exact > rounded:
            check += f" after the same rounding of weights; rounding to {dtype} changes logits by up to {exact:.2g}"
        checked.append(f"{check}.")

    write_whole(path, write_and_check)
    return checked


def _render_readme(export: _Export, files: Sequence[str], checked: list[str]) -> str:
    serve = ["vllm", "serve", export.target.name, *export.template()]
    if mixes_attention(export.folder / "config.json"):
        serve.append("--disable-hybrid-kv-cache-manager")
    template = (resources.files("drafter_trainer.hub.export") / "readme_template.md").read_text(encoding="utf-8")
    return Template(template, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).render(
        drafter=export.description.name,
        target=export.target.name,
        vllm=VERSION,
        serve=shlex.join(serve),
        stop=", ".join(map(json.dumps, export.description.prompting.get("stop", ()))),
        files=files,
        checked=checked,
    )
