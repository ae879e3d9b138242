"""Languages, pairs of languages, and the prompts of the tasks, which training and benchmark share.

Any BCP 47 tag names a language. `languages.json` has probe sentences and story prompts for some languages; all other
languages work without them.
"""

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources

import langcodes

from drafter_trainer.errors import InputError


@dataclass(frozen=True)
class Language:
    """A language.

    Args:
        code (`str`): The shortest BCP 47 tag, such as `de`, `haw`, `pt-BR` or `zh-Hant`, for pairs and for cards.
        probe (`str`, *optional*, defaults to `""`): A sentence on which tokenizers are compared, in all scripts of the
            language. For languages that the project cannot write well, it has only greetings, names and digits.
        spaced (`bool`, *optional*, defaults to `True`): Whether spaces separate words; if not, overlap between texts
            is counted in characters.
        story_prompt (`str`, *optional*, defaults to `""`): Prompt for a story about a subject in the language: in
            Russian in the prepositional case, in German in the accusative.
    """

    code: str
    name: str
    aliases: tuple[str, ...]
    probe: str = ""
    spaced: bool = True
    story_prompt: str = ""


_FILE = resources.files("drafter_trainer") / "languages.json"
LANGUAGES = {
    entry["code"]: Language(**entry | {"aliases": tuple(entry["aliases"])})
    for entry in json.loads(_FILE.read_text(encoding="utf-8"))
}
_LONGEST_WORD = 20  # letters; text whose words are longer on average is written without spaces
_CODES = {code: language for language in LANGUAGES.values() for code in (language.code, *language.aliases)}
_PROMPT = re.compile(r"Translate ([^:\n]+?) to ([^:\n]+?):\s*(.*)", re.DOTALL)
_UNSPACED_SCRIPTS = {"Hans", "Hant", "Hani", "Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"}
_TAG = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
_NOT_LANGUAGES = {"und", "zxx", "mul", "mis"}  # undetermined, none, several, uncoded


@dataclass(frozen=True)
class Pair:
    """The language of the prompts and the language of the completions.

    Two different languages are a direction of translation. In a pair of one language, such as `de-de`, prompts and
    completions are both in this language, and nothing is translated.
    """

    source: Language
    target: Language

    def __str__(self) -> str:
        return f"{self.source.code}-{self.target.code}"

    @property
    def languages(self) -> tuple[Language, ...]:
        """The different languages of the pair."""
        return tuple(dict.fromkeys((self.source, self.target)))

    @property
    def is_translation(self) -> bool:
        """Whether the two languages differ."""
        return self.source != self.target

    @property
    def probes(self) -> tuple[str, ...]:
        """One sentence in each language of the pair, on which tokenizers are compared."""
        return probes_of(self.languages)


@functools.cache
def get_language(code: str) -> Language:
    """Return the language of an ISO 639 code or BCP 47 tag."""
    if (listed := _CODES.get(code.lower())) is not None:
        return listed
    unknown = f"unknown language {code!r}: give an ISO 639 code or a BCP 47 tag, such as de, haw, pt-BR or zh-Hant"
    try:
        if not _TAG.fullmatch(code):
            named = langcodes.find(code).to_tag()
            raise InputError(f"unknown language {code!r}: did you mean {named}?")
        tag = langcodes.standardize_tag(code)
    except (langcodes.LanguageTagError, LookupError) as error:
        raise InputError(unknown) from error
    if (listed := _CODES.get(tag.lower())) is not None:
        return listed
    found = langcodes.Language.get(tag)
    name = found.display_name("en")
    if not found.is_valid() or found.language in _NOT_LANGUAGES or name.startswith("Unknown"):
        raise InputError(unknown)
    try:
        aliases = {found.to_alpha3(variant) for variant in ("T", "B")} - {tag} if tag == found.language else set()
    except LookupError:
        aliases = set()
    script, general = found.maximize().script, _CODES.get(found.language or "")
    same_script = general is not None and langcodes.Language.get(general.code).maximize().script == script
    probe = general.probe if same_script else ""
    return Language(tag, name, tuple(sorted(aliases)), probe, spaced=script not in _UNSPACED_SCRIPTS)


def get_pair(pair: str) -> Pair:
    """Read a pair such as "de-en", "deu-eng" or "en-pt-BR".

    Args:
        pair (`str`): Two language tags with a hyphen between them, source first. A language begins with a small
            letter, its script or region with a capital letter.
    """
    tags = _split(pair)
    if len(tags) != 2:
        raise InputError(f"unknown pair {pair!r}: give two languages, source first, such as de-en or en-pt-BR")
    return Pair(*map(get_language, tags))


def _split(text: str) -> list[str]:
    """Split a text at each hyphen before a small letter, where the next language begins."""
    return re.split(r"-(?=[a-z])", text) if text.replace("-", "").isalnum() else []


def read_languages(languages: str | Iterable[str] | None) -> tuple[tuple[Language, ...], Pair | None]:
    """Read the languages of a drafter.

    Args:
        languages (`str` or `Iterable[str]`, *optional*): A language (`"de"`), several (`["de", "fr"]`), or a pair for
            its translation (`"de-en"`).
    Returns:
        `tuple` of the languages, and of the pair if it is a translation.
    """
    if languages is None:
        return (), None
    given = [languages] if isinstance(languages, str) else list(languages)
    pairs = [get_pair(text) if len(_split(text)) == 2 else Pair(*2 * [get_language(text)]) for text in given]
    translation = pairs[0] if len(pairs) == 1 and pairs[0].is_translation else None
    return tuple(dict.fromkeys(language for pair in pairs for language in pair.languages)), translation


def read_language_or_pair(text: str) -> Pair:
    """Read a pair, or a language for the pair from English into it: "oci" and "en-oci" are the same."""
    if len(_split(text)) == 2:
        return get_pair(text)
    pair = Pair(LANGUAGES["en"], get_language(text))
    if not pair.is_translation:
        raise InputError(f"{text!r} is also the language of the prompts: give a pair such as de-en or en-en")
    return pair


def probes_of(languages: Iterable[Language]) -> tuple[str, ...]:
    """Return the probe of each language; the English probe replaces a missing probe, and is the default."""
    english = LANGUAGES["en"].probe
    return tuple(dict.fromkeys(language.probe or english for language in languages)) or (english,)


def translation_prompt(pair: Pair, text: str) -> str:
    """Write the prompt of a translation: `Translate German to English: …`."""
    return f"Translate {pair.source.name} to {pair.target.name}: {text.strip()}"


def read_translation_prompt(prompt: str) -> tuple[str, str, str] | None:
    """Read source language, target language and text from a translation prompt; return `None` for other prompts.

    After the colon, the question sets of arXiv 2406.16758 have no space, but their training prompts have one. Both are
    read here and written again by `translation_prompt`, so that training and benchmark have the same prompts.
    """
    match = _PROMPT.fullmatch(prompt.strip())
    return (match[1], match[2], match[3]) if match else None


def story_prompt(language: Language, subject: Mapping[str, str]) -> str:
    """Write the prompt for a story: in the language if the project can write it, otherwise in English.

    Args:
        subject (`Mapping[str, str]`): Subject by language code, at least in English.
    """
    if language.story_prompt and language.code in subject:
        return language.story_prompt.format(subject[language.code])
    return f"Write a short story in {language.name} about {subject['en']}."


def is_spaced(text: str) -> bool:
    """Return whether spaces separate the words of a text whose language is unknown."""
    return len(text) <= _LONGEST_WORD * len(text.split())
