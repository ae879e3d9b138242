"""A published drafter for other engines: what vLLM, SGLang and llama.cpp are given, and the checks that each makes."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import huggingface_hub
from jinja2 import Environment, StrictUndefined
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from drafter_trainer.atomic import write_whole
from drafter_trainer.drafters.compact import COMPACT
from drafter_trainer.drafters.compatibility import check_tokenizers
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.errors import InputError, check_positive
from drafter_trainer.extras import require
from drafter_trainer.hub.export.stock import write_stock
from drafter_trainer.repository import target_of
from drafter_trainer.serving.commands import (
    DRAFTER_GGUF,
    NETWORK,
    PARTS,
    WHOLE,
    choose_draft_length,
    drafts_together,
    llamacpp_command,
    mixes_attention,
    template_words,
    vllm_command,
    vllm_config,
)
from drafter_trainer.serving.drafter import open_for_engine
from drafter_trainer.serving.vllm import VERSION
from drafter_trainer.targets import Target

ENGINES = ("vllm", "sglang", "llamacpp")
DTYPES = ("float32", "float16", "bfloat16")
VLLM, WHOLE_VLLM, SGLANG, LLAMACPP = "vllm.json", "vllm_whole.txt", "sglang.txt", "llamacpp.txt"
STOCK = "drafter"
# vLLM takes another method than the one that is named where the model's path has one of these in it.
_READ_BY_VLLM = ("eagle-", "eagle3", "dflash", "dspark")


@dataclass
class Export:
    """A drafter exported for engines.

    Args:
        drafter (`str`): Hub id or absolute folder, as the engines are given it.
        draft_lengths (`dict[str, int]`): Tokens drafted in one round, by what drafts: "whole" or "network".
    """

    drafter: str
    commit: str | None
    folder: Path
    description: DrafterDescription
    target: Target
    configs: tuple[PreTrainedConfig, PreTrainedConfig]
    draft_lengths: dict[str, int]
    checked: list[str] = field(default_factory=list)

    def template(self, engine: str) -> list[str]:
        """Return the words that name the chat template of a base model to an engine."""
        return template_words(engine, self.description, self.folder)


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
    """Write what vLLM, SGLang and llama.cpp need of a drafter, and check what each of them asks for.

    Args:
        drafter (`str` or `Path`): Folder or Hub id of a published drafter.
        target (`str`, `Target` or `PreTrainedModel`, *optional*): The target; the one that the drafter names, on the
            Hub, if left out.
        output_dir (`str` or `Path`): Folder of the engines' files, with a README.
        engines (`Sequence[str]`, *optional*): Of "vllm", "sglang" and "llamacpp"; all of them by default.
        draft_length (`int`, *optional*): Draft length of the engines, in tokens; by the drafter's acceptance if left
            out.
        gguf_dtype (`str`, *optional*, defaults to `"float16"`): Of the weights in `drafter.gguf`.
        target_gguf (`str` or `Path`, *optional*): The target's GGUF file, whose tokenizer `drafter.gguf` gets.
    Returns:
        `list[str]`: What was checked, a sentence each.
    Raises:
        InputError: If drafter and target are not what an engine asks for.
        IncompatibleTokenizerError: If their tokenizers differ.
    """
    if unknown := [engine for engine in engines if engine not in ENGINES]:
        raise InputError(f"engines may name {', '.join(ENGINES)}, got {', '.join(unknown)}")
    if gguf_dtype not in DTYPES:
        raise InputError(f"gguf_dtype must be one of {', '.join(DTYPES)}, got {gguf_dtype}")
    check_positive(draft_length=draft_length)
    folder, target_gguf = Path(output_dir), Path(target_gguf) if target_gguf else None
    export = _resolve(str(drafter), target_of(drafter, target), folder, draft_length)
    files = {}
    if "vllm" in engines:
        check_path(export.drafter)
        export.checked.append(check_sizes("vLLM", *export.configs) + ".")
        length = export.draft_lengths[NETWORK]
        together = drafts_together(export.description, length)
        config = vllm_config(export.drafter, length, export.commit, NETWORK, together)
        files[VLLM] = json.dumps(config["speculative_config"], indent=2) + "\n"
        config = vllm_config(export.drafter, export.draft_lengths[WHOLE], export.commit)
        files[WHOLE_VLLM] = shlex.join([*vllm_command("python", export.target.name, config), *export.template("vllm")])
        files[WHOLE_VLLM] += "\n"
    if "sglang" in engines:
        files[SGLANG] = _sglang_command(export) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    if "llamacpp" in engines:
        _write_gguf(export, folder / DRAFTER_GGUF, gguf_dtype, target_gguf)
        command = llamacpp_command(str(target_gguf or "TARGET.gguf"), DRAFTER_GGUF, export.draft_lengths[NETWORK])
        files[LLAMACPP] = shlex.join(command) + "\n"
        files[FILE_NAME] = export.description.to_json()  # which `serve` reads there
    files["README.md"] = _render_readme(export, files)
    for name, text in files.items():
        write_whole(folder / name, text)
    return export.checked


def _resolve(drafter: str, target: Target, folder: Path, draft_length: int | None) -> Export:
    """Find drafter and target, and compare their tokenizers, which every engine takes for one and the same."""
    repository = open_for_engine(drafter)
    description, commit = repository.description, repository.commit
    if commit is None:
        place = Path(drafter).resolve()
        drafter = str(place)
    else:
        place = Path(huggingface_hub.snapshot_download(drafter, revision=commit))
    if COMPACT in description.weights:
        compact, place, commit = place, folder.resolve() / STOCK, None
        description = write_stock(compact, description, target, place)
        drafter = str(place)
    configs = AutoConfig.from_pretrained(target.path, revision=target.hub_revision), AutoConfig.from_pretrained(place)
    probes = description.probes
    check_tokenizers(target.load_tokenizer(), AutoTokenizer.from_pretrained(place), probes)
    lengths = {part: draft_length or choose_draft_length(description, part) for part in PARTS}
    export = Export(drafter, commit, place, description, target, configs, lengths)
    export.checked.append(f"The tokenizer is that of {target.identity}: texts, ids and special tokens.")
    return export


def check_sizes(engine: str, target: PreTrainedConfig, draft: PreTrainedConfig) -> str:
    """Check what vLLM's method `draft_model` and SGLang's STANDALONE ask for, vocabularies of one size, and say so.

    Source: `SpeculativeConfig` in vllm/config/speculative.py of vLLM; standalone_worker.py and model_config.py in
        python/sglang/srt of SGLang; read at their main branches of 2026
    """
    sizes = target.get_text_config().vocab_size, draft.vocab_size
    if sizes[0] != sizes[1]:
        raise InputError(
            f"{engine} needs vocabularies of one size: the target's has {sizes[0]}, the drafter's {sizes[1]}: train a "
            f"drafter for this target, or leave {engine.lower()} out of the engines"
        )
    return f"{engine}: both vocabularies have {sizes[0]} entries"


def check_path(location: str) -> None:
    """Refuse a drafter whose Hub id or folder vLLM takes for that of another kind of drafter."""
    if named := [word for word in _READ_BY_VLLM if word in location.lower()]:
        raise InputError(
            f"vLLM takes {location} for another kind of drafter, since its path has {named[0]!r} in it: rename it"
        )


def _sglang_command(export: Export) -> str:
    said, length = check_sizes("SGLang", *export.configs), export.draft_lengths[NETWORK]
    words = ["python", "-m", "sglang.launch_server", "--model-path", export.target.name]
    words += ["--speculative-algorithm", "STANDALONE", "--speculative-draft-model-path", export.drafter]
    if export.commit is not None:
        words += ["--speculative-draft-model-revision", export.commit]
    # One branch; the target verifies the drafts and the token before them.
    words += ["--speculative-num-steps", str(length), "--speculative-eagle-topk", "1"]
    words += ["--speculative-num-draft-tokens", str(length + 1)]
    # It gives the drafter the target's context, and refuses one that is longer than the drafter's own.
    target, draft = export.configs
    if (limit := draft.max_position_embeddings) < target.get_text_config().max_position_embeddings:
        words += ["--context-length", str(limit)]
        said += f"; the drafter reads {limit} tokens, so the server's context is cut to them"
    export.checked.append(f"{said}.")
    return shlex.join([*words, *export.template("sglang")])


def _write_gguf(export: Export, path: Path, dtype: str, target_gguf: Path | None) -> None:
    require("gguf", "gguf")
    from drafter_trainer.hub.export import gguf_file

    probes = export.description.probes

    def write_and_check(partial: Path) -> None:
        gguf_file.write_gguf(export.folder, dtype, partial, target_gguf)
        if target_gguf:
            export.checked.append(f"llama.cpp: the vocabulary is that of {target_gguf.name}.")
        rounded, itself = gguf_file.check_gguf(export.folder, partial, dtype, probes)
        said = f"llama.cpp: {path.name}, loaded back, gives the drafter's token ids, and its logits to {rounded:.2g}"
        if itself > rounded:
            said += f" with weights rounded alike; {dtype} itself moves them by {itself:.2g} at most"
        export.checked.append(f"{said}.")

    write_whole(path, write_and_check)


def _render_readme(export: Export, files: Sequence[str]) -> str:
    serve = ["vllm", "serve", export.target.name, *export.template("vllm")]
    if mixes_attention(export.folder / "config.json"):
        serve.append("--disable-hybrid-kv-cache-manager")
    template = (resources.files("drafter_trainer.hub.export") / "readme_template.md").read_text(encoding="utf-8")
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(template).render(
        drafter=export.description.name,
        target=export.target.name,
        vllm=VERSION,
        serve=shlex.join(serve),
        stop=", ".join(map(json.dumps, export.description.prompting.get("stop", ()))),
        files=files,
        checked=export.checked,
    )
