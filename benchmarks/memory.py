"""Tokens per target pass of a drafter with a memory and without, on repeated questions.

    python benchmarks/memory.py --config recipes/configs/gemma-3-270m/de-en.yaml \
        --drafter hub_cards/gemma-3-270m-drafter-de-en

The target completes the questions greedily, once. Then both drafters are replayed on these completions, one after
another: first the questions, then the same questions word for word, then each question with an additional new
sentence. Nothing depends on the clock, because the drafters use their stored costs.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from reporting import RESULTS, report

from drafter_trainer import CompletionMemory, load_drafter
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.corpora.reading import read_sentences
from drafter_trainer.decoding.metrics import Round, mean_accepted_tokens
from drafter_trainer.decoding.target_cache import TargetTexts
from drafter_trainer.distillation.engines import TransformersEngine
from drafter_trainer.distillation.requests import Request
from drafter_trainer.drafters.loop.drafting import DraftingLoop
from drafter_trainer.drafters.loop.generate import loop_of
from drafter_trainer.languages import get_pair, translation_prompt

SPLIT = "test"


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="Of the target and the pair")
    parser.add_argument("--drafter", required=True, help="Folder or id of the drafter")
    parser.add_argument("--corpus", default="sample", help="Its test split is asked")
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--max_new_tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    (run, where, *_), _ = parse_arguments("export", ["--config", options.config], __doc__)
    pair, target, limit = get_pair(run.pair), where.resolve(), options.max_new_tokens
    sentences = [sentence.text for sentence in read_sentences(options.corpus, pair, SPLIT)]
    asked, others = sentences[: options.questions], sentences[options.questions : 2 * options.questions]
    longer = list(map(" ".join, zip(asked, others)))
    chat, target_model = target.load_chat(), target.load_model("float32")
    requests = [
        Request(
            tuple(chat.encode_prompt(translation_prompt(pair, text))),
            0.0,
            0,
            limit,
            str(number),
            options.corpus,
            str(pair),
            target.name,
            target.revision,
        )
        for number, text in enumerate(asked + longer)
    ]
    answers = TransformersEngine(target_model, chat.tokenizer.pad_token_id).complete_batch(requests)
    completions = [(list(request.prompt_ids), answer.completion_ids) for request, answer in zip(requests, answers)]
    first, near = completions[: len(asked)], completions[len(asked) :]
    memory, end_ids = CompletionMemory(), frozenset(target.end_ids(chat.tokenizer))
    loops = {
        f"tokens per target pass {name} memory": loop_of(
            load_drafter(options.drafter, target_model, chat.tokenizer, follow_clock=False, memory=given)
        )
        for name, given in (("without", None), ("with", memory))
    }
    figures, ratios, read = [], {}, TargetTexts(target_model)
    for kind, texts in {"first time": first, "again": first, "with a sentence more": near}.items():
        passes = dict.fromkeys(loops, 0)
        for prompt_ids, completion_ids in texts:
            for name, loop in loops.items():
                passes[name] += count_passes(loop, prompt_ids, completion_ids, limit, end_ids, read)
            memory.remember(prompt_ids, completion_ids)
        tokens = sum(len(completion_ids) for _, completion_ids in texts)
        yielded = {name: mean_accepted_tokens(tokens, count) for name, count in passes.items()}
        figures.append({"questions": kind, "number": len(texts), "tokens": tokens} | yielded)
        without, with_memory = yielded.values()
        ratios[f"{kind}: with / without memory"] = with_memory / without
    report("memory", figures, ratios, options.out)


def count_passes(
    loop: DraftingLoop,
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    limit: int,
    end_ids: frozenset[int],
    target: TargetTexts,
) -> int:
    """Return the number of target passes in which a loop's drafts yield a stored completion.

    `decoding.replay` counts target passes too, but without a memory, as all measurements do.
    """
    known, left, passes = list(prompt_ids), list(completion_ids), 0
    loop.forget()
    text = target.read(loop.network, [*known, *left])
    while left:
        most = limit - 1 - (len(completion_ids) - len(left))
        cache = text.first(len(known) - 1) if text is not None and passes else None
        drafted = loop.draft(known, most, end_ids=end_ids, cache=cache) if most else []
        draft = [proposal.token for proposal in drafted]
        accepted = Round.of(draft, left[:-1]).accepted
        known, left = known + left[: accepted + 1], left[accepted + 1 :]
        passes += 1
    return passes


if __name__ == "__main__":
    main()
