"""What each kind of server is asked with, and how its reply is read: every sampling setting is stated."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from drafter_trainer.distillation.requests import Request
from drafter_trainer.distillation.store import TOP_K, Completion, Failure
from drafter_trainer.errors import InputError

OFF = {"top_p": 1.0, "min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_LEAST = -9999.0  # vLLM's for minus infinity, which JSON does not know; within fp16
_LLAMACPP_FINISHES = {"eos": "stop", "word": "stop", "limit": "length"}


class ServerKind:
    """One kind of server: the body of a request, and how its reply is read.

    `name` is what a user calls it, `path` where it is asked, behind the server's address, and `gives_logprobs` tells
    whether it replies with ids and log-probabilities or with text alone. Of a request the engine itself reads no more
    than `temperature`, and what `read` returns it hands on: `benchmarks.judge` asks for text.

    Args:
        model (`str`): The name by which the server knows the target.
        tokenizer (`PreTrainedTokenizerBase`): The target's tokenizer.
    """

    name: str
    path: str
    gives_logprobs = True

    def __init__(self, model: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer

    def body(self, request: Request) -> dict[str, Any] | Failure:
        """Write a request as JSON, or say why this kind of server cannot be asked it."""
        raise NotImplementedError

    def read(self, reply: Any, request: Request) -> Completion | Failure:
        """Read a reply, or say why what it holds is of no use."""
        raise NotImplementedError


class VLLM(ServerKind):
    """`vllm serve` (docs.vllm.ai, "OpenAI-Compatible Server", completions: sampling and extra parameters).

    With `return_tokens_as_token_ids` tokens are named by id: two ids of one text would share a key otherwise. What is
    not in the list of top log-probabilities but was sampled comes in addition to it.
    """

    name = "vllm"
    path = "/v1/completions"

    def body(self, request: Request) -> dict[str, Any]:
        return OFF | {
            "model": self.model,
            "prompt": [*request.prompt_ids],
            "temperature": request.temperature,
            "top_k": 0,
            "repetition_penalty": 1.0,
            "seed": request.sampling_seed,
            "max_tokens": request.max_new_tokens,
            "n": 1,
            "stop": [*request.stop],
            "logprobs": TOP_K,
            "return_tokens_as_token_ids": True,
            "stream": False,
        }

    def read(self, reply: Any, request: Request) -> Completion:
        (choice,) = reply["choices"]
        said, usage = choice["logprobs"], reply["usage"]
        tops = [[(_named_id(token), value) for token, value in top.items()] for top in said["top_logprobs"]]
        ids = [_named_id(token) for token in said["tokens"]]
        _check_counts(request, ids, usage["prompt_tokens"], usage["completion_tokens"])
        return make_completion(ids, tops, choice["finish_reason"], request)


class SGLang(ServerKind):
    """SGLang's endpoint for token ids (docs.sglang.io, "Sampling Parameters", the `/generate` endpoint).

    Its `/v1/completions` names the tokens of top log-probabilities by their text alone.
    """

    name = "sglang"
    path = "/generate"

    def body(self, request: Request) -> dict[str, Any]:
        sampling = {
            "temperature": request.temperature,
            "top_k": -1,
            "repetition_penalty": 1.0,
            "sampling_seed": request.sampling_seed,
            "max_new_tokens": request.max_new_tokens,
            "stop": [*request.stop],
            "n": 1,
        }
        return {
            "input_ids": [*request.prompt_ids],
            "sampling_params": OFF | sampling,
            "return_logprob": True,
            "top_logprobs_num": TOP_K,
            "stream": False,
        }

    def read(self, reply: Any, request: Request) -> Completion:
        said = reply["meta_info"]
        tops = [[(token, value) for value, token, *_ in top] for top in said["output_top_logprobs"]]
        ids = [token for _, token, *_ in said["output_token_logprobs"]]
        _check_counts(request, ids, said["prompt_tokens"], said["completion_tokens"])
        return make_completion(ids, tops, said["finish_reason"]["type"], request)


class LlamaCpp(ServerKind):
    """llama.cpp's `llama-server` (its tools/server/README.md, the `/completion` endpoint).

    Its own endpoint returns ids; with `samplers` nothing but the temperature is applied. A prompt of ids gets no
    start token, and `n_probs` are of the raw logits unless `post_sampling_probs` is set. They leave out every token
    that ends inside a character, and the one that holds a stop; they are absent where all are left out. `tokens` has
    all ids. An answer of which some are left out has no log-probabilities.
    """

    name = "llamacpp"
    path = "/completion"

    def body(self, request: Request) -> dict[str, Any]:
        return OFF | {
            "model": self.model,
            "prompt": [*request.prompt_ids],
            "samplers": ["temperature"],
            "temperature": request.temperature,
            "dynatemp_range": 0.0,
            "top_k": 0,
            "typical_p": 1.0,
            "repeat_penalty": 1.0,
            "dry_multiplier": 0.0,
            "xtc_probability": 0.0,
            "mirostat": 0,
            "seed": request.sampling_seed,
            "n_predict": request.max_new_tokens,
            "stop": [*request.stop],
            "n_probs": TOP_K,
            "post_sampling_probs": False,
            "return_tokens": True,
            "stream": False,
        }

    def read(self, reply: Any, request: Request) -> Completion | Failure:
        ids, finish = reply["tokens"], _LLAMACPP_FINISHES[reply["stop_type"]]
        _check_counts(request, ids, reply["tokens_evaluated"], reply["tokens_predicted"])
        if reply["truncated"] and not (finish == "length" and len(ids) < request.max_new_tokens):
            return Failure("answered by llama.cpp with its context shifted", "start it with --no-context-shift")
        said = reply.get("completion_probabilities", [])
        tops = [[(top["id"], top["logprob"]) for top in token["top_logprobs"]] for token in said]
        return make_completion(ids, tops if [token["id"] for token in said] == ids else None, finish, request)


class Transformers(ServerKind):
    """`transformers serve` (5.23, its cli/serving/completion.py): text without log-probabilities.

    It answers 422 to keys that it does not know, and takes `temperature` without sampling for it: what it samples is
    said in `generation_config`, in which what is left out is filled from the model's own. It lists its end tokens.
    """

    name = "transformers"
    path = "/v1/completions"
    gives_logprobs = False

    def body(self, request: Request) -> dict[str, Any] | Failure:
        prompt = self._text(request.prompt_ids)
        if prompt is None:
            return Failure("not asked as the text of its prompt gives other tokens")
        sampling = {
            "do_sample": request.temperature > 0,
            "temperature": request.temperature or 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "typical_p": 1.0,
            "epsilon_cutoff": 0.0,
            "eta_cutoff": 0.0,
            "repetition_penalty": 1.0,
            "no_repeat_ngram_size": 0,
            "num_beams": 1,
            "max_new_tokens": request.max_new_tokens,
        }
        return {
            "model": self.model,
            "prompt": prompt,
            "generation_config": json.dumps(sampling),
            "max_tokens": request.max_new_tokens,
            "seed": request.sampling_seed,
            "stream": False,
        }

    def read(self, reply: Any, request: Request) -> Completion:
        (choice,) = reply["choices"]
        ids = self.tokenizer(choice["text"], add_special_tokens=False)["input_ids"]
        finish = _known(choice["finish_reason"])
        if finish == "stop" and self.tokenizer.eos_token_id is not None:
            ids.append(self.tokenizer.eos_token_id)
        return Completion(ids, None, None, finish, retokenized=True)

    def _text(self, prompt_ids: Sequence[int]) -> str | None:
        """Write a prompt as the text that the server's tokenizer turns into the same ids, if there is one."""
        for ids in (prompt_ids, prompt_ids[1:]):  # the tokenizer may put the start token there by itself
            text = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            if self.tokenizer(text)["input_ids"] == [*prompt_ids]:
                return text
        return None


SERVER_KINDS: dict[str, type[ServerKind]] = {kind.name: kind for kind in (VLLM, SGLang, LlamaCpp, Transformers)}


def _named_id(token: str) -> int:
    """Read the id in vLLM's `token_id:17`."""
    prefix, _, number = token.partition(":")
    if prefix != "token_id":
        raise ValueError(f"expected token_id:NUMBER, got {token[:40]!r}")
    return int(number)


def _known(finish: str) -> str:
    if finish not in ("stop", "length"):
        raise ValueError(f"expected to finish by stop or length, got {finish!r}")
    return finish


def _check_counts(request: Request, ids: Sequence[int], prompt_tokens: int, tokens: int) -> None:
    """Compare what a server says that it has read and written with what was sent and came."""
    if prompt_tokens != len(request.prompt_ids):
        raise InputError(f"it read a prompt of {prompt_tokens} tokens, {len(request.prompt_ids)} were sent")
    if tokens != len(ids):
        raise InputError(f"it wrote {tokens} tokens, {len(ids)} came")


def make_completion(
    ids: Sequence[int], tops: Sequence[Sequence[tuple[int, float]]] | None, finish: str, request: Request
) -> Completion:
    """Make an answer of ids and, for each, of at least 20 pairs of id and log-probability in any order, or none."""
    finish = _known(finish)
    # llama.cpp goes past the limit to complete a character.
    length = min(len(ids), request.max_new_tokens)
    finish = finish if length == len(ids) else "length"
    kept = [int(token) for token in ids[:length]]
    if tops is None:
        return Completion(kept, None, None, finish)
    best = [sorted(top, key=lambda pair: -pair[1])[:TOP_K] for top in tops]
    if len(best) != len(ids) or any(len(top) < TOP_K for top in best):
        raise ValueError(f"expected the {TOP_K} most likely tokens for each of {len(ids)} tokens")
    pairs = np.array(best, np.float64).reshape(-1, TOP_K, 2)[:length]
    logprobs = np.maximum(pairs[..., 1], _LEAST).astype(np.float32)
    return Completion(kept, pairs[..., 0].astype(np.int64), logprobs, finish)
