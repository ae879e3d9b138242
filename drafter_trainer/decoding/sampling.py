"""The sampling settings of distillation and benchmark: temperature alone, everything else off and said."""

from typing import Any


def sampling_arguments(temperature: float) -> dict[str, Any]:
    """Return what `generate` is to be told for a temperature, 0.0 meaning greedy.

    Every key that reshapes a distribution is set here, because one left out is filled from the target's own
    `generation_config.json`.
    """
    settings = {"do_sample": temperature > 0, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    if temperature > 0:
        settings |= {"temperature": temperature, "top_k": 0, "top_p": 1.0, "typical_p": 1.0}
        # Off is None for these; given as an argument, it too overrides the target's file.
        settings |= {"min_p": None, "top_h": None, "epsilon_cutoff": None, "eta_cutoff": None}
    return settings


def describe_sampling(temperature: float, seed: int) -> str:
    """Say a temperature and a seed as tables and titles do: "greedy", or "T = 1, seed 0"."""
    return "greedy" if temperature == 0 else f"T = {temperature:g}, seed {seed}"
