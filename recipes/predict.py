# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["drafter_trainer==0.1.0"]
#
# [[tool.uv.index]]
# name = "wheels"
# url = "/wheels"
# format = "flat"
# explicit = true
#
# [tool.uv.sources]
# drafter_trainer = { index = "wheels" }
#
# [tool.hf-jobs]
# secrets = ["HF_TOKEN"]
# volumes = ["dist:/wheels"]
# ///
"""Forecast, before anyone trains, what a drafter of the configured shape would bring on this machine.

    accelerate launch recipes/predict.py --config recipes/configs/gemma-3-270m/de-en.yaml

Measures plain decoding, the target's passes over 1 to 17 tokens with all that the loop does around them, the
drafter's step and what drafting takes beside it; prints the speedup to expect at each acceptance, the best draft
length and the break-even, and leaves table and plot in RUN_FOLDER/predict. With --drafter, a trained one, it also
replays that drafter on the held-out answers of RUN_FOLDER/distill, or on the target's answers to your own --questions,
and says what a benchmark on them will show.
"""

import json
from dataclasses import asdict
from pathlib import Path

from accelerate import PartialState

from drafter_trainer.atomic import write_whole
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.cli.launch import require_one_process, run_recipe
from drafter_trainer.corpora.questions import load_questions
from drafter_trainer.drafters.load import load_drafter
from drafter_trainer.drafters.loop.generate import loop_of
from drafter_trainer.languages import get_pair
from drafter_trainer.provenance import collect_provenance
from drafter_trainer.targets import end_ids
from drafter_trainer.tuning.answers import answer_questions, load_answers, typical_prompt
from drafter_trainer.tuning.costs import measure_costs, untrained_network
from drafter_trainer.tuning.forecast import break_even, forecast_drafter, forecast_table
from drafter_trainer.tuning.overhead import attach_confident_loop, measure_overhead
from drafter_trainer.tuning.plots import plot_forecast

_PROMPTS = 8


def main(argv: list[str]) -> None:
    (run, where, shape, prediction), _ = parse_arguments("predict", argv, __doc__)
    pair = get_pair(run.pair)
    target = where.resolve()
    require_one_process("a forecast is made")
    rows = Path(prediction.data or run.folder / "distill")
    questions, greedy = [], []
    if prediction.questions:
        questions = load_questions(prediction.questions, pair, prediction.max_answers)
    elif prediction.drafter:
        greedy = load_answers(rows, target, prediction.max_answers)[1]
    chat = target.load_chat()
    tokenizer = chat.tokenizer
    target_model = target.load_model(where.dtype, PartialState().device)
    if questions:
        greedy = answer_questions(target_model, chat, questions, prediction.max_new_tokens)
    if prediction.drafter:
        draft_model = load_drafter(prediction.drafter, target_model, tokenizer)
        network = loop_of(draft_model).network
    else:
        draft_model, network = untrained_network(shape, target_model, prediction.draft_vocabulary, prediction.int8)
        attach_confident_loop(draft_model, network)
    prompts = [chat.encode_prompt(question.prompt) for question in load_questions("sample", pair, _PROMPTS)]
    overhead = measure_overhead(target_model, draft_model, prompts)
    longest = prediction.longest_draft
    if prediction.drafter:
        longest = max(longest, loop_of(draft_model).settings.longest_draft)
    typical = typical_prompt(greedy) if greedy else prompts[0]
    costs = measure_costs(target_model, draft_model, network, typical, longest, prediction.repeats)

    provenance = collect_provenance()
    title = f"{target.name}, {where.dtype}, {provenance['device']['name']}"
    print(f"{title}\n\nplain decoding {costs.plain:.1f} ms a token, drafter {costs.step:.2f} ms a step")
    if costs.step_without_graph is not None:
        print(f"without its CUDA graph the step takes {costs.step_without_graph:.2f} ms")
    print(
        f"beside its forwards the drafting loop takes {overhead['this_loop']:.2f} ms a drafted token, "
        f"{overhead['ratio']:.2f} of the {overhead['stock_loop']:.2f} ms of transformers' own loop\n"
    )
    least = break_even(costs)
    if network is None:
        print("Its network is not asked: what acceptance would bring is not forecast.")
    else:
        print(forecast_table(costs))
        print("\nNo acceptance makes it faster." if least is None else f"\nIt breaks even at α = {least:.3f}.")
    said = {
        "provenance": provenance | {"target": target.identity},
        "costs": asdict(costs),
        "overhead": overhead,
        "break_even": least,
    }
    if prediction.drafter:
        forecast = forecast_drafter(draft_model, greedy, costs, end_ids(target_model))
        of = Path(prediction.questions).name if questions else "held-out answers"
        said["forecast"] = {"drafter": prediction.drafter, "of": of} | forecast
        print(
            f"\n{prediction.drafter}: {forecast['speedup']:.2f}x is to be expected, with "
            f"{forecast['tokens_per_pass']:.2f} tokens a pass ({forecast['answers']} answers, {of})"
        )
    out = Path(prediction.out or run.folder / "predict")
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(said, indent=2, ensure_ascii=False) + "\n"
    write_whole(out / "predict.json", lambda path: path.write_text(text, encoding="utf-8"))
    write_whole(out / "predict.png", lambda path: plot_forecast(costs, title, path))
    print(f"\nplot: {out / 'predict.png'}")


if __name__ == "__main__":
    run_recipe(main)
