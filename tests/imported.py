"""What most processes of the tests need, imported once in the process that they are forked from."""

import accelerate  # noqa: F401
import datasets  # noqa: F401
import torch

import drafter_trainer.hub.publish
import drafter_trainer.training.trainers  # noqa: F401

torch.set_num_threads(1)
