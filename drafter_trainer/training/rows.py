"""Self-distilled rows as datasets, for training."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset, concatenate_datasets
from transformers import TrainingArguments

from drafter_trainer.atomic import write_json
from drafter_trainer.distillation.store import RowStore, count_unscored
from drafter_trainer.errors import InputError
from drafter_trainer.languages import Language, Pair, get_language, get_pair
from drafter_trainer.runs import read_step
from drafter_trainer.targets import Target
from drafter_trainer.training.arguments import DrafterTrainingArguments

_ROWS_AT_ONCE = 10_000
_TOPK = ("topk_ids", "topk_logprobs")
SCORE_THEM = (
    "add them by distilling again with teacher_forcing, which keeps the completions; or train with loss_type "
    "cross_entropy, which does not need them"
)
_RECORDED = ("temperatures", "max_new_tokens", "chat_template_kwargs", "sanitize_control_tokens")
_FILE = "rows.json"  # target and languages of the rows


@dataclass(frozen=True)
class Rows:
    """A folder of self-distilled rows, the result of `distill` and `score_text`.

    Args:
        path (`Path`): The folder, with the splits `train` and `validation`.
        target (`Target`): The target that generated or scored the completions.
        languages (`tuple[Language, ...]`, *optional*): Languages of the rows.
        pair (`Pair`, *optional*): The language pair, if the prompts ask for translations.
    """

    path: Path
    target: Target
    languages: tuple[Language, ...] = ()
    pair: Pair | None = None

    def __len__(self) -> int:
        """Return the number of training rows."""
        return sum(table.num_rows for table in RowStore(self.path / "train").tables(["key"]))

    @property
    def train(self) -> Dataset:
        """The training rows."""
        return load_rows(self.path / "train", self.target)

    @property
    def validation(self) -> Dataset | None:
        """The held-out rows, or `None` if there are none."""
        folder = self.path / "validation"
        return load_rows(folder, self.target) if any(folder.glob("rows-*.parquet")) else None

    @property
    def record(self) -> dict[str, Any]:
        """Counts and settings of the distillation, for the card of a drafter."""
        return _record(self.path)

    def write(self) -> None:
        """Write target and languages of the rows into the folder."""
        values = {
            "target": asdict(self.target),
            "languages": [language.code for language in self.languages],
            "pair": str(self.pair or ""),
        }
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / _FILE, values)

    @classmethod
    def open(cls, path: str | Path) -> "Rows":
        """Open a folder of rows.

        Raises:
            InputError: If the folder has no rows.
            DamagedStoreError: If a shard is damaged.
        """
        folder = Path(path)
        if (folder / _FILE).is_file():
            values = json.loads((folder / _FILE).read_text(encoding="utf-8"))
            pair = get_pair(values["pair"]) if values["pair"] else None
            target = Target(**values["target"] | {"stop": tuple(values["target"]["stop"])})
            return cls(folder, target, tuple(map(get_language, values["languages"])), pair)
        if not any(folder.glob("train/rows-*.parquet")):
            raise InputError(f"{folder} holds no rows: give the output folder of distill")
        table = next(RowStore(folder / "train").tables(["target", "target_revision", "pair"]))
        name, revision, pair = (table[column][0].as_py() for column in table.column_names)
        read = get_pair(pair) if pair else None
        return cls(folder, Target(name, revision, name), read.languages if read else (), read)


def describe_rows(folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Return the records of several distillations by folder name, or by run name if folder names repeat."""
    repeated = len({folder.name for folder in folders}) < len(folders)
    return {(folder.parent if repeated else folder).name: _record(folder) for folder in folders}


def _record(folder: Path) -> dict[str, Any]:
    step = read_step(folder)
    if step is None:
        return {}
    return step["facts"] | {name: step["settings"][name] for name in _RECORDED if name in step["settings"]}


def read_rows(data: Any, target: Target | None = None) -> tuple[Any, Any, Rows | None]:
    """Return the training rows and held-out rows of a trainer's `train_dataset`, and its `Rows` if it is a folder.

    Raises:
        InputError: If the completions are from another target, or a dataset lacks the columns of rows.
    """
    if isinstance(data, str | Path):
        data = Rows.open(data)
    if not isinstance(data, Rows):
        return prepare_rows(data), None, None
    if target is not None and not target.is_known_as(data.target.identity):
        raise InputError(
            f"{data.path} holds completions of {data.target.identity}, the drafter is for {target.identity}: a "
            "drafter learns only from its own target's completions"
        )
    return prepare_rows(data.train), prepare_rows(data.validation), data


def load_rows(folders: Path | Sequence[Path], target: Target, topk: bool = True) -> Dataset:
    """Load the rows of one split, from the folders of one or several distillations.

    Args:
        topk (`bool`, *optional*, defaults to `True`): Load the target's log-probabilities, unless some rows lack them.
    Returns:
        `Dataset`, memory-mapped, in the order of the shards.
    Raises:
        DamagedStoreError: If a shard is truncated or repeats rows.
        InputError: If there are no rows, or they are from another target.
    """
    shards = []
    for folder in [folders] if isinstance(folders, Path) else folders:
        store = RowStore(folder)
        store.keys()  # raises an error if a shard is truncated or repeated
        if not store.shards():
            raise InputError(f"{folder} holds no rows: distill first")
        check_target(store, target)
        shards += store.shards()
    columns = ["prompt_ids", "response_ids"]
    if topk and not any(map(count_unscored, shards)):
        columns += _TOPK
    return Dataset.from_parquet(list(map(str, shards)), columns=columns)


def prepare_rows(rows: Any) -> Any:
    """Check the columns of a dataset of rows, and add the `length` of prompt and completion, in tokens.

    `completion_ids` may be called `response_ids`. Datasets of other classes are returned as they are.

    Raises:
        InputError: If `prompt_ids` or `completion_ids` are missing, or there are no rows.
    """
    if not isinstance(rows, Dataset):
        return rows
    if "completion_ids" in rows.column_names and "response_ids" not in rows.column_names:
        rows = rows.rename_column("completion_ids", "response_ids")
    if missing := {"prompt_ids", "response_ids"} - set(rows.column_names):
        raise InputError(
            f"a dataset of rows needs prompt_ids and completion_ids, and lacks {', '.join(sorted(missing))} (it has "
            f"{', '.join(rows.column_names)}): use distill to generate rows from prompts"
        )
    if not len(rows):
        raise InputError("the dataset has no rows: give prompts and completions")
    if "length" in rows.column_names:
        return rows
    return rows.add_column("length", _count_tokens(rows, "prompt_ids") + _count_tokens(rows, "response_ids"))


def count_response_tokens(rows: Any) -> int:
    """Count the tokens of all completions; 0 for a dataset that is not a `datasets.Dataset`."""
    return int(_count_tokens(rows, "response_ids").sum()) if isinstance(rows, Dataset) else 0


def _count_tokens(rows: Dataset, column: str) -> np.ndarray:
    tables = rows.select_columns([column]).with_format("arrow").iter(_ROWS_AT_ONCE)
    return np.concatenate([pc.list_value_length(table[column]).to_numpy() for table in tables])


def lacks_topk(rows: Any) -> bool:
    """Return whether some rows are known to lack the target's log-probabilities."""
    if isinstance(rows, dict):  # several datasets by name
        return any(map(lacks_topk, rows.values()))
    name = _TOPK[-1]
    if isinstance(rows, Dataset):
        return name not in rows.column_names or rows.data.column(name).null_count > 0
    return isinstance(rows, Sequence) and any(row.get(name) is None for row in rows)


def check_target(store: RowStore, target: Target) -> None:
    """Raise an error unless all completions are from this revision of the target, under any name."""
    for table in store.tables(["target", "target_revision"]):
        for name, revision in set(zip(table["target"].to_pylist(), table["target_revision"].to_pylist())):
            if revision != target.revision:
                raise InputError(
                    f"{store.folder} holds completions of {name}@{revision}, the target is {target.identity}: a "
                    "drafter learns only from its own target's completions, so distill again or name that target"
                )


def fill_up(rows: Dataset, args: TrainingArguments, filler: dict[str, Any]) -> Dataset:
    """Add copies of a row without supervised tokens, so that all processes get the same number of rows.

    Without these copies, accelerate would repeat rows.
    """
    lacking = -len(rows) % (args.world_size * args.per_device_train_batch_size) if args.world_size > 1 else 0
    return concatenate_datasets([rows, Dataset.from_list([filler] * lacking, rows.features)]) if lacking else rows


def group_rows(lengths: Sequence[int], tokens: int, seed: int) -> list[np.ndarray]:
    """Group rows of similar lengths so that no group has more than `tokens` tokens, padding included.

    No row may be longer than `tokens`. Rows of the same length are grouped at random, by the seed.

    Returns:
        `list` of arrays of row numbers; every row is in one array.
    """
    # In 32 bits: there may be millions of rows.
    lengths = np.asarray(lengths, dtype=np.int32)
    order = np.random.default_rng(seed).permutation(np.arange(len(lengths), dtype=np.int32))
    order = order[np.argsort(-lengths[order], kind="stable")]
    groups, start = [], 0
    while start < len(order):
        size = tokens // lengths[order[start]]
        groups.append(order[start : start + size])
        start += size
    return groups


class GroupedRows(torch.utils.data.Dataset):
    """Groups of rows as a dataset: one item is a whole batch.

    The Trainer shuffles the groups, divides them among processes and resumes as with rows. If the groups cannot be
    divided evenly, some processes get `filler`, a row without supervised tokens.
    """

    def __init__(self, rows: Dataset, args: DrafterTrainingArguments, filler: dict[str, Any]) -> None:
        self.rows, self.filler = rows, filler
        lengths = rows.select_columns("length").with_format("arrow")[:]["length"].to_numpy()
        self.groups = group_rows(np.minimum(lengths, args.max_length), args.per_device_train_tokens, args.seed)
        self.groups += [np.empty(0, dtype=int)] * (-len(self.groups) % args.world_size)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitems__(self, numbers: list[int]) -> list[dict[str, Any]]:
        """Return the rows of groups; torch's loader passes them to the collator."""
        chosen = np.concatenate([self.groups[number] for number in numbers])
        if len(chosen) == 0:
            return [self.filler]
        columns = self.rows[chosen]
        return [dict(zip(columns, values)) for values in zip(*columns.values())]
