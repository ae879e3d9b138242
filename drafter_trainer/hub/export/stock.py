"""The stock repository of a compact drafter: what engines load, which take nothing from the target."""

import dataclasses
import shutil
from pathlib import Path

import torch
from transformers import AutoConfig

from drafter_trainer.drafters.compact import read_compact
from drafter_trainer.drafters.description import FILE_NAME, DrafterDescription
from drafter_trainer.drafters.saving import hash_weights, index_weights
from drafter_trainer.targets import Target


def write_stock(compact: Path, description: DrafterDescription, target: Target, folder: Path) -> DrafterDescription:
    """Write a compact drafter with the embeddings, the head and the tokenizer of its target."""
    dtype = AutoConfig.from_pretrained(compact).dtype or torch.float32
    model = read_compact(compact, target.load_model(str(dtype).removeprefix("torch.")), dtype)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    index_weights(folder)
    target.load_tokenizer().save_pretrained(folder)
    for name in (*description.files, "generation_config.json"):
        shutil.copyfile(compact / name, folder / name)
    description = dataclasses.replace(description, weights=hash_weights(folder))
    (folder / FILE_NAME).write_text(description.to_json(), encoding="utf-8")
    return description
