"""The task of a prompt: the language of its text, and that of the answer."""

from collections import Counter

import pytest
from transformers import PreTrainedTokenizerFast

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.sample import LANGUAGES as SAMPLE_LANGUAGES
from drafter_trainer.corpora.sample import SPLITS, sample_rows
from drafter_trainer.hub.prompt_task import PromptReader, PromptTask, identify_language, read_task
from drafter_trainer.languages import LANGUAGES, Pair, translation_prompt
from tests.conftest import make_tokenizer

GERMAN = "Der Zug nach Hamburg fährt heute leider eine Stunde später ab."
JAPANESE = "明日の朝、駅の前で会いましょう。"
DE, EN, FR, JA = (LANGUAGES[code] for code in ("de", "en", "fr", "ja"))

# Templates of other families, as far as they matter here.
TEMPLATES = {
    "own": None,
    "chatml": (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "vicuna": (
        "A chat between a user and an assistant. {% for message in messages %}{% if message['role'] == 'user' %}"
        "USER: {{ message['content'] }} {% else %}ASSISTANT: {{ message['content'] }}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    ),
    "llama2": (
        "{% for message in messages %}{% if message['role'] == 'user' %}<|start|>[INST] {{ message['content'] }} "
        "[/INST]{% else %} {{ message['content'] }} <|end|>{% endif %}{% endfor %}"
    ),
    "gemma": (
        "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ 'model' if message['role'] == 'assistant' else "
        "message['role'] }}\n{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
}


def test_languages_of_the_sample_are_identified() -> None:
    """A drafter of another language is little better than none."""
    rows, counts = [row for split in SPLITS for row in sample_rows(split)], Counter()
    for code, row in ((code, row) for code in SAMPLE_LANGUAGES for row in rows):
        found = identify_language(row[code])
        counts["unknown" if found is None else found.code == code] += 1
    assert counts[True] / counts.total() > 0.99
    assert counts[False] == 0


@pytest.mark.parametrize("pair", [Pair(DE, EN), Pair(EN, JA), Pair(JA, FR)], ids=str)
def test_own_prompts_are_read(pair: Pair) -> None:
    """The router must recognize the prompts of training and benchmark, and their direction."""
    expected = PromptTask(pair.source, pair.target, is_translation=True)
    assert read_task(translation_prompt(pair, pair.source.probe)) == expected
    # The questions published with arXiv 2406.16758 have no space there.
    assert read_task(translation_prompt(pair, pair.source.probe).replace(": ", ":", 1)) == expected


@pytest.mark.parametrize(
    ("message", "source", "answer", "is_translation"),
    [
        pytest.param(f"Translate the following sentence into English:\n{GERMAN}", DE, EN, True, id="into"),
        pytest.param(f"Please translate this to french: {JAPANESE}", JA, FR, True, id="lower case"),
        pytest.param(f"Translate French to English: {GERMAN}", DE, EN, True, id="wrong name"),
        pytest.param("Translate German to English: Obama", DE, EN, True, id="too short to identify"),
        pytest.param("Translate German to English: OK, see you tomorrow morning.", DE, EN, True, id="English already"),
        pytest.param("Translate to English: 42", None, EN, True, id="no language"),
        pytest.param(f"Translate to Dutch: {GERMAN}", DE, None, True, id="into an unknown language"),
        pytest.param(GERMAN, DE, DE, False, id="answered in its own language"),
        pytest.param("Write a short story in German about a lighthouse keeper.", EN, DE, False, id="in German"),
        pytest.param("Why do we translate books?", EN, EN, False, id="no translation"),
        pytest.param("De trein naar Utrecht vertrekt vandaag helaas een uur later.", None, None, False, id="Dutch"),
        pytest.param("", None, None, False, id="empty"),
    ],
)
def test_messages_of_users_are_read(message: str, source, answer, is_translation: bool) -> None:
    """A misread message gets the drafter of another pair, or of another direction."""
    assert read_task(message) == PromptTask(source, answer, is_translation)


@pytest.fixture
def speaker() -> PreTrainedTokenizerFast:
    """A tokenizer whose template a test may change."""
    return make_tokenizer()


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_last_message_is_found_in_every_template(speaker: PreTrainedTokenizerFast, template: str | None) -> None:
    """A template's own English words, or an earlier turn, would decide the language of a short message."""
    if template is not None:
        speaker.chat_template = template
    reader, message = PromptReader(speaker), f"Translate German to English: {GERMAN}\nUnd noch etwas."
    assert reader.last_message(ChatTokenizer(speaker).encode_prompt(message)) == message
    earlier = [("Bonjour, ça va ?", "Oui."), ("Quelle heure est-il ?", "Midi.")]
    assert reader.last_message(ChatTokenizer(speaker).encode_prompt(message, earlier)) == message
    assert reader.read(ChatTokenizer(speaker).encode_prompt(JAPANESE, earlier)).source == JA


def test_system_message_is_no_part_of_the_message(speaker: PreTrainedTokenizerFast) -> None:
    """A system message is in English, whatever language the user writes in."""
    speaker.chat_template = TEMPLATES["chatml"]
    chat = [{"role": "system", "content": "Answer shortly, and in English."}, {"role": "user", "content": GERMAN}]
    ids = speaker.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert PromptReader(speaker).last_message(ids) == GERMAN


def test_prompts_without_a_template_are_the_message(speaker: PreTrainedTokenizerFast) -> None:
    """Base models are prompted without a chat template, and any prompt may be."""
    ids = [speaker.bos_token_id, *speaker.encode(GERMAN)]
    assert PromptReader(speaker).last_message(ids) == GERMAN
    speaker.chat_template = None
    assert PromptReader(speaker).last_message(ids) == GERMAN
