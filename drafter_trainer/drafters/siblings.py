"""Known siblings: smaller models with a target's tokenizer, from which its drafter can start."""

from typing import NamedTuple

from drafter_trainer.errors import InputError


class Sibling(NamedTuple):
    """A smaller model with the tokenizer of some targets.

    Args:
        license (`str`): Identifier of its license, which a drafter that starts from it inherits.
        targets (`tuple[str, ...]`): Hub ids of the targets.
    """

    checkpoint: str
    license: str
    targets: tuple[str, ...]


# `create_drafter` compares the tokenizers by content before it loads weights; a license is what the model card says.
SIBLINGS = (
    Sibling(
        "google/gemma-3-270m-it",
        "gemma",
        (
            "google/gemma-3-4b-it",
            "google/gemma-3-12b-it",
            "google/gemma-3-27b-it",
            "google/translategemma-4b-it",
            "google/translategemma-12b-it",
            "google/translategemma-27b-it",
        ),
    ),
    Sibling("utter-project/EuroLLM-1.7B-Instruct", "apache-2.0", ("utter-project/EuroLLM-9B-Instruct",)),
    Sibling("Qwen/Qwen3-0.6B", "apache-2.0", ("Qwen/Qwen3-4B", "Qwen/Qwen3-8B", "Qwen/Qwen3-14B", "Qwen/Qwen3-32B")),
    Sibling(
        "Qwen/Qwen2.5-0.5B-Instruct",
        "apache-2.0",
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-14B-Instruct", "Qwen/Qwen2.5-32B-Instruct"),
    ),
    Sibling(
        "meta-llama/Llama-3.2-1B-Instruct",
        "llama3.2",
        (
            "meta-llama/Llama-3.1-8B-Instruct",
            "meta-llama/Llama-3.1-70B-Instruct",
            "meta-llama/Llama-3.3-70B-Instruct",
        ),
    ),
)


def sibling_of(target: str) -> Sibling:
    """Return the known sibling of a target."""
    found = next((sibling for sibling in SIBLINGS if target in sibling.targets), None)
    if found is None:
        known = ", ".join(name for sibling in SIBLINGS for name in sibling.targets)
        raise InputError(
            f"no sibling of {target} is known (only of {known}): name a smaller checkpoint with its tokenizer as "
            "initialization, or start from layers"
        )
    return found
