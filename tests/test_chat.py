"""Conversations through chat templates: what they show, refuse or take, and what is plain text."""

import json
from collections import Counter
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.corpora.reading import Sentence
from drafter_trainer.distillation.prompts import PromptMaker
from drafter_trainer.errors import InputError
from drafter_trainer.languages import get_pair
from drafter_trainer.targets import Target, resolve_target
from drafter_trainer.training.packing import pack_corpora
from tests.conftest import CHAT_TEMPLATE, make_tokenizer

PAIR = get_pair("de-en")
PARTS = (
    "{% for message in messages %}<|{{ message['role'] }}|>{% for part in message['content'] %}"
    "{{ part['text'] }}{% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ALTERNATING = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}{% endfor %}" + CHAT_TEMPLATE
)
THINKING = CHAT_TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}(no thoughts){% endif %}"
FULL = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}{{ message.reasoning_content }}"
    "{% for call in message.tool_calls %}{{ call.function | tojson }}{% endfor %}{% endfor %}" + CHAT_TEMPLATE
)
CALL = {"type": "function", "function": {"name": "search", "arguments": {"q": "Ulm"}}}
MESSAGES = [
    {"role": "user", "content": " Wie warm ist es?\n"},
    {"role": "assistant", "content": "", "reasoning_content": "Nachsehen.", "tool_calls": [CALL]},
    {"role": "tool", "content": "21"},
]
TOOLS = [{"type": "function", "function": {"name": "search", "parameters": {}}}]


def chat_of_template(template: str, **options: object) -> ChatTokenizer:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return ChatTokenizer(tokenizer, **options)


@pytest.mark.parametrize(
    "path",
    sorted((Path(__file__).parent.parent / "recipes" / "configs").glob("*/chat_template.jinja")),
    ids=lambda path: path.parent.name,
)
def test_templates_of_the_recipes_show_short_sentences(path: Path) -> None:
    """A few-shot template rewrites what is asked: that is no reason to drop it as a prompt that is not shown."""
    chat = chat_of_template(path.read_text(encoding="utf-8"))
    assert "Ja." in chat.tokenizer.decode(chat.encode_prompt("Translate German to English: Ja."))


def test_start_token_stands_once() -> None:
    """Template and tokenizer both write it in many models: two of them are a prompt that no target has seen."""
    tokenizer = make_tokenizer()
    start = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", start)]
    )
    tokenizer.chat_template = "{{ bos_token }}" + CHAT_TEMPLATE
    assert tokenizer("Hallo")["input_ids"][0] == start  # the tokenizer adds one by itself
    ids = ChatTokenizer(tokenizer).encode_prompt("Hallo")
    assert ids.count(start) == 1
    assert ids[0] == start


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (b"{% for x in messages %}\n{{ x.content }", r"line 2: not Jinja \(unexpected '}'\)"),
        (b"{{ messages[0].content | shout }}", r"line 1: not Jinja \(No filter named 'shout'"),
        (None, "No such file"),
        (b"Gr\xfc\xdfe\n", "can't decode byte 0xfc"),
        (b"<|user|>", "does not show the user's text.*the text is left out"),
        (b"{{ raise_exception('no\nchats') }}", "does not show the user's text.*refuses it: no chats"),
        (b"{{ messages[0].content + 1 }}", "does not show the user's text.*refuses it: can only concatenate"),
    ],
)
def test_template_that_cannot_be_used_is_named(target_folder, tmp_path, template, said) -> None:
    """A template is a user's file: what is wrong with it must be said in one line before hours of distillation."""
    path = tmp_path / "template.jinja"
    if template is not None:
        path.write_bytes(template)
    with pytest.raises(InputError, match=rf"template\.jinja.*{said}"):
        resolve_target(str(target_folder), chat_template=str(path)).load_chat()


def test_conversations_that_are_refused_are_counted(target: Target, tmp_path: Path) -> None:
    """One conversation that begins with an answer would end a pretraining on a million of them."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = ALTERNATING
    tokenizer.save_pretrained(tmp_path / "target")
    turns = [{"role": role, "content": f"Das sagt der {role}."} for role in ("user", "assistant")]
    rows = [{"messages": [*turns, {"role": "user", "content": str(n)}]} for n in range(100)]
    rows += [{"messages": turns[::-1]}, {"messages": [turns[0]] * 2}]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    alternating = Target("org/model", "1", str(tmp_path / "target"))
    corpora = [f"file:{corpus}"]
    given = {"target": alternating, "length": 8, "pair": PAIR, "split": "train"}
    _, facts = pack_corpora(corpora, folder=tmp_path / "packed", workers=2, **given)
    assert facts["dropped"] == {"the chat template refuses it: Roles must alternate user/assistant": 2}
    with corpus.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"messages": [{"role": ["user"]}]}))
    with pytest.raises(InputError, match=r"corpus\.jsonl, line 103: a message needs a known role"):
        pack_corpora(corpora, folder=tmp_path / "strict", **given)


def test_prompts_that_are_refused_are_counted() -> None:
    """A prompt that the template does not take, or cuts away, must not end a distillation, nor be asked as another."""
    picky = "{% if 'Zahl' in messages[-1]['content'] %}{{ raise_exception('No numbers') }}{% endif %}" + (
        CHAT_TEMPLATE.replace("message['content']", "(message['content'] if '#' not in message['content'] else '')")
    )
    make = PromptMaker(chat_of_template(picky), Decontaminator([]))
    texts = ("Eine Zahl.", "Ein Wort.", "Zwei # Teile.", "Bis \ud83d")
    sentences = [Sentence(str(number), text) for number, text in enumerate(texts)]
    assert [prompt.source_id for prompt in make.translations(sentences, "corpus", PAIR)] == ["1"]
    assert make.drops == {
        "the chat template refuses it: No numbers (German)": 1,
        "the chat template does not show the user's text (German)": 1,
        "it contains half of a surrogate pair (German)": 1,
    }


def test_templates_take_variables() -> None:
    """A reasoning target that thinks aloud is another target; a misspelt switch would be passed over in silence."""
    plain, quiet = (
        chat_of_template(THINKING, chat_template_kwargs=given) for given in (None, {"enable_thinking": False})
    )
    text = quiet.tokenizer.decode(quiet.encode_prompt("Hallo"))
    assert text == plain.tokenizer.decode(plain.encode_prompt("Hallo")) + "(no thoughts)"
    for name, said in (("enable_thinkng", "takes no enable_thinkng"), ("tools", "tools is set already")):
        with pytest.raises(InputError, match=said):
            chat_of_template(THINKING, chat_template_kwargs={name: False})


def test_what_a_template_leaves_out_is_counted() -> None:
    """Tools, calls and reasoning are trained on where the template shows them, and not lost in silence elsewhere."""
    full, unshown = chat_of_template(FULL), Counter()
    text = full.tokenizer.decode(full.encode(MESSAGES, TOOLS, unshown=unshown))
    assert all(said in text for said in ("Nachsehen.", '"q": "Ulm"', '"parameters"'))
    assert not unshown
    chat_of_template(CHAT_TEMPLATE).encode(MESSAGES, TOOLS, unshown=unshown)
    said = "(not shown by the chat template)"
    assert unshown == {f"tools {said}": 1, f"reasoning_content {said}": 1, f"tool_calls {said}": 1}


def test_special_tokens_in_a_text_are_tokens_unless_sanitized() -> None:
    """A user who writes `<|end|>` ends their own turn, as in `apply_chat_template`; the option makes it text."""
    text, end = "Was heißt <|end|>?", make_tokenizer().eos_token_id
    for sanitize, count in ((False, 2), (True, 1)):
        chat = chat_of_template(CHAT_TEMPLATE, sanitize_control_tokens=sanitize)
        ids = chat.encode_prompt(text)
        assert (ids.count(end), chat.encode_text(text).count(end)) == (count, count - 1)
        assert chat.tokenizer.decode(ids) == f"<|user|>{text}<|end|><|assistant|>"
        assert chat.tokenizer.decode(chat.encode_text(text)) == text


def test_template_that_shows_parts_alone_gets_parts(tokenizer: PreTrainedTokenizerFast) -> None:
    """Multimodal targets' templates render a text to nothing: all prompts would be one empty question."""
    earlier = [("Eins?", "Zwei.")]
    assert chat_of_template(PARTS).encode_prompt("Drei?", earlier) == ChatTokenizer(tokenizer).encode_prompt(
        "Drei?", earlier
    )
