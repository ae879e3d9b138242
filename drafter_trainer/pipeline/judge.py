"""Let a language model grade the completions that a benchmark kept."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drafter_trainer.atomic import write_whole
from drafter_trainer.benchmark.judge import Chat, judge, summarise
from drafter_trainer.benchmark.outputs import FILE_NAME, read_outputs
from drafter_trainer.distillation.servers import ServerEngine
from drafter_trainer.provenance import collect_provenance
from drafter_trainer.runs import Step

_JUDGEMENT_TOKENS = 1024
_CONCURRENCY = 8  # requests in flight at each server
_TIMEOUT = 600.0  # seconds for one judgement


def judge_outputs(
    folder: Path, servers: Sequence[str], model: str, settings: Mapping[str, Any]
) -> tuple[Step, Any, list[str]]:
    """Grade each completion, and write judge.json beside them.

    Args:
        folder (`Path`): Folder of `outputs.jsonl`, as the benchmark left it.
        servers (`Sequence[str]`): OpenAI-compatible servers.
        model (`str`): The servers' name for the judge.
        settings (`Mapping[str, Any]`): What the step records, by which it is known again.
    Returns:
        `tuple` of the step, the grades by method, and why judgements were refused.
    Raises:
        InputError: If there are no completions, or the folder holds judgements of others.
    """
    outputs = read_outputs(folder / FILE_NAME)
    hashed = hashlib.sha256((folder / FILE_NAME).read_bytes()).hexdigest()
    step = Step(folder / "judge", "judge", settings, {"outputs": hashed})
    step.is_finished()  # refuses judgements of other completions; of these, what was refused is asked again
    engine = ServerEngine(Chat(model), servers, _CONCURRENCY, _TIMEOUT)
    with step:
        judged = judge(outputs, engine, _JUDGEMENT_TOKENS, step.folder / "journal.jsonl")
        methods = summarise(outputs, judged, _JUDGEMENT_TOKENS)
        results = {"judge": model, "answers": hashed, "methods": methods, "provenance": collect_provenance()}
        text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
        write_whole(folder / "judge.json", lambda partial: partial.write_text(text, encoding="utf-8"))
    return step, methods, [line["refused"] for line in judged.values() if "refused" in line]
