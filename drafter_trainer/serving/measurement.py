"""What a server makes of several requests at once, for each way in which it may draft."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from drafter_trainer.decoding.metrics import count_shared
from drafter_trainer.results import DRAFTER, PLAIN, PROMPT_LOOKUP
from drafter_trainer.serving.client import VLLM, EngineClient
from drafter_trainer.serving.commands import (
    NETWORK,
    WHOLE,
    llamacpp_command,
    vllm_command,
    vllm_config,
    vllm_ngram_config,
)

NETWORK_ALONE = f"{DRAFTER}, {NETWORK} alone"
_WARM_UP_TOKENS = 16
_COUNTED_SECONDS = 0.5  # after its tokens were sent, vLLM counts a step


@dataclass(frozen=True)
class EngineMethod:
    """One way in which a server drafts; plain decoding's draft length is 0."""

    name: str
    draft_length: int
    command: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """What every server is asked.

    Args:
        prompts (`Mapping[str, list[int]]`): Token ids by the question's id.
        tokens (`int`): Maximum number of tokens of a completion.
        end_ids (`frozenset[int]`): Ids that end a completion.
        stop (`tuple[str, ...]`): As for `EngineClient.complete`.
    """

    prompts: Mapping[str, list[int]]
    tokens: int
    end_ids: frozenset[int]
    stop: tuple[str, ...] = ()


def engine_methods(
    engine: str,
    target: str,
    drafter: str,
    stock: str,
    lengths: Mapping[str, int],
    ngram_lengths: Sequence[int],
    python: str | None = None,
    drafter_gguf: str | None = None,
    mixed: bool = False,
) -> list[EngineMethod]:
    """List the ways of drafting that are compared: none, n-grams of the engine, the network, and all of the drafter.

    llama.cpp looks up with its own n-grams where vLLM has the drafter's lookup and table.

    Args:
        target, drafter (`str`): As the engine is given them.
        stock (`str`): The drafter with all its weights, for vLLM's own loader.
        lengths (`Mapping[str, int]`): Draft lengths of "whole" and "network".
        ngram_lengths (`Sequence[int]`): Draft lengths of the engine's own n-grams, each a method.
        mixed (`bool`, *optional*, defaults to `False`): Whether the network `mixes_attention`.
    """
    if engine == VLLM:
        configs = [{}, *map(vllm_ngram_config, ngram_lengths)]
        configs.append(vllm_config(stock, lengths[NETWORK], part=NETWORK, mixed=mixed))
        configs.append(vllm_config(drafter, lengths[WHOLE]))
        commands = [vllm_command(python or sys.executable, target, config) for config in configs]
    else:
        own = drafter_gguf, lengths[NETWORK]
        commands = [llamacpp_command(target)]
        commands += [llamacpp_command(target, ngram_length=length) for length in ngram_lengths]
        commands += [llamacpp_command(target, *own), llamacpp_command(target, *own, lengths[WHOLE])]
    several = len(ngram_lengths) > 1
    names = [(f"{PROMPT_LOOKUP}, {length}" if several else PROMPT_LOOKUP, length) for length in ngram_lengths]
    names = [(PLAIN, 0), *names, (NETWORK_ALONE, lengths[NETWORK]), (DRAFTER, lengths[WHOLE])]
    return [EngineMethod(name, length, tuple(command)) for (name, length), command in zip(names, commands)]


def measure_method(
    client: EngineClient,
    name: str,
    asked: Asked,
    requests_at_once: Sequence[int],
    plain: Callable[[int], Mapping[str, list[int]]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Ask a server all questions, with as many requests at once as each number says.

    Args:
        client (`EngineClient`): Of a server that is ready.
        requests_at_once (`Sequence[int]`): Each a measurement; the next request follows when one is answered.
        plain (callable, *optional*): From such a number to plain decoding's token ids by question, which outputs are
            compared with.
    Yields:
        `dict`: A record for each number: `method`, `requests_at_once`, `version`, `seconds`, `counts` and `prompts`,
        each with its `question_id`, `token_ids`, `seconds`, `first_pass_seconds` and `divergence`.
    """
    client.complete(next(iter(asked.prompts.values())), _WARM_UP_TOKENS, asked.end_ids, asked.stop)
    for number in requests_at_once:
        time.sleep(_COUNTED_SECONDS)
        before, started = client.counts(), time.perf_counter()
        with ThreadPoolExecutor(number) as pool:
            completions = list(
                pool.map(
                    lambda prompt: client.complete(prompt, asked.tokens, asked.end_ids, asked.stop),
                    asked.prompts.values(),
                )
            )
        seconds = time.perf_counter() - started
        time.sleep(_COUNTED_SECONDS)
        counts = client.counts() - before
        expected = plain(number) if plain else {}
        prompts = [
            {
                "question_id": question,
                "token_ids": completion.token_ids,
                "seconds": completion.seconds,
                "first_pass_seconds": completion.first_seconds,
                "divergence": find_divergence(client, prompt, expected.get(question), completion.token_ids),
            }
            for (question, prompt), completion in zip(asked.prompts.items(), completions)
        ]
        record = {"method": name, "requests_at_once": number, "version": client.version(), "seconds": seconds}
        yield record | {"counts": asdict(counts), "prompts": prompts}


def find_divergence(
    client: EngineClient, prompt_ids: list[int], plain: list[int] | None, other: list[int]
) -> dict[str, Any] | None:
    """Find where an output leaves plain decoding's, and by how little the target preferred its own token there."""
    if plain is None or plain == other:
        return None
    position = count_shared(plain, other)
    return {"position": position, "margin": client.margin(prompt_ids + plain[:position])}
