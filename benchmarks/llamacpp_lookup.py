"""Compare llama.cpp's own n-gram drafting with its static lookup file, made from the target's completions.

    python benchmarks/llamacpp_lookup.py --config recipes/configs/gemma-3-270m/de-en.yaml \
        --rows runs/gemma-3-270m-drafter-de-en/distill --questions questions.jsonl --target_gguf TARGET.gguf

The static file of `ngram-cache` has the tokens that followed each pair of tokens in the completions, with their
counts. llama.cpp's server completes every question with each kind of drafting, one after another. Tokens per target
pass do not depend on the machine, but times do.
"""

import argparse
import struct
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from reporting import RESULTS, report

from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.corpora.questions import load_questions
from drafter_trainer.corpora.tasks import Task
from drafter_trainer.languages import get_pair
from drafter_trainer.serving.client import LLAMACPP, Workload, measure_server
from drafter_trainer.serving.commands import llamacpp_command
from drafter_trainer.serving.engines import start_engine
from drafter_trainer.tuning.completions import load_completions

ORDER, SLOTS = 2, 4  # tokens of the static file's n-grams; maximum tokens of an n-gram in llama.cpp
LENGTHS = (2, 4, 12)  # of the suffix that ngram-simple looks up; 12 is llama.cpp's own
DRAFTED = 8


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="Folder of self-distilled rows")
    parser.add_argument("--questions", required=True)
    parser.add_argument("--max_questions", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64, help="Maximum number of tokens of a completion")
    parser.add_argument("--target_gguf", required=True)
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options, configured = parser.parse_known_args()
    (run, where, *_), _ = parse_arguments("bench", configured, __doc__)
    target, pair = where.resolve(), get_pair(run.pair)
    chat = target.load_chat()
    questions = load_questions(options.questions, pair, options.max_questions, Task())
    prompts = {question.question_id: chat.encode_prompt(question.prompt) for question in questions}
    asked = Workload(prompts, options.tokens, frozenset(target.end_ids(chat.tokenizer)), target.stop)
    completions = load_completions(options.rows, target, 1)[0]
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        static = Path(folder) / "static.bin"
        bigrams = write_static(completions, static)
        kinds = {"plain": []} | {f"ngram-simple, {length}": simple(length) for length in LENGTHS}
        kinds["ngram-cache"] = ["--spec-type", "ngram-cache"]
        kinds["ngram-cache with the static file"] = [*kinds["ngram-cache"], "--lookup-cache-static", str(static)]
        context = max(map(len, prompts.values())) + options.tokens + DRAFTED
        words = ["--ctx-size", str(context), "--parallel", "1"]
        plain: dict[str, list[int]] = {}
        for name, drafting in kinds.items():
            command = [*llamacpp_command(options.target_gguf), *drafting]
            with start_engine(LLAMACPP, options.target_gguf, command, options.port, sys.executable, words) as running:
                (record,) = measure_server(running.client, name, asked, [1])
            counts, said = record["counts"], {each["question_id"]: each["token_ids"] for each in record["prompts"]}
            plain = plain or said
            tokens = sum(map(len, said.values()))
            figures.append(
                {
                    "drafting": name,
                    "tokens": tokens,
                    "drafted": counts["drafted"],
                    "accepted": counts["accepted"],
                    "tokens per pass": tokens / counts["passes"],
                    "tokens/s": tokens / record["seconds"],
                    "equal to plain": sum(plain[question] == ids for question, ids in said.items()),
                }
            )
    ratios = {
        f"tokens per pass, {figures[-1]['drafting']}": figures[-1]["tokens per pass"],
        "completions": len(completions),
        "bigrams": bigrams,
    }
    report("llamacpp_lookup", figures, ratios, options.out)


def simple(length: int) -> list[str]:
    """Return the command-line options of llama.cpp's own lookup of a suffix."""
    words = ["--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", str(length)]
    return [*words, "--spec-ngram-simple-size-m", str(DRAFTED)]


def write_static(completions: Iterable[Sequence[int]], path: Path) -> int:
    """Write a static lookup file: for each bigram its tokens in slots, the number of its followers, and their counts.

    Returns:
        `int`, the number of bigrams.
    Source: llama.cpp, common/ngram-cache.cpp
    """
    following: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for ids in completions:
        for place in range(len(ids) - ORDER):
            following[tuple(ids[place : place + ORDER])][ids[place + ORDER]] += 1
    with path.open("wb") as file:
        for bigram, counts in following.items():
            file.write(struct.pack(f"<{SLOTS}i", *bigram, *[-1] * (SLOTS - ORDER)))
            file.write(struct.pack("<i", len(counts)))
            file.writelines(struct.pack("<2i", token, count) for token, count in counts.items())
    return len(following)


if __name__ == "__main__":
    main()
