"""Training with weights sharded over processes, as recipes/accelerate/fsdp.yaml has it, against one process."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from drafter_trainer.training.base import train_to_end
from tests.processes import run_ranks
from tests.training.conftest import make_rows
from tests.training.test_trainers import (
    DISTRIBUTED,
    METRICS,
    Stop,
    StoppedError,
    assert_same_weights,
    losses_of,
    make_trainer,
)

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "recipes" / "accelerate" / "fsdp.yaml"
PROCESSES = 2
EVERY_TWO_STEPS = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
# A wrong scale of the loss shows in gradient descent, which has no state of its own that a checkpoint could lose.
ADAM = {"optim": "adamw_torch", "learning_rate": 1e-2}


def shard_without_accelerator() -> None:
    """Let accelerate shard on processors, which torch does and accelerate does not ask it for."""
    start = PartialState.__init__

    def start_as_accelerator(self: PartialState, *given: Any, **named: Any) -> None:
        start(self, *given, **named)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = start_as_accelerator


def make_sharded_trainer(folder: Path, processes: int, **given: Any) -> Any:
    given |= {"load_best_model_at_end": True, "per_device_train_batch_size": 4 // processes}
    return make_trainer(folder, make_rows(16), **DISTRIBUTED | EVERY_TWO_STEPS | given)


def train_sharded(folder: Path) -> None:
    """Train as one of several processes: at once, and interrupted and gone on with."""
    torch.set_num_threads(1)
    shard_without_accelerator()
    plain = make_sharded_trainer(folder / "plain", PROCESSES)
    metrics = train_to_end(plain)
    whole = make_sharded_trainer(folder / "whole", PROCESSES, **ADAM)
    train_to_end(whole)
    with pytest.raises(StoppedError):  # between two checkpoints
        make_sharded_trainer(folder / "resumed", PROCESSES, callbacks=[Stop(3)], **ADAM).train()
    resumed = make_sharded_trainer(folder / "resumed", PROCESSES, **ADAM)
    train_to_end(resumed)
    sharded = [isinstance(weight, DTensor) for weight in whole.model_wrapped.parameters()]
    if whole.is_world_process_zero():
        result = {
            "type": whole.accelerator.distributed_type.value,
            "sharded": sharded,
            "losses": {"plain": losses_of(plain), "whole": losses_of(whole), "resumed": losses_of(resumed)},
            "metrics": metrics,
        }
        (folder / "results.json").write_text(json.dumps(result), encoding="utf-8")


def test_sharded_training_is_that_of_one_process_and_resumes(tmp_path: Path) -> None:
    """Prevent loss, weights or a resumed run from differing where no process has the whole head."""
    settings = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["fsdp_config"]
    environment = {name.upper(): str(value).lower() for name, value in settings.items()}
    environment |= {"FSDP_AUTO_WRAP_POLICY": settings["fsdp_auto_wrap_policy"]}
    environment |= {"FSDP_STATE_DICT_TYPE": settings["fsdp_state_dict_type"]}
    run_ranks(train_sharded, PROCESSES, tmp_path, ACCELERATE_USE_FSDP="true", **environment)
    result = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    alone = make_sharded_trainer(tmp_path / "alone", 1)
    metrics = train_to_end(alone)

    assert result["type"] == "FSDP"
    assert all(result["sharded"])
    assert result["losses"]["plain"] == pytest.approx(losses_of(alone), rel=1e-4)
    assert result["losses"]["resumed"] == pytest.approx(result["losses"]["whole"], rel=1e-6)
    for name in METRICS:
        assert result["metrics"][name] == pytest.approx(metrics[name], abs=1e-4)
    for name, other, tolerance in (("plain", "alone", 1e-4), ("resumed", "whole", 1e-6)):
        kept, expected = (load_file(tmp_path / folder / "model.safetensors") for folder in (name, other))
        assert_same_weights(kept, expected, atol=tolerance)
