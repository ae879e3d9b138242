"""Forecast the speedup of a drafter on this machine."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from accelerate import PartialState

from drafter_trainer.atomic import write_json
from drafter_trainer.corpora.questions import load_questions
from drafter_trainer.decoding.target_cache import TargetTexts
from drafter_trainer.drafters.load import load_drafter
from drafter_trainer.drafters.loop.generate import loop_of
from drafter_trainer.languages import get_pair
from drafter_trainer.provenance import collect_provenance
from drafter_trainer.targets import Target, end_ids
from drafter_trainer.tuning.completions import complete, load_completions, typical_prompt
from drafter_trainer.tuning.costs import (
    break_even,
    forecast_drafter,
    forecast_table,
    measure_costs,
    untrained_network,
)


def predict(
    target: Target,
    *,
    languages: str,
    output_dir: Path,
    drafter: str = "",
    shape: Mapping[str, int | None],
    rows: Path,
    questions: str = "",
    max_completions: int = 60,
    max_new_tokens: int = 128,
    longest_draft: int = 16,
    repeats: int = 5,
    dtype: str = "auto",
) -> str:
    """Forecast the speedup of a drafter from the times of this machine, and write predict.json.

    Args:
        target (`Target`): The target.
        languages (`str`): Language or pair. Without completions, a prompt of the sample in this language is timed.
        output_dir (`Path`): Folder of predict.json.
        drafter (`str`, *optional*): Hub id or folder of a trained drafter; defaults to an untrained drafter.
        shape (`Mapping[str, int]`): Depth and widths, as for `draft_config`, and `draft_vocabulary`.
        rows (`Path`): Folder of rows. A trained drafter is replayed on their held-out completions.
        questions (`str`, *optional*): Question set. A trained drafter is replayed on the target's completions of these
            questions instead.
        max_completions (`int`, *optional*, defaults to `60`): Maximum number of replayed completions.
        max_new_tokens (`int`, *optional*, defaults to `128`): Maximum number of tokens of a question's completion.
        longest_draft (`int`, *optional*, defaults to `16`): Maximum draft length, in tokens.
        repeats (`int`, *optional*, defaults to `5`): Number of timings of each draft length.
        dtype (`str`, *optional*, defaults to `"auto"`): The target's dtype; "auto" is the dtype of its checkpoint.
    Returns:
        `str`: The forecast as text.
    Raises:
        InputError: If there is no such drafter, or no completions to replay.
    """
    pair, asked, greedy = get_pair(languages), [], []
    if questions:
        asked = load_questions(questions, pair, max_completions)
    elif drafter:
        greedy = load_completions(rows, target, max_completions)[1]
    chat = target.load_chat()
    target_model = target.load_model(dtype, PartialState().device)
    if asked:
        prompts = [chat.encode_prompt(question.prompt) for question in asked]
        greedy = complete(target_model, chat.tokenizer, prompts, 0.0, max_new_tokens)
    if drafter:
        draft_model = load_drafter(drafter, target_model, chat.tokenizer)
        network = loop_of(draft_model).network
        longest_draft = max(longest_draft, loop_of(draft_model).settings.longest_draft)
    else:
        widths = {name: value for name, value in shape.items() if name != "draft_vocabulary"}
        draft_model, network = untrained_network(widths, target_model, shape["draft_vocabulary"], int8=True)
    prompt = typical_prompt(greedy) if greedy else chat.encode_prompt(load_questions("sample", pair, 1)[0].prompt)
    costs = measure_costs(target_model, draft_model, network, prompt, longest_draft, repeats)

    provenance = collect_provenance()
    computed = str(target_model.dtype).removeprefix("torch.")
    lines = [
        f"{target.name}, {computed}, {provenance['device']['name']}\n",
        f"plain decoding {costs.plain:.1f} ms per token, drafter {costs.step:.2f} ms per step",
        f"target passes over 1, 2, 3 ... tokens: {', '.join(f'{taken:.1f}' for taken in costs.passes)} ms\n",
    ]
    least = break_even(costs)
    if network is None:
        lines.append("The drafter's network does not draft, so there is no forecast by acceptance.")
    else:
        lines.append(forecast_table(costs))
        outcome = "is slower at every α" if least is None else f"breaks even at α = {least:.3f}"
        lines.append(f"\nThe drafter {outcome}.")
    record = {"provenance": provenance | {"target": target.identity}, "dtype": computed, "costs": asdict(costs)}
    record["break_even"] = least
    if drafter:
        forecast = forecast_drafter(draft_model, greedy, costs, end_ids(target_model), TargetTexts(target_model))
        of = Path(questions).name if questions else "held-out completions"
        record["forecast"] = {"drafter": drafter, "of": of} | forecast
        replayed = f"{forecast['answers']} {f'completions of {of}' if questions else of}"
        lines.append(
            f"\n{drafter}: expected speedup {forecast['speedup']:.2f}x, with "
            f"{forecast['tokens_per_pass']:.2f} tokens per target pass ({replayed})"
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / "predict.json", record)
    return "\n".join(lines)
