"""A published drafter for other engines: what vLLM, SGLang and llama.cpp are given, and the checks that each makes."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import huggingface_hub
from jinja2 import Environment, StrictUndefined
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

from drafter_trainer.atomic import write_whole
from drafter_trainer.drafters.compatibility import check_tokenizers
from drafter_trainer.drafters.description import DrafterDescription
from drafter_trainer.drafters.load import describe_drafter
from drafter_trainer.errors import InputError
from drafter_trainer.hub.export.arguments import ExportArguments
from drafter_trainer.hub.export.constraints import check_llamacpp, check_sglang, check_vllm, context_limit
from drafter_trainer.languages import get_pair
from drafter_trainer.targets import Target, resolve_commit

VLLM, SGLANG, LLAMACPP, GGUF = "vllm.json", "sglang.txt", "llamacpp.txt", "drafter.gguf"
_READ = [
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "*.jinja",
    "special_tokens_map.json",
]


@dataclass
class Export:
    """Hold what is exported.

    Args:
        drafter (`str`): Hub id or absolute folder, as the engines are given it.
        commit (`str`, *optional*): On the Hub.
        folder (`Path`): Where its files lie on this machine.
        description (`DrafterDescription`): What it says of itself.
        target (`Target`): The target.
        configs (`tuple[PreTrainedConfig, PreTrainedConfig]`): Of target and drafter.
        draft_length (`int`): Tokens drafted in one round.
        checked (`list[str]`): What was found out on the way, for the README.
    """

    drafter: str
    commit: str | None
    folder: Path
    description: DrafterDescription
    target: Target
    configs: tuple[PreTrainedConfig, PreTrainedConfig]
    draft_length: int
    checked: list[str] = field(default_factory=list)


def export_drafter(drafter: str, target: Target, folder: Path, options: ExportArguments) -> list[str]:
    """Write what other engines need of a drafter.

    Args:
        drafter (`str`): Hub id or folder of a published drafter.
        target (`Target`): The target that it was trained for.
        folder (`Path`): Where the files go; those of an earlier export are replaced.
        options (`ExportArguments`): Which engines, and how.
    Returns:
        `list[str]`, what was checked, a sentence each.
    Raises:
        InputError: If drafter and target are not what an engine asks for.
        IncompatibleTokenizerError: If their tokenizers differ.
    """
    export = _resolve(drafter, target, options.draft_length)
    files = {}
    if "vllm" in options.engines:
        files[VLLM] = json.dumps(_vllm_config(export), indent=2) + "\n"
    if "sglang" in options.engines:
        files[SGLANG] = _sglang_command(export) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    if "llamacpp" in options.engines:
        _write_gguf(export, folder / GGUF, options)
        files[LLAMACPP] = _llamacpp_command(export, options.target_gguf) + "\n"
    files["README.md"] = _render_readme(export, files)
    for name, text in files.items():
        write_whole(folder / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))
    return export.checked


def _resolve(drafter: str, target: Target, draft_length: int | None) -> Export:
    """Find drafter and target, and compare their tokenizers, which every engine takes for one and the same."""
    commit = None if Path(drafter).is_dir() else resolve_commit(drafter, None, "a published drafter")
    description = describe_drafter(drafter, commit)
    if description.adapter_of:
        raise InputError(
            f"{drafter} is an adapter of {description.adapter_of['drafter']}, and engines load whole drafters: "
            "publish it without --adapter_of"
        )
    if commit is None:
        place = Path(drafter).resolve()
        drafter = str(place)
    else:
        place = Path(huggingface_hub.snapshot_download(drafter, revision=commit, allow_patterns=_READ))
    configs = AutoConfig.from_pretrained(target.path, revision=target.hub_revision), AutoConfig.from_pretrained(place)
    probes = get_pair(description.pair).probes
    check_tokenizers(target.load_tokenizer(), AutoTokenizer.from_pretrained(place), probes)
    export = Export(drafter, commit, place, description, target, configs, draft_length or description.draft_length)
    export.checked.append(f"The tokenizer is that of {target.identity}: texts, ids and special tokens.")
    return export


def _vllm_config(export: Export) -> dict[str, str | int]:
    check_vllm(export.drafter, *export.configs)
    export.checked.append(f"vLLM: both vocabularies have {export.configs[1].vocab_size} entries.")
    revision = {} if export.commit is None else {"revision": export.commit}
    return {
        "method": "draft_model",
        "model": export.drafter,
        **revision,
        "num_speculative_tokens": export.draft_length,
    }


def _sglang_command(export: Export) -> str:
    check_sglang(*export.configs)
    said = f"SGLang: both vocabularies have {export.configs[1].vocab_size} entries"
    words = ["python", "-m", "sglang.launch_server", "--model-path", export.target.name]
    words += ["--speculative-algorithm", "STANDALONE", "--speculative-draft-model-path", export.drafter]
    if export.commit is not None:
        words += ["--speculative-draft-model-revision", export.commit]
    # One branch; the target verifies the drafts and the token before them.
    words += ["--speculative-num-steps", str(export.draft_length), "--speculative-eagle-topk", "1"]
    words += ["--speculative-num-draft-tokens", str(export.draft_length + 1)]
    if (limit := context_limit(*export.configs)) is not None:
        words += ["--context-length", str(limit)]
        said += f"; the drafter reads {limit} tokens, so the server's context is cut to them"
    export.checked.append(f"{said}.")
    return shlex.join(words)


def _llamacpp_command(export: Export, target_gguf: str | None) -> str:
    words = ["llama-server", "--model", target_gguf or "TARGET.gguf", "--spec-type", "draft-simple"]
    return shlex.join([*words, "--spec-draft-model", GGUF, "--spec-draft-n-max", str(export.draft_length)])


def _write_gguf(export: Export, path: Path, options: ExportArguments) -> None:
    try:
        from drafter_trainer.hub.export import gguf_file
    except ModuleNotFoundError as error:
        raise InputError(
            f"a GGUF file cannot be written ({error}): pip install 'drafter_trainer[gguf]', or leave llamacpp out of "
            "--engines"
        ) from error
    target_gguf = Path(options.target_gguf) if options.target_gguf else None
    expected = gguf_file.read_vocabulary(target_gguf) if target_gguf else None
    probes = get_pair(export.description.pair).probes

    def write_and_check(partial: Path) -> None:
        if options.converter:
            gguf_file.convert(Path(options.converter), export.folder, options.gguf_dtype, partial)
        else:
            pre_tokenizer = gguf_file.read_pre_tokenizer(target_gguf) if target_gguf else None
            gguf_file.write_gguf(export.folder, options.gguf_dtype, pre_tokenizer, partial)
        if expected:
            check_llamacpp(expected, gguf_file.read_vocabulary(partial))
            export.checked.append(
                f"llama.cpp: its comparison of the vocabulary with that of {target_gguf.name} passes."
            )
        rounded, itself = gguf_file.check_gguf(export.folder, partial, options.gguf_dtype, probes)
        said = f"llama.cpp: {path.name}, loaded back, gives the drafter's token ids, and its logits to {rounded:.2g}"
        if itself > rounded:
            said += f" with weights rounded alike; {options.gguf_dtype} itself moves them by {itself:.2g} at most"
        export.checked.append(f"{said}.")

    write_whole(path, write_and_check)


def _render_readme(export: Export, files: Sequence[str]) -> str:
    template = (resources.files("drafter_trainer.hub.export") / "readme_template.md").read_text(encoding="utf-8")
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(template).render(
        drafter=export.description.name,
        target=export.target.name,
        serve=shlex.join(["vllm", "serve", export.target.name]),
        files=files,
        checked=export.checked,
    )
