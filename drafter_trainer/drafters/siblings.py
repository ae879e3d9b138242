"""Known siblings: smaller models with a target's tokenizer, from which its drafter can start."""

from drafter_trainer.errors import InputError

# Targets by sibling. `create_drafter` compares the tokenizers by content before it loads weights.
SIBLINGS = {
    "google/gemma-3-270m-it": (
        "google/gemma-3-4b-it",
        "google/gemma-3-12b-it",
        "google/gemma-3-27b-it",
        "google/translategemma-4b-it",
        "google/translategemma-12b-it",
        "google/translategemma-27b-it",
    ),
    "utter-project/EuroLLM-1.7B-Instruct": ("utter-project/EuroLLM-9B-Instruct",),
    "Qwen/Qwen3-0.6B": ("Qwen/Qwen3-4B", "Qwen/Qwen3-8B", "Qwen/Qwen3-14B", "Qwen/Qwen3-32B"),
    "Qwen/Qwen2.5-0.5B-Instruct": (
        "Qwen/Qwen2.5-7B-Instruct",
        "Qwen/Qwen2.5-14B-Instruct",
        "Qwen/Qwen2.5-32B-Instruct",
    ),
    "meta-llama/Llama-3.2-1B-Instruct": (
        "meta-llama/Llama-3.1-8B-Instruct",
        "meta-llama/Llama-3.1-70B-Instruct",
        "meta-llama/Llama-3.3-70B-Instruct",
    ),
}


def sibling_of(target: str) -> str:
    """Return the known sibling of a target."""
    found = next((sibling for sibling, targets in SIBLINGS.items() if target in targets), None)
    if found is None:
        known = ", ".join(name for targets in SIBLINGS.values() for name in targets)
        raise InputError(
            f"no sibling of {target} is known (only of {known}): name a smaller checkpoint with its tokenizer as "
            "initialization, or start from layers"
        )
    return found
