"""Self-distilled rows as datasets, for training."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets

from drafter_trainer.atomic import write_json
from drafter_trainer.distillation.store import RowStore, count_unscored
from drafter_trainer.errors import InputError
from drafter_trainer.languages import Language, Pair, get_language, get_pair
from drafter_trainer.runs import read_step
from drafter_trainer.targets import Target

_ROWS_AT_ONCE = 10_000
_TOPK = ("topk_ids", "topk_logprobs")
_COLUMNS = ("prompt_ids", "response_ids", *_TOPK)
SCORE_THEM = (
    "let the target score them: distill again with teacher_forcing, which keeps the completions; or train with "
    "loss_type cross_entropy, which needs none"
)
_RECORDED = ("temperatures", "max_new_tokens", "chat_template_kwargs", "sanitize_control_tokens")
_FILE = "rows.json"  # whose rows they are


@dataclass(frozen=True)
class Rows:
    """A folder of self-distilled rows, as `distill` and `score_text` leave it.

    Args:
        path (`Path`): The folder, with the splits `train` and `validation`.
        target (`Target`): The target that gave the completions, or scored them.
        languages (`tuple[Language, ...]`, *optional*): Languages of the rows.
        pair (`Pair`, *optional*): The pair, where the prompts ask for translations.
    """

    path: Path
    target: Target
    languages: tuple[Language, ...] = ()
    pair: Pair | None = None

    def __len__(self) -> int:
        """Number of training rows."""
        return sum(table.num_rows for table in RowStore(self.path / "train").tables(["key"]))

    @property
    def train(self) -> Dataset:
        """The training rows."""
        return load_rows(self.path / "train", self.target)

    @property
    def validation(self) -> Dataset | None:
        """The held-out rows, `None` where there are none."""
        folder = self.path / "validation"
        return load_rows(folder, self.target) if any(folder.glob("rows-*.parquet")) else None

    @property
    def record(self) -> dict[str, Any]:
        """Counts and settings of the distillation, for the card of a drafter."""
        return _record(self.path)

    def write(self) -> None:
        """Write whose rows they are into the folder."""
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
            InputError: If it holds none.
            DamagedStoreError: If a shard is damaged.
        """
        folder = Path(path)
        if (folder / _FILE).is_file():
            values = json.loads((folder / _FILE).read_text(encoding="utf-8"))
            pair = get_pair(values["pair"]) if values["pair"] else None
            target = Target(**values["target"] | {"stop": tuple(values["target"]["stop"])})
            return cls(folder, target, tuple(map(get_language, values["languages"])), pair)
        if not any(folder.glob("train/rows-*.parquet")):
            raise InputError(f"{folder} holds no rows: name the folder that distill left")
        table = next(RowStore(folder / "train").tables(["target", "target_revision", "pair"]))
        name, revision, pair = (table[column][0].as_py() for column in table.column_names)
        read = get_pair(pair) if pair else None
        return cls(folder, Target(name, revision, name), read.languages if read else (), read)


def describe_rows(folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Return the records of several distillations by folder name, or by name of the run where folder names repeat."""
    repeated = len({folder.name for folder in folders}) < len(folders)
    return {(folder.parent if repeated else folder).name: _record(folder) for folder in folders}


def _record(folder: Path) -> dict[str, Any]:
    step = read_step(folder)
    if step is None:
        return {}
    return step["facts"] | {name: step["settings"][name] for name in _RECORDED if name in step["settings"]}


def read_datasets(data: Any, target: Target | None = None) -> tuple[Any, Any, Rows | None]:
    """Return training and held-out rows of what a trainer was given as `train_dataset`.

    Args:
        data (`Rows`, `str`, `Path` or dataset): What `distill` returns, its folder, or a dataset of rows.
        target (`Target`, *optional*): The target that must have given the completions.
    Raises:
        InputError: If another target gave them, or a dataset has no columns of rows.
    """
    if isinstance(data, str | Path):
        data = Rows.open(data)
    if isinstance(data, Rows):
        if target is not None and not target.is_known_as(data.target.identity):
            raise InputError(
                f"{data.path} holds completions of {data.target.identity}, the drafter is for {target.identity}: a "
                "drafter learns from its own target's completions alone"
            )
        return data.train, data.validation, data
    return with_row_columns(data), None, None


def with_row_columns(rows: Any) -> Any:
    """Check the columns of a dataset of rows; `completion_ids` may be called `response_ids`.

    Raises:
        InputError: If `prompt_ids` or `completion_ids` are missing.
    """
    if not isinstance(rows, Dataset):  # another kind of dataset is read as it is
        return rows
    if "completion_ids" in rows.column_names and "response_ids" not in rows.column_names:
        rows = rows.rename_column("completion_ids", "response_ids")
    if missing := {"prompt_ids", "response_ids"} - set(rows.column_names):
        raise InputError(
            f"a dataset of rows needs prompt_ids and completion_ids, and lacks {', '.join(sorted(missing))} (it has "
            f"{', '.join(rows.column_names)}): distill makes rows of prompts"
        )
    return rows


def with_lengths(rows: Dataset) -> Dataset:
    """Give a dataset of rows a column `length`, of prompt and completion together, where it has none."""
    if "length" in rows.column_names:
        return rows
    tables = rows.select_columns(["prompt_ids", "response_ids"]).with_format("arrow").iter(_ROWS_AT_ONCE)
    return rows.add_column("length", np.concatenate([_lengths(table) for table in tables]))


def load_split(folders: Sequence[Path], split: str, target: Target, topk: bool | None) -> Dataset:
    """Load the rows of one split of several distillations.

    Args:
        folders (`Sequence[Path]`): Each with a folder of shards for each split.
        split (`str`): "train" or "validation".
        target, topk: As for `load_rows`; where some rows of any folder have none, none are loaded.
    """
    places = [folder / split for folder in folders]
    if topk is None:
        topk = not any(
            map(count_unscored, itertools.chain.from_iterable(RowStore(place).shards() for place in places))
        )
    return concatenate_datasets([load_rows(place, target, topk) for place in places])


def load_rows(folder: Path, target: Target, topk: bool = True) -> Dataset:
    """Load the rows of one split.

    Args:
        folder (`Path`): A folder of shards.
        target (`Target`): The target that must have answered them.
        topk (`bool`, *optional*, defaults to `True`): Whether the target's log-probabilities are loaded.
    Returns:
        `Dataset`, memory-mapped, in the order of the shards, with the `length` of prompt and answer together, by which
        a Trainer groups rows.
    Raises:
        DamagedStoreError: If a shard is truncated or repeats rows.
        InputError: If there are none, another target answered, or some lack the log-probabilities.
    """
    store = RowStore(folder)
    store.keys()  # reads every shard: none is truncated or repeated
    if not store.shards():
        raise InputError(f"{folder} holds no rows: distill first")
    check_target(store, target)
    if topk and (bare := sum(map(count_unscored, store.shards()))):
        raise InputError(f"{bare} rows in {folder} have no log-probabilities: {SCORE_THEM}")
    columns = [name for name in _COLUMNS if topk or name not in _TOPK]
    rows = Dataset.from_parquet([str(shard) for shard in store.shards()], columns=columns)
    # Of the shards, which are read and let go: the dataset's own columns lie scattered over its file, and all the
    # pages that are touched would count as this process's memory.
    lengths = [_lengths(table) for table in store.tables(["prompt_ids", "response_ids"])]
    return rows.add_column("length", np.concatenate(lengths))


def has_topk(rows: Dataset | Sequence[dict[str, Any]] | dict[str, Dataset]) -> bool:
    """Tell whether all rows, or all rows of several datasets by name, have the target's log-probabilities."""
    if isinstance(rows, dict):
        return all(map(has_topk, rows.values()))
    name = _TOPK[-1]
    if isinstance(rows, Dataset):
        return name in rows.column_names and not rows.data.column(name).null_count
    return all(row.get(name) is not None for row in rows)


def count_response_tokens(rows: Any) -> int:
    """Count the tokens of all completions; 0 where rows cannot be counted before they are read."""
    if not isinstance(rows, Dataset):
        return 0
    return sum(
        pc.sum(pc.list_value_length(table["response_ids"])).as_py()
        for table in rows.with_format("arrow").iter(_ROWS_AT_ONCE)
    )


def _lengths(table: pa.Table) -> np.ndarray:
    prompts, responses = (pc.list_value_length(table[name]).to_numpy() for name in ("prompt_ids", "response_ids"))
    return prompts + responses


def check_target(store: RowStore, target: Target) -> None:
    """Refuse answers of another target; under another name the same revision is the same target.

    Raises:
        DamagedStoreError: If a shard is damaged.
        InputError: If another target, or another revision of it, gave some of them.
    """
    for table in store.tables(["target", "target_revision"]):
        for name, revision in set(zip(table["target"].to_pylist(), table["target_revision"].to_pylist())):
            if revision != target.revision:
                raise InputError(
                    f"{store.folder} holds answers of {name}@{revision}, the target is {target.identity}: a drafter "
                    "learns from its own target's answers alone, so distil again or name that target"
                )
