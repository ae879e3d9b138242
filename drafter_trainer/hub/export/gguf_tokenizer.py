"""The tokenizer in a GGUF file: taken over from the target's file, or written."""

import json
from pathlib import Path

import gguf
from transformers import AutoTokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from drafter_trainer.errors import InputError, one_line


def needs_converter(folder: Path, what: str) -> InputError:
    return InputError(
        f"{folder} is {what}, which is not written here: write its GGUF file with llama.cpp's convert_hf_to_gguf.py, "
        "and leave llamacpp out of engines"
    )


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path, size: int, target_gguf: Path | None) -> None:
    if target_gguf is not None:
        _copy_tokenizer(writer, folder, size, target_gguf)
        return
    try:
        vocabulary = gguf.BpeVocab(folder)
    except (FileNotFoundError, ValueError) as error:  # it asks for byte-level BPE with consecutive ids
        raise InputError(
            f"the tokenizer of {folder} is no plain byte-level BPE, and is taken over from the target's GGUF file: "
            "name it as target_gguf"
        ) from error
    pieces = AutoTokenizer.from_pretrained(folder)
    tokens, _, kinds = (list(column) for column in zip(*vocabulary.all_tokens()))
    for token, added in pieces.added_tokens_decoder.items():
        kinds[token] = gguf.TokenType.CONTROL if added.special else gguf.TokenType.USER_DEFINED
    for token in range(len(tokens), size):  # rows of the embeddings without a token of their own
        tokens.append(_padding(token))
        kinds.append(gguf.TokenType.UNUSED)
    writer.add_tokenizer_model(vocabulary.tokenizer_model)
    writer.add_tokenizer_pre(_find_pre_tokenizer(folder))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=size)
    # What llama.cpp would assume in place of a flag depends on the name above.
    for name in ("bos", "eos"):
        special.add_special_token.setdefault(name, False)
    special.add_to_gguf(writer, quiet=True)


def _copy_tokenizer(writer: gguf.GGUFWriter, folder: Path, size: int, target_gguf: Path) -> None:
    """Take the target's tokenizer over, token by token the drafter's.

    llama.cpp compares both files, and serves without the drafter where they differ; its log alone says so.
    """
    try:
        fields = gguf.GGUFReader(target_gguf).fields
    except (OSError, ValueError) as error:
        raise InputError(f"{target_gguf} is no GGUF file: {one_line(error)}") from error
    fields = {name: field for name, field in fields.items() if name.startswith("tokenizer.")}
    if "tokenizer.ggml.tokens" not in fields:
        raise InputError(f"{target_gguf} has no vocabulary: name the GGUF file of a language model")
    tokens = fields["tokenizer.ggml.tokens"].contents()
    own = AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens(range(min(len(tokens), size)))
    for token, (text, expected) in enumerate(zip(own, tokens)):
        # llama.cpp's converter writes the spaces of tokens that were added to a vocabulary as such.
        if text is not None and text.replace("▁", " ") != expected.replace("▁", " "):
            raise InputError(
                f"token {token} is {text!r} in {folder} and {expected!r} in {target_gguf}: name the file of the "
                "target that this drafter was trained for"
            )
    # Rows of the embeddings without a token of their own; the entries' types are those of the columns.
    fillers = {"tokens": _padding, "scores": lambda _: -1000.0, "token_type": lambda _: int(gguf.TokenType.UNUSED)}
    for name, field in fields.items():
        value, kinds = field.contents(), field.types
        if fill := fillers.get(name.rpartition(".")[2]):
            value = value[:size] + [fill(token) for token in range(len(value), size)]
        writer.add_key_value(name, value, kinds[0], kinds[1] if len(kinds) > 1 else None)


def _padding(token: int) -> str:
    return f"[PAD{token}]"


def _find_pre_tokenizer(folder: Path) -> str:
    """Find llama.cpp's name for how a byte-level tokenizer splits text before BPE."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    pre = tokenizer["pre_tokenizer"]
    parts = pre["pretokenizers"] if pre["type"] == "Sequence" else [pre]
    match [part["type"] for part in parts]:
        case ["ByteLevel"] if parts[0]["use_regex"]:
            return "gpt-2"
        case ["Digits", "ByteLevel"] if parts[0]["individual_digits"] and parts[1]["use_regex"]:
            return "smollm"
        case ["Split", "ByteLevel"]:
            for name, split in GGUF_PRE_TOKENIZER_SPLITS.items():
                if parts[0]["pattern"] == {"Regex": split}:
                    return name
    raise needs_converter(folder, "a model whose tokenizer splits text in a way of its own")
