"""Methods of the literature to compare with: Lookahead decoding, Medusa, EAGLE, and drafts by early exit.

All methods run in `target.generate`, like the project's own drafters. Early exit is part of transformers. The other
methods replace its decoding loop (`custom_generate`). They are small implementations of this project, because no
library on the package index was sufficient for a comparison (in November 2026). economize 0.3.2 trains Medusa heads
and runs with transformers 5.23, but does not verify their tree when called from `generate`. It runs the target with
its own runner and cache instead of the target's forward, drafts only chains with EAGLE-3, and has neither the first
version of EAGLE nor Lookahead. flashspec 0.3.1 has none of the three. speculators 0.9.0 trains EAGLE-3 for vLLM, does
not decode, and needs transformers 5.19 or older.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from benchmarks.baselines.decoding import TreeDecoding
from benchmarks.baselines.eagle import EagleDecoding, EagleLayer
from benchmarks.baselines.lookahead import LookaheadDecoding
from benchmarks.baselines.medusa import MedusaDecoding, MedusaHeads
from benchmarks.baselines.tree import grow_tree
from drafter_trainer.benchmark.methods import Method
from drafter_trainer.drafters.loop.build import VOCABULARY
from drafter_trainer.drafters.loop.generate import set_draft_length
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target

DESCRIPTION = "baseline.json"
_OLD_DESCRIPTION, _OLD_KEY = "rival.json", "rival"  # of folders that an earlier release trained
TRAINED = ("medusa", "eagle")
_WEIGHTS = "model.safetensors"
_EARLY_EXIT_LENGTH = 3
_EAGLE_DEPTH = 4  # levels of the tree; the accuracy of a guess is measured for one level and assumed for all levels


def build_baselines(
    target: Target,
    target_model: PreTrainedModel,
    baselines: Sequence[str],
    folders: Mapping[str, Path],
    lookahead: Sequence[int] = (5, 4, 5),
    tree_nodes: int = 12,
) -> list[Method]:
    """List the requested baselines as methods of a table.

    Args:
        target_model (`PreTrainedModel`): The model of the target. For early exit, its draft length is set.
        baselines (`Sequence[str]`): Any of "lookahead", "medusa", "eagle" and "early_exit".
        folders (`Mapping[str, Path]`): Folders of the trained baselines.
        lookahead (`Sequence[int]`, *optional*): Window, tokens of an n-gram, and maximum n-grams in one pass.
        tree_nodes (`int`, *optional*, defaults to `12`): Size of the trees of Medusa and EAGLE.
    """
    methods = []
    for baseline in baselines:
        match baseline:
            case "lookahead":
                window, ngram, guesses = lookahead
                methods.append(_looping("Lookahead", LookaheadDecoding(window, ngram, guesses)))
            case "medusa":
                decoding = load_medusa(folders[baseline], target, target_model, tree_nodes)
                methods.append(_looping("Medusa", decoding, lossy=True))
            case "eagle":
                methods.append(_looping("EAGLE", load_eagle(folders[baseline], target, target_model, tree_nodes)))
            case _:
                methods.append(_early_exit(target_model))
    return methods


def load_medusa(folder: Path, target: Target, target_model: PreTrainedModel, nodes: int) -> MedusaDecoding:
    """Load Medusa heads with their tree."""
    said = _read_description(folder, "medusa", target)
    heads = MedusaHeads(said["heads"], target_model.config.get_text_config().hidden_size)
    weight, draft_ids = _load(heads, folder, target_model)
    return MedusaDecoding(heads, weight, draft_ids, grow_tree(said["rank_accuracies"], nodes))


def load_eagle(folder: Path, target: Target, target_model: PreTrainedModel, nodes: int) -> EagleDecoding:
    """Load an EAGLE layer with its tree."""
    said = _read_description(folder, "eagle", target)
    layer = EagleLayer(target_model.config.get_text_config())
    weight, draft_ids = _load(layer, folder, target_model)
    shape = grow_tree(said["rank_accuracies"] * _EAGLE_DEPTH, nodes)
    return EagleDecoding(layer, target_model.get_input_embeddings(), weight, draft_ids, shape)


def _looping(name: str, decoding: TreeDecoding, lossy: bool = False) -> Method:
    return Method(name, decoding.draft_length, {"custom_generate": decoding}, lossy)


def _early_exit(target_model: PreTrainedModel) -> Method:
    layer = target_model.config.get_text_config().num_hidden_layers // 2
    if not layer:
        raise InputError("early_exit: a target of one layer has none to leave out")
    # Assisted decoding reads the draft length from the drafter's configuration, which here is the target itself.
    set_draft_length(target_model.generation_config, _EARLY_EXIT_LENGTH)
    return Method(f"early exit after {layer} layers", _EARLY_EXIT_LENGTH, {"assistant_early_exit": layer})


def _read_description(folder: Path, baseline: str, target: Target) -> dict[str, Any]:
    paths = [folder / name for name in (DESCRIPTION, _OLD_DESCRIPTION)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise InputError(f"{folder} has no {DESCRIPTION} of {baseline}: train it first, or name its folder")
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}): delete {folder} and train it again") from error
    if (held := said.get("baseline", said.get(_OLD_KEY))) != baseline:
        raise InputError(f"{folder} holds {held}, expected {baseline}: name another folder")
    if not target.is_known_as(said["target"]):
        raise InputError(
            f"{folder} was trained for {said['target']}, the target is {target.identity}: train it for this one"
        )
    if not any(map(any, said["rank_accuracies"])):
        raise InputError(f"{folder}: none of its guesses was right on held-out rows: train it on more of them")
    return said


def _load(module: torch.nn.Module, folder: Path, target_model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Load the weights of a module; return the target's head over the draft vocabulary, and the ids of its rows."""
    try:
        module.load_state_dict(load_file(folder / _WEIGHTS))
        draft_ids = load_file(folder / VOCABULARY)["ids"].long()
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{folder} cannot be loaded: {reason}: delete it and train it again") from error
    module.to(target_model.device, target_model.dtype).eval()
    draft_ids = draft_ids.to(target_model.device)
    weight = target_model.get_output_embeddings().weight
    return (weight if len(draft_ids) == len(weight) else weight[draft_ids]), draft_ids
