"""What may not be concluded, said where it holds and nowhere else."""

from typing import Any

from drafter_trainer.benchmark.caveats import caveats
from tests.benchmark.made import make_results, make_run

SECONDS = {"plain": [2.0] * 80, "drafter": [1.0] * 80}


def said(run: dict[str, Any], **provenance: Any) -> str:
    return "\n".join(caveats(make_results(run, **provenance)))


def test_every_weakness_is_said() -> None:
    """Few questions, loops, one timing, half of the outputs changed, code that nobody has: each misleads by itself."""
    run = make_run({"plain": [2.0] * 4, "drafter": [1.0] * 4})
    run["methods"][0]["looping_share"] = 0.25
    parted = [{"question_id": "q1", "position": 3, "margin": margin} for margin in (0.5, 0.125)]
    run["methods"][1]["losslessness"] = {"equal": 2, "prompts": 4, "divergences": parted}
    text = said(run, commit="0123abc+")
    for expected in (
        "float32 on a processor",
        "Only 4 questions",
        "25% of plain outputs end in a loop",
        "timed once",
        "another text: drafter 2 of 4. Where they part, the target's two best logits differ by 0.5 at most",
        "changed after commit 0123abc:",
    ):
        assert expected in text
    assert "Sampled" not in text
    assert "commit is not known" in said(run, commit="")
