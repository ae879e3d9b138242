"""llama.cpp's own server from the wheel `xllamacpp`, started with the arguments of `llama-server`.

    PYTHON -m drafter_trainer.serving.llamacpp_server --model TARGET.gguf --port 8080 --spec-type draft-simple ...

The wheel has the server but no command line. This module reads the arguments that `serving.commands` writes. It
imports no other module of the package, because its environment may lack the package's dependencies.
"""

import argparse
import functools
import threading

import xllamacpp

# Type of each argument's value, and the setting that it changes
_THREADS = ("cpuparams", "cpuparams_batch", "speculative.draft.cpuparams", "speculative.draft.cpuparams_batch")
_WORDS = {
    "--model": (str, "model.path"),
    "--host": (lambda host: [host], "hostnames"),
    "--port": (int, "port"),
    "--ctx-size": (int, "n_ctx"),  # in tokens, of all requests together
    "--parallel": (int, "n_parallel"),
    "--threads": (int, *(f"{owner}.n_threads" for owner in _THREADS)),
    "--spec-draft-model": (str, "speculative.draft.mparams.path"),
    "--spec-draft-n-max": (int, "speculative.draft.n_max"),
    "--spec-ngram-simple-size-n": (int, "speculative.ngram_simple.size_n"),
    "--spec-ngram-simple-size-m": (int, "speculative.ngram_simple.size_m"),
    "--lookup-cache-static": (str, "speculative.ngram_cache.lookup_cache_static"),
}


def settings(argv: list[str] | None = None) -> xllamacpp.CommonParams:
    """Return the settings of a command line."""
    parser = argparse.ArgumentParser(prog="llamacpp_server", description=__doc__, allow_abbrev=False)
    for word, (kind, *_) in _WORDS.items():
        parser.add_argument(word, type=kind, required=word in ("--model", "--port"))
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--spec-type", default="none")
    words, params = vars(parser.parse_args(argv)), xllamacpp.CommonParams()
    params.endpoint_metrics = words["metrics"]
    kinds = words["spec_type"].replace("-", "_").upper().split(",")
    types = xllamacpp.common_speculative_type
    params.speculative.types = [getattr(types, f"COMMON_SPECULATIVE_TYPE_{kind}") for kind in kinds]
    for word, (_, *places) in _WORDS.items():
        if (value := words[word[2:].replace("-", "_")]) is not None:
            for *owners, name in (place.split(".") for place in places):
                setattr(functools.reduce(getattr, owners, params), name, value)
    return params


if __name__ == "__main__":
    server = xllamacpp.Server(settings())
    threading.Event().wait()
