"""Render the API reference of the public names from their signatures and docstrings."""

import inspect
import re
import textwrap
from collections.abc import Iterator

import drafter_trainer
from drafter_trainer.errors import IncompatibleTokenizerError, InputError
from drafter_trainer.pipeline.publish import Publication
from drafter_trainer.pipeline.tune import TuningResult
from drafter_trainer.targets import Target
from drafter_trainer.training.rows import Rows

GROUPS = {
    "Use a drafter": ["load_drafter", "CompletionMemory", "DrafterRouter"],
    "Make rows": ["resolve_target", "distill", "score_text"],
    "Train": [
        "create_drafter",
        "search_layers",
        "DrafterTrainer",
        "DrafterTrainingArguments",
        "PretrainingTrainer",
        "PretrainingArguments",
        "adapt",
    ],
    "Tune, measure and publish": ["tune", "benchmark", "publish", "export_drafter"],
}
RETURNED = [Target, Rows, TuningResult, Publication, InputError, IncompatibleTokenizerError]
_METHODS = {
    "CompletionMemory": ["load", "save", "remember"],
    "DrafterRouter": ["from_hub", "choose"],
    "DrafterTrainer": ["save_model"],
    "Rows": ["train", "validation", "open"],
}
_SECTIONS = {f"{name}:": name for name in ("Returns", "Raises", "Attributes")} | {
    "Args:": "Arguments",
    "Warns:": "Warnings",
}
_ENTRY = re.compile(r"(?P<names>[\w*, ]+?)(?: \((?P<type>.+?)\))?: (?P<text>.*)")


def api_page() -> str:
    """Render the page.

    Raises:
        ValueError: If a public name is in no group.
    """
    listed = {name for names in GROUPS.values() for name in names}
    if missing := {*drafter_trainer.__all__} ^ listed:
        raise ValueError(f"benchmarks/api.py and drafter_trainer.__all__ differ in {', '.join(sorted(missing))}")
    parts = [
        "# API reference",
        "All names that `from drafter_trainer import ...` exports, rendered by `make readme` from the docstrings. An "
        "error that the caller can correct is an `InputError` of `drafter_trainer.errors`, a `ValueError`.",
        "\n".join(
            f"- {group}: {', '.join(f'[{name}](#{name.lower()})' for name in GROUPS[group])}" for group in GROUPS
        ),
    ]
    for group, names in GROUPS.items():
        parts += [f"## {group}", *(part for name in names for part in _entry(getattr(drafter_trainer, name)))]
    parts += ["## Classes that these return and raise", *(part for kind in RETURNED for part in _entry(kind))]
    return "\n\n".join(parts) + "\n"


def _entry(found: type) -> Iterator[str]:
    """Render a function, or a class with its methods."""
    yield f"### {found.__name__}"
    if not (inspect.isclass(found) and found.__name__.endswith(("Arguments", "Error"))):
        yield f"```python\n{_signature(found.__name__, found)}\n```"
    yield from _docstring(found)
    for name in _METHODS.get(found.__name__, ()):
        method = getattr(found, name)
        yield f"#### {found.__name__}.{name}"
        if callable(method):
            yield f"```python\n{_signature(name, method)}\n```"
        yield from _docstring(method)


def _signature(name: str, function: object) -> str:
    """Return a signature as source code, with one parameter per line if it is long."""
    signature = inspect.signature(function)
    # collections.abc.Sequence -> Sequence, but not 0.0
    words = [re.sub(r"\b[a-zA-Z_](?:\w*\.)+(\w+)", r"\1", str(each)) for each in signature.parameters.values()]
    words = [word for word in words if word != "self"]
    kinds = [each.kind for each in signature.parameters.values() if each.name != "self"]
    if inspect.Parameter.VAR_POSITIONAL not in kinds and inspect.Parameter.KEYWORD_ONLY in kinds:
        words.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    words = [word.replace("PosixPath(", "Path(") for word in words]
    line = f"{name}({', '.join(words)})"
    return line if len(line) <= 100 else f"{name}(\n" + "".join(f"    {word},\n" for word in words) + ")"


def _docstring(found: object) -> Iterator[str]:
    """Render a docstring: its text unchanged, its sections as lists."""
    heading, lines = "", []
    for line in [*inspect.cleandoc(found.__doc__ or "").splitlines(), "Args:"]:
        if line in _SECTIONS or line.startswith("Source:"):
            yield from _section(heading, "\n".join(lines).strip("\n"))
            heading, lines = _SECTIONS.get(line, ""), [] if line in _SECTIONS else [line]
        else:
            lines.append(line)


def _section(heading: str, text: str) -> Iterator[str]:
    if not text:
        return
    if not heading:
        yield text
        return
    yield f"**{heading}**"
    entries = re.split(r"\n(?=\S)", textwrap.dedent(text))
    yield "\n".join(_item(" ".join(entry.split()), heading) for entry in entries)


def _item(entry: str, heading: str) -> str:
    found = _ENTRY.fullmatch(entry) if heading != "Returns" else None
    if found is None:
        return f"- {entry}"
    kind = f" ({found['type']})" if found["type"] else ""
    return f"- **{found['names']}**{kind}: {found['text']}"


if __name__ == "__main__":
    print(api_page(), end="")
