"""The card of self-distilled rows."""

from typing import Any

from huggingface_hub import DatasetCardData


def render_dataset_card(step: dict[str, Any], repo_id: str, licence: str | None) -> str:
    """Render the card of a run's self-distilled rows.

    Args:
        step (`dict`): What `step.json` of the distillation says.
        repo_id (`str`): Hub id of the data set.
        licence (`str`, *optional*): Licence identifier.
    Returns:
        `str`, Markdown with metadata in front.
    """
    metadata = DatasetCardData(license=licence, pretty_name=repo_id.rsplit("/", maxsplit=1)[-1])
    return f"---\n{metadata}\n---\n\n# {repo_id}\n\nAnswers of {step['inputs']['target']}.\n"
