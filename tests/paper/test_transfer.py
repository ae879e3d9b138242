"""A drafter on other languages and texts: the form of the prompts, and the rounds."""

from pathlib import Path

import jinja2
import pytest

from benchmarks.paper.transfer import (
    EXAMPLES,
    ask_table,
    few_shot_prompt,
    look_up,
    make_questions,
    read_aligned,
    replay_source,
)
from drafter_trainer.corpora.sample import sample_rows
from drafter_trainer.decoding.metrics import Round
from drafter_trainer.drafters.loop.sources import NgramTable
from drafter_trainer.drafters.ngram import count_table
from drafter_trainer.errors import InputError
from drafter_trainer.languages import get_pair, translation_prompt

TEMPLATE = Path(__file__).parents[2] / "recipes" / "configs" / "gemma-3-270m" / "chat_template.jinja"
END = 1


def test_prompts_of_any_pair_have_the_form_of_the_template() -> None:
    """A drafter was trained with the form of the template: another form would be measured as another language."""
    text, pair = TEMPLATE.read_text(encoding="utf-8"), get_pair("fr-en")
    shown = [row for row in sample_rows("train") if row["fr"] in text]
    examples = [(row["fr"], row["en"]) for row in sorted(shown, key=lambda row: text.index(row["fr"]))]
    composed = few_shot_prompt(pair, examples, "Bonjour.")

    def render(message: str) -> str:
        messages = [{"role": "user", "content": message}]
        return jinja2.Template(text).render(messages=messages, bos_token="<bos>")

    assert len(examples) == EXAMPLES
    assert render(translation_prompt(pair, "Bonjour.")) == "<bos>" + composed
    assert render(composed) == "<bos>" + composed


def test_prompts_show_examples_where_the_template_has_none(tmp_path: Path) -> None:
    """Without examples the target does not translate; with the wrong references the scores are 0."""
    source, reference = ([f"{code}{number}" for number in range(7)] for code in ("es", "en"))
    for code, texts in {"es": source, "en": reference, "it": source[:-1]}.items():
        (tmp_path / f"{code}.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    lines = read_aligned(tmp_path, get_pair("es-en"))
    assert lines == list(zip(source, reference))
    asked, *_ = make_questions(get_pair("es-en"), lines[:EXAMPLES], lines[EXAMPLES:])
    assert (asked.prompt, asked.reference) == (few_shot_prompt(get_pair("es-en"), lines[:5], "es5"), "en5")
    asked, *_ = make_questions(get_pair("de-en"), lines[:EXAMPLES], lines[EXAMPLES:])
    assert asked.prompt == "Translate German to English: es5"
    with pytest.raises(InputError, match=r"en-it has 7 and 6 lines: align them"):
        read_aligned(tmp_path, get_pair("en-it"))


def test_rounds_of_lookup_and_table_are_those_of_the_target() -> None:
    """A draft past the end, or a corrected token that is not counted, would change the tokens per pass."""
    prompt, completion = [7, 8, 9, 5, 7], [8, 9, 4, 7, 8, END]
    # 7 was followed by 8 and 9, then by 5 instead of 4; "9 4" is new; so is "4 7", but 7 was followed by 8.
    assert replay_source(look_up, [(prompt, completion)], 3, {END}) == [
        Round(3, 2, rejected=True),
        Round(0, 0, rejected=False),
        Round(3, 1, rejected=True),
    ]
    table = NgramTable(count_table([[*prompt, *completion]], [1]))
    known, *_ = replay_source(ask_table(table), [([7], [8, 9, 4, 7])], 5, {END})
    assert known.drafted == 3  # the length limit leaves no more
