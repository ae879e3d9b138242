"""Train, publish and measure drafters that make a large language model faster in one language at a time."""

from drafter_trainer.drafters.load import load_drafter

__all__ = ["load_drafter"]
