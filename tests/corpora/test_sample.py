"""The bundled sample: all languages, and no overlap between splits."""

import itertools
import re
from collections import Counter
from pathlib import Path

import jinja2
import pytest

from drafter_trainer.corpora.decontamination import normalize
from drafter_trainer.corpora.sample import LANGUAGES, SPLITS, sample_rows, sample_sentences, sample_stories
from drafter_trainer.errors import InputError
from drafter_trainer.languages import get_pair, translation_prompt

ROWS = {split: list(sample_rows(split)) for split in SPLITS}
EVERY_ROW = [row for split in SPLITS for row in ROWS[split]]


def test_every_row_has_every_language() -> None:
    """A row without a language would end the run of one pair only."""
    assert set(LANGUAGES) == {"en", "de", "fr", "ru", "ja", "zh"}
    for row in EVERY_ROW:
        assert row.keys() == {"id", "domain", *LANGUAGES}
        assert all(row[language] == row[language].strip() != "" for language in LANGUAGES), row["id"]
        assert not any("\n" in row[language] for language in LANGUAGES), row["id"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_sentence_stands_twice(language: str) -> None:
    """A test sentence in training would make the benchmark worthless, even in one language only."""
    folded = Counter(re.sub(r"[\W_]+", "", row[language].casefold()) for row in EVERY_ROW)
    assert [text for text, count in folded.items() if count > 1] == []


@pytest.mark.parametrize(("pair", "named"), [("es-en", "Spanish"), ("uk-pl", "Ukrainian")])
def test_pair_outside_the_sample_is_rejected(pair: str, named: str) -> None:
    """Errors must name the missing language and the available splits."""
    with pytest.raises(InputError, match=rf"no {named}: name a corpus and questions of your own"):
        next(sample_sentences(get_pair(pair), "train"))
    with pytest.raises(InputError, match="'dev': it has train, validation, test"):
        next(sample_rows("dev"))


STORIES = {split: list(sample_stories(split)) for split in SPLITS}


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_part_of_a_subject_stands_in_two_splits(language: str) -> None:
    """Parts of validation subjects in training would be drafted from memory."""
    joint = {"en": " and ", "de": " und ", "fr": " et ", "ru": " и о ", "ja": "と", "zh": "和"}[language]
    subjects = {split: [subject[language] for _, subject in stories] for split, stories in STORIES.items()}
    parts = {split: {part for subject in subjects[split] for part in subject.split(joint)} for split in SPLITS[:2]}
    assert all(subject.count(joint) == 1 for split in parts for subject in subjects[split])
    assert parts["train"].isdisjoint(parts["validation"])
    told = normalize(" ".join(subjects["test"]))
    assert not any(normalize(part) in told for part in parts["train"] | parts["validation"])


def test_examples_of_the_few_shot_template_are_training_sentences() -> None:
    """Prevent evaluation questions, or sentences in another language, as examples of the prompt."""
    template = Path(__file__).parents[2] / "recipes" / "configs" / "gemma-3-270m" / "chat_template.jinja"
    rows = ROWS["train"]
    for source, target in itertools.permutations(LANGUAGES, 2):
        pair = get_pair(f"{source}-{target}")
        messages = [{"role": "user", "content": translation_prompt(pair, "one: two")}]
        text = jinja2.Template(template.read_text(encoding="utf-8")).render(messages=messages, bos_token="<s>")
        *examples, asked = text.removeprefix("<s>").split("\n\n")
        assert asked == f"{pair.source.name}: one: two\n{pair.target.name}:"
        known = [f"{pair.source.name}: {row[source]}\n{pair.target.name}: {row[target]}" for row in rows]
        assert len(examples) == (3 if {source, target} == {"de", "en"} else 5)  # three long ones there
        assert set(examples) <= set(known)
