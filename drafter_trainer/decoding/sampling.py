"""The sampling settings of distillation and benchmark: a temperature, with all filters off."""

from typing import Any


def sampling_arguments(temperature: float) -> dict[str, Any]:
    """Return the arguments of `generate` for a temperature, 0.0 for greedy decoding.

    Every key that reshapes a distribution is set, because `generate` takes missing keys from the target's
    `generation_config.json`.
    """
    settings = {"do_sample": temperature > 0, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    if temperature > 0:
        settings |= {"temperature": temperature, "top_k": 0, "top_p": 1.0, "typical_p": 1.0}
        # None turns these filters off, and also overrides the target's file.
        settings |= {"min_p": None, "top_h": None, "epsilon_cutoff": None, "eta_cutoff": None}
    return settings


def describe_sampling(temperature: float, seed: int) -> str:
    """Describe a temperature and a seed for tables and titles: "greedy", or "T = 1, seed 0"."""
    return "greedy" if temperature == 0 else f"T = {temperature:g}, seed {seed}"
