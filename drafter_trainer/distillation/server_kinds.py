"""Kinds of servers: the body of a request, with every sampling setting, and the parser of its reply."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from drafter_trainer.distillation.requests import TOP_K, Completion, Failure, Request
from drafter_trainer.errors import InputError

_NEUTRAL = {"top_p": 1.0, "min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_LLAMACPP_NEUTRAL = _NEUTRAL | {"dynatemp_range": 0.0, "top_k": 0, "typical_p": 1.0, "repeat_penalty": 1.0}
_LLAMACPP_NEUTRAL |= {"dry_multiplier": 0.0, "xtc_probability": 0.0, "mirostat": 0}
_TRANSFORMERS_NEUTRAL = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0}
_TRANSFORMERS_NEUTRAL |= {"eta_cutoff": 0.0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1}
_MINUS_INFINITY = -9999.0  # as in vLLM, since JSON has no infinity; within the range of fp16
_LLAMACPP_FINISH_REASONS = {"eos": "stop", "word": "stop", "limit": "length"}


class ServerKind:
    """A kind of server: the body of a request, and the parser of its reply.

    `name` is the name in options, and `path` is the endpoint after the server's address. `gives_logprobs` says whether
    the reply has ids and log-probabilities, or only text. The engine reads only the `temperature` of a request, and
    returns the result of `read` unchanged: the kind of server in `benchmarks.judge` returns text.

    Args:
        model (`str`): The server's name for the target.
        tokenizer (`PreTrainedTokenizerBase`): The target's tokenizer.
    """

    name: str
    path: str
    gives_logprobs = True

    def __init__(self, model: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer

    def body(self, request: Request) -> dict[str, Any] | Failure:
        """Return the JSON of a request, or the reason why this kind of server cannot complete it."""
        raise NotImplementedError

    def read(self, reply: Any, request: Request) -> Completion | Failure:
        """Return the completion of a reply, or the reason why the reply is unusable."""
        raise NotImplementedError


def vllm_sampling(request: Request) -> dict[str, Any]:
    """Return the sampling settings of vLLM, for a server's JSON and for `vllm.SamplingParams`."""
    return _NEUTRAL | {
        "temperature": request.temperature,
        "top_k": 0,
        "repetition_penalty": 1.0,
        "seed": request.sampling_seed,
        "max_tokens": request.max_new_tokens,
        "n": 1,
        "logprobs": TOP_K,
    }


class VLLM(ServerKind):
    """`vllm serve` (docs.vllm.ai, "OpenAI-Compatible Server", completions: sampling and extra parameters).

    `return_tokens_as_token_ids` identifies tokens by id, since two ids may have the same text. The reply also lists a
    sampled token that is not among the top log-probabilities.
    """

    name = "vllm"
    path = "/v1/completions"

    def body(self, request: Request) -> dict[str, Any]:
        return vllm_sampling(request) | {
            "model": self.model,
            "prompt": [*request.prompt_ids],
            "stop": [*request.stop],
            "return_tokens_as_token_ids": True,
            "stream": False,
        }

    def read(self, reply: Any, request: Request) -> Completion:
        (choice,) = reply["choices"]
        logprobs, usage = choice["logprobs"], reply["usage"]
        tops = [[(_parse_id(token), value) for token, value in top.items()] for top in logprobs["top_logprobs"]]
        ids = [_parse_id(token) for token in logprobs["tokens"]]
        _check_counts(request, ids, usage["prompt_tokens"], usage["completion_tokens"])
        return make_completion(ids, tops, choice["finish_reason"], request)


class SGLang(ServerKind):
    """SGLang's `/generate` (docs.sglang.io, "Sampling Parameters").

    Its `/v1/completions` identifies the tokens of top log-probabilities only by their text.
    """

    name = "sglang"
    path = "/generate"

    def body(self, request: Request) -> dict[str, Any]:
        sampling = _NEUTRAL | {
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
            "sampling_params": sampling,
            "return_logprob": True,
            "top_logprobs_num": TOP_K,
            "stream": False,
        }

    def read(self, reply: Any, request: Request) -> Completion:
        meta = reply["meta_info"]
        tops = [[(token, value) for value, token, *_ in top] for top in meta["output_top_logprobs"]]
        ids = [token for _, token, *_ in meta["output_token_logprobs"]]
        _check_counts(request, ids, meta["prompt_tokens"], meta["completion_tokens"])
        return make_completion(ids, tops, meta["finish_reason"]["type"], request)


class LlamaCpp(ServerKind):
    """`/completion` of llama.cpp's `llama-server` (its tools/server/README.md).

    This endpoint returns ids, and `samplers` restricts sampling to the temperature. It adds no start token to a prompt
    of ids. Log-probabilities (`n_probs`) are of the raw logits unless `post_sampling_probs` is set. Tokens that end
    inside a character, and the token of a stop string, have no log-probabilities: completions are stored without them.
    """

    name = "llamacpp"
    path = "/completion"

    def body(self, request: Request) -> dict[str, Any]:
        return _LLAMACPP_NEUTRAL | {
            "model": self.model,
            "prompt": [*request.prompt_ids],
            "samplers": ["temperature"],
            "temperature": request.temperature,
            "seed": request.sampling_seed,
            "n_predict": request.max_new_tokens,
            "stop": [*request.stop],
            "n_probs": TOP_K,
            "post_sampling_probs": False,
            "return_tokens": True,
            "stream": False,
        }

    def read(self, reply: Any, request: Request) -> Completion | Failure:
        ids, finish = reply["tokens"], _LLAMACPP_FINISH_REASONS[reply["stop_type"]]
        _check_counts(request, ids, reply["tokens_evaluated"], reply["tokens_predicted"])
        if reply["truncated"] and not (finish == "length" and len(ids) < request.max_new_tokens):
            return Failure("completed by llama.cpp with a shifted context", "start it with --no-context-shift")
        entries = reply.get("completion_probabilities", [])
        tops = [[(top["id"], top["logprob"]) for top in entry["top_logprobs"]] for entry in entries]
        return make_completion(ids, tops if [entry["id"] for entry in entries] == ids else None, finish, request)


class Transformers(ServerKind):
    """`transformers serve` (5.23, its cli/serving/completion.py): text without log-probabilities.

    It returns 422 for unknown keys. It samples only with `do_sample` in `generation_config`; keys that are missing
    there come from the model's own file.
    """

    name = "transformers"
    path = "/v1/completions"
    gives_logprobs = False

    def body(self, request: Request) -> dict[str, Any] | Failure:
        for ids in (request.prompt_ids, request.prompt_ids[1:]):  # the tokenizer may add the start token itself
            prompt = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            if self.tokenizer(prompt)["input_ids"] == [*request.prompt_ids]:
                break
        else:
            return Failure("not sent, because the text of the prompt is tokenized differently")
        sampling = _TRANSFORMERS_NEUTRAL | {
            "do_sample": request.temperature > 0,
            "temperature": request.temperature or 1.0,
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
        finish = _check_finish_reason(choice["finish_reason"])
        if finish == "stop" and self.tokenizer.eos_token_id is not None:
            ids.append(self.tokenizer.eos_token_id)
        return Completion(ids, None, None, finish, retokenized=True)


SERVER_KINDS: dict[str, type[ServerKind]] = {kind.name: kind for kind in (VLLM, SGLang, LlamaCpp, Transformers)}


def make_completion(
    ids: Sequence[int], tops: Sequence[Sequence[tuple[int, float]]] | None, finish: str, request: Request
) -> Completion:
    """Make a completion from ids and, for each id, at least 20 pairs of id and log-probability in any order."""
    _check_finish_reason(finish)
    length = min(len(ids), request.max_new_tokens)  # llama.cpp exceeds the limit to complete a character
    finish = finish if length == len(ids) else "length"
    kept = [int(token) for token in ids[:length]]
    if tops is None:
        return Completion(kept, None, None, finish)
    best = [sorted(top, key=lambda pair: -pair[1])[:TOP_K] for top in tops]
    if len(best) != len(ids) or any(len(top) < TOP_K for top in best):
        raise ValueError(f"expected the {TOP_K} most likely tokens for each of {len(ids)} tokens")
    pairs = np.array(best, np.float64).reshape(-1, TOP_K, 2)[:length]
    logprobs = np.maximum(pairs[..., 1], _MINUS_INFINITY).astype(np.float32)
    return Completion(kept, pairs[..., 0].astype(np.int64), logprobs, finish)


def _parse_id(token: str) -> int:
    """Parse an id of vLLM, such as `token_id:17`."""
    prefix, _, number = token.partition(":")
    if prefix != "token_id":
        raise ValueError(f"expected token_id:NUMBER, got {token[:40]!r}")
    return int(number)


def _check_finish_reason(finish: str) -> str:
    if finish not in ("stop", "length"):
        raise ValueError(f"expected finish reason stop or length, got {finish!r}")
    return finish


def _check_counts(request: Request, ids: Sequence[int], prompt_tokens: int, tokens: int) -> None:
    """Compare the counts that a server reports with the ids sent and received."""
    if prompt_tokens != len(request.prompt_ids):
        raise InputError(f"it read a prompt of {prompt_tokens} tokens, but {len(request.prompt_ids)} were sent")
    if tokens != len(ids):
        raise InputError(f"it generated {tokens} tokens, but {len(ids)} were received")
