"""Languages, pairs and the prompt of each task: one definition for training and benchmark.

Any BCP 47 tag names a language. `LANGUAGES` holds extras of some languages, and nothing depends on being in it.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import langcodes

from drafter_trainer.errors import InputError


@dataclass(frozen=True)
class Language:
    """A language.

    Args:
        code (`str`): The shortest BCP 47 tag, such as `de`, `haw`, `pt-BR` or `zh-Hant`; the one used in pairs and in
            a card's metadata.
        probe (`str`, *optional*, defaults to `""`): A sentence on which tokenizers are compared, in the scripts that
            the language is written in; empty where the project has none.
        spaced (`bool`, *optional*, defaults to `True`): Whether spaces separate words; if not, overlap between texts
            is counted in characters.
    """

    code: str
    name: str
    aliases: tuple[str, ...]
    probe: str = ""
    spaced: bool = True


LANGUAGES = {
    language.code: language
    for language in (
        Language("en", "English", ("eng",), "It's 7:45 - we'll miss the train unless somebody calls a taxi!"),
        Language("de", "German", ("deu", "ger"), "Die Straßenbahn überquert um 7.45 Uhr die Brücke; »pünktlich«."),
        Language("fr", "French", ("fra", "fre"), "L'été où l'hôtel ferma, nous n'avions aucune clé, n'est-ce pas ?"),
        Language("ru", "Russian", ("rus",), "Объявление о поезде № 12 ещё не прозвучало, а он уже подъезжает."),
        Language("ja", "Japanese", ("jpn",), "明日は午前七時に駅のカフェで会い、３番線に乗りましょう。", spaced=False),
        Language("zh", "Chinese", ("zho", "chi"), "明天上午七点在车站的咖啡馆见面，然后坐三号线。", spaced=False),
        Language("es", "Spanish", ("spa",), "¿Quién dejó la piñata junto al árbol? Mañana habrá más niños."),
        Language("it", "Italian", ("ita",), "Perché la città è così tranquilla? C'è già il sole, però nessuno esce."),
        Language("pt", "Portuguese", ("por",), "A estação não é longe; amanhã às 7h45 o avô trará pães e maçãs."),
        Language("pl", "Polish", ("pol",), "Pociąg do Łodzi odjeżdża później, więc kupię jeszcze świeżą bułkę."),
        Language("uk", "Ukrainian", ("ukr",), "Під'їзд зачинено, тож ґанок і вхід із двору відчинять о сьомій."),
        Language("ko", "Korean", ("kor",), "내일 아침 일곱 시에 역 앞 카페에서 만나 3호선을 탑시다."),
        Language("tr", "Turkish", ("tur",), "Iğdır'a giden otobüs yarın sabah yedide şu küçük garajdan kalkıyor."),
        # The eleven of arXiv 2605.30580. Where the project cannot write a language well, its probe is greetings, names
        # and digits, which is enough to compare tokenizers. Berber is written in Latin letters here; zgh, Standard
        # Moroccan Tamazight, in Tifinagh.
        Language(
            "oc", "Occitan", ("oci",), "Deman a 7 oras prendrem lo tren; uèi fa freg, mas lo pan es encara caud."
        ),
        Language("ne", "Nepali", ("nep", "npi"), "भोलि बिहान ७ बजे हामी काठमाडौं जाने बस चढ्छौं; मौसम राम्रो छ।"),
        Language(
            "qu", "Quechua", ("que", "quy", "quz"), "Allillanchu? Sutiyqa Rosa, Qusqumanta kani; 7 runam wasiypi kan."
        ),
        Language("haw", "Hawaiian", (), "Aloha kakahiaka! ʻO Kalani koʻu inoa, a ʻehiku aʻu pōpoki ma Hilo, 7:45."),
        Language("yo", "Yoruba", ("yor",), "Ẹ káàárọ̀! Orúkọ mi ni Adé; mo ń gbé ní Ìbàdàn, mo sì ní ọmọ 7."),
        Language("ig", "Igbo", ("ibo",), "Ụtụtụ ọma! Aha m bụ Ada; ebi m n'Enugu, enwere m ụmụ 7."),
        Language("am", "Amharic", ("amh",), "ነገ ጠዋት በ7 ሰዓት ወደ አዲስ አበባ እንሄዳለን፤ ዛሬ ግን ቤት ነን።"),
        Language(
            "gn", "Guarani", ("grn", "gug"), "Mba'éichapa! Che réra Ana, che Paraguaigua; ko'ẽrõ aháta Luque-pe, 7:45."
        ),
        Language("ber", "Berber", (), "Azul! Isem-iw Idir. Tamaziɣt, aman d uɣrum, tafukt d yiḍ; ass-a 7, azekka 12."),
        Language("chr", "Cherokee", (), "ᎣᏏᏲ! ᎠᎾ ᏓᏆᏙᎠ. ᏙᎯᏧ? ᎣᏍᏓ, ᏩᏙ! ᏣᎳᎩ, ᏓᎵᏆ, 7:45."),
        Language("zgh", "Tamazight", (), "ⴰⵣⵓⵍ! ⵉⵙⵎ ⵉⵏⵓ ⵉⴷⵉⵔ; ⵜⴰⵎⴰⵣⵉⵖⵜ, ⴰⵎⴰⵏ, ⴰⵖⵔⵓⵎ, 7:45, ⵔⴱⴰⵟ."),
    )
}

# Where the project can write them well; a story in another language is asked for in English. Each takes a subject in
# its own language: in Russian in the prepositional case, in German in the accusative.
_STORY_PROMPTS = {
    "en": "Write a short story about {}.",
    "de": "Schreibe auf Deutsch eine kurze Geschichte über {}.",
    "fr": "Écris en français une courte histoire sur {}.",
    "ru": "Напиши по-русски короткий рассказ о {}.",
    "ja": "{}についての短い物語を日本語で書いてください。",
    "zh": "请用中文写一个关于{}的小故事。",
}

_LONGEST_WORD = 20  # letters; text whose words are longer on average is written without spaces
_CODES = {code: language for language in LANGUAGES.values() for code in (language.code, *language.aliases)}
_PROMPT = re.compile(r"Translate ([^:\n]+?) to ([^:\n]+?):\s*(.*)", re.DOTALL)
_UNSPACED_SCRIPTS = {"Hans", "Hant", "Hani", "Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"}
_TAG = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
_NOT_LANGUAGES = {"und", "zxx", "mul", "mis"}  # undetermined, none, several, uncoded


@dataclass(frozen=True)
class Pair:
    """What the user writes in, and what the model answers in.

    Two different languages are a direction of translation. One language twice, as `de-de`, is no translation: both
    sides of the conversation are in it.
    """

    source: Language
    target: Language

    def __str__(self) -> str:
        return f"{self.source.code}-{self.target.code}"

    @property
    def languages(self) -> tuple[Language, ...]:
        """The languages, each once."""
        return tuple(dict.fromkeys((self.source, self.target)))

    @property
    def is_translation(self) -> bool:
        """Whether its two languages differ."""
        return self.source != self.target

    @property
    def probes(self) -> tuple[str, ...]:
        """One sentence in each language of the pair, for comparing tokenizers."""
        return probes_of(self.languages)


@functools.cache
def get_language(code: str) -> Language:
    """Look a language up by any ISO 639 code or BCP 47 tag."""
    if (listed := _CODES.get(code.lower())) is not None:
        return listed
    advice = "give an ISO 639 code or a BCP 47 tag, such as de, haw, pt-BR or zh-Hant"
    if not _TAG.fullmatch(code):
        meant = _tag_of(code) if code.isalpha() else None
        raise InputError(f"unknown language {code!r}: {f'did you mean {meant}?' if meant else advice}")
    try:
        tag = langcodes.standardize_tag(code)
        found = langcodes.Language.get(tag)
    except langcodes.LanguageTagError as error:
        raise InputError(f"unknown language {code!r}: {advice}") from error
    if (listed := _CODES.get(tag.lower())) is not None:
        return listed
    name = found.display_name("en")
    if not found.is_valid() or found.language in _NOT_LANGUAGES or name.startswith("Unknown"):
        raise InputError(f"unknown language {code!r}: {advice}")
    try:
        aliases = {found.to_alpha3(variant) for variant in ("T", "B")} - {tag} if tag == found.language else set()
    except LookupError:
        aliases = set()
    script, general = found.maximize().script, _CODES.get(found.language or "")
    shared = general is not None and langcodes.Language.get(general.code).maximize().script == script
    return Language(
        tag, name, tuple(sorted(aliases)), general.probe if shared else "", spaced=script not in _UNSPACED_SCRIPTS
    )


def _tag_of(name: str) -> str | None:
    try:
        return langcodes.find(name).to_tag()
    except LookupError:
        return None


def get_pair(pair: str) -> Pair:
    """Read a pair such as "de-en", "deu-eng" or "en-pt-BR".

    Args:
        pair (`str`): Two language tags with a hyphen between them, source first. A language begins with a small
            letter and what specifies it, a script or region, with a capital one.
    """
    tags = _split(pair)
    if len(tags) != 2:
        raise InputError(f"unknown pair {pair!r}: give two languages, source first, such as de-en or en-pt-BR")
    return Pair(*map(get_language, tags))


def _split(text: str) -> list[str]:
    """Split a text at the hyphens behind which another language begins, with a small letter."""
    return re.split(r"-(?=[a-z])", text) if text.replace("-", "").isalnum() else []


def read_languages(languages: str | Iterable[str] | None) -> tuple[tuple[Language, ...], Pair | None]:
    """Read the languages of a drafter, as a user of the library gives them.

    Args:
        languages (`str` or `Iterable[str]`, *optional*): A language (`"de"`), several (`["de", "fr"]`), or a pair for
            its translation (`"de-en"`).
    Returns:
        `tuple` of the languages, and of the pair where it is a translation.
    """
    if languages is None:
        return (), None
    given = [languages] if isinstance(languages, str) else list(languages)
    pairs = [get_pair(text) if len(_split(text)) == 2 else Pair(*2 * [get_language(text)]) for text in given]
    translation = pairs[0] if len(pairs) == 1 and pairs[0].is_translation else None
    return tuple(dict.fromkeys(language for pair in pairs for language in pair.languages)), translation


def read_language_or_pair(text: str) -> Pair:
    """Read a pair, or one language for the pair from English into it: "oci" and "en-oci" are the same."""
    if len(_split(text)) == 2:
        return get_pair(text)
    pair = Pair(LANGUAGES["en"], get_language(text))
    if not pair.is_translation:
        raise InputError(f"{text!r} is the same language as that of the prompts: give a pair such as de-en or en-en")
    return pair


def probes_of(languages: Iterable[Language]) -> tuple[str, ...]:
    """Return a sentence for each language, for comparing tokenizers; English where a language has none of its own."""
    probes = [language.probe or LANGUAGES["en"].probe for language in languages]
    return tuple(dict.fromkeys(probes)) or (LANGUAGES["en"].probe,)


def translation_prompt(pair: Pair, text: str) -> str:
    """Write what the user asks the target for: `Translate German to English: …`."""
    return f"Translate {pair.source.name} to {pair.target.name}: {text.strip()}"


def read_translation_prompt(prompt: str) -> tuple[str, str, str] | None:
    """Take a translation prompt apart, whatever white space follows its colon.

    The question sets published with arXiv 2406.16758 have no space there, their training prompts have one; both
    are read here and written again by `translation_prompt`, so that training and benchmark ask alike.

    Returns:
        `tuple[str, str, str]` of source name, target name and text, or `None` if `prompt` is something else.
    """
    match = _PROMPT.fullmatch(prompt.strip())
    return (match[1], match[2], match[3]) if match else None


def story_prompt(language: Language, subject: Mapping[str, str]) -> str:
    """Write what the user asks for a story: in its language where the project can, in English where it cannot.

    Args:
        subject (`Mapping[str, str]`): What it is about, by language code; in English at least.
    """
    if language.code in _STORY_PROMPTS and language.code in subject:
        return _STORY_PROMPTS[language.code].format(subject[language.code])
    return f"Write a short story in {language.name} about {subject['en']}."


def is_spaced(text: str) -> bool:
    """Tell whether a text of unknown language sets its words apart by spaces."""
    return len(text) <= _LONGEST_WORD * len(text.split())
