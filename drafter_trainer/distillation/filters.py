"""Which answers are not worth training on, and what can be said of the others."""

from collections import Counter
from collections.abc import Collection
from typing import Any

from transformers import PreTrainedTokenizerBase

from drafter_trainer.decoding.metrics import is_looping
from drafter_trainer.distillation.store import Completion, Failure, RowStore
from drafter_trainer.extras import is_installed, require

_IDENTIFIED = 5000  # answers whose language is identified, at about a millisecond each


def reason_to_drop(
    answer: Completion | Failure, special_ids: Collection[int], drop_looping: bool = False
) -> str | None:
    """Return why an answer is dropped, or `None`.

    Answers cut by the length limit stay: their tokens are the target's own, and no end token is made up for them.

    Args:
        drop_looping (`bool`, *optional*, defaults to `False`): Whether answers that end in a loop are dropped. The
            target loops when it is asked again, too, and a drafter guesses that easily.
    """
    if isinstance(answer, Failure):
        return answer.reason
    if all(token in special_ids for token in answer.completion_ids):
        return "empty completion"
    return "repetition loop" if drop_looping and is_looping(answer.completion_ids) else None


def survey(store: RowStore, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Count what is unusual among the rows that were kept.

    Languages are identified by py3langid, where it is installed. It is often wrong on a few words: languages are
    reported, and nothing is dropped.

    Returns:
        `dict` with `looping` (answers that end in a loop), `duplicates` (rows whose prompt and answer an earlier row
        has), `retokenized`, and `languages`, the answers by ISO 639 code, most frequent first, of 5000 at most.
    """
    counts = Counter(looping=0, duplicates=0, retokenized=0)
    languages: Counter[str] = Counter()
    seen: set[int] = set()
    langid = require("py3langid", "languages") if is_installed("py3langid") else None
    total = sum(table.num_rows for table in store.tables(["key"]))
    for table in store.tables(["key", "prompt_ids", "response_ids", "retokenized"]):
        for row in table.to_pylist():
            counts["looping"] += is_looping(row["response_ids"])
            counts["retokenized"] += row["retokenized"]
            said = hash((tuple(row["prompt_ids"]), tuple(row["response_ids"])))
            counts["duplicates"] += said in seen
            seen.add(said)
            # Keys are hashes, so the first of them in order are a sample by chance, and the same in every run.
            if langid and int(row["key"][:8], 16) * total < _IDENTIFIED << 32:
                text = tokenizer.decode(row["response_ids"], skip_special_tokens=True)
                languages[langid.classify(text)[0]] += 1
    return {**counts} | ({"languages": dict(languages.most_common())} if langid else {})
