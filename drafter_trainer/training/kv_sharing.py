"""Training of a drafter whose layers attend to the target's own keys and values for the verified tokens.

The target has already read the verified tokens, with more layers and more context than the drafter. If the drafter's
layers have the shape of the target's layers, they can attend to the target's cache. The drafter then computes only the
keys and values of the drafted tokens.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import DynamicCache, PreTrainedModel

from drafter_trainer.decoding.metrics import count_shared
from drafter_trainer.drafters.loop.calls import CACHE
from drafter_trainer.drafters.loop.network import reason_against
from drafter_trainer.drafters.loop.sources import cut_prompt
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target
from drafter_trainer.training.arguments import DrafterTrainingArguments
from drafter_trainer.training.collators import IGNORED

ALONE = 0.15  # share of batches without the target's keys, so that the same weights also draft without them
DRAFTED = 5  # tokens of a draft, which attend to each other
_PREFIX_KEY, _PREFIXES = 32, 16  # number of ids that identify a prefix; number of prefixes kept
_NOWHERE = 2**30  # position of an empty entry of the cache


class TargetReader:
    """A frozen target that reads rows, for the keys and values of some of its layers.

    A prefix that many rows share, such as the examples of a template, is read once.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[int]) -> None:
        self.model, self.layers = model.eval().requires_grad_(False), list(layers)
        # Ids of each prefix, and the target's keys and values by layer, empty until a second row shares the prefix
        self._prefixes: OrderedDict[tuple[int, ...], tuple[list[int], list[tuple[torch.Tensor, ...]]]] = OrderedDict()

    @torch.no_grad()
    def read(self, rows: Sequence[list[int]]) -> tuple[DynamicCache, torch.Tensor]:
        """Read rows of token ids.

        Returns:
            `DynamicCache` of the drafter's layers, and a `torch.Tensor` of shape `(rows, entries)`: the position of
            the token in each entry of the cache. The position of an empty entry is larger than that of any token.
        """
        prefixes = [self._prefix(ids) for ids in rows]
        starts = torch.tensor([len(ids) for ids, _ in prefixes])
        gap, rest = int(starts.max()), max(len(ids) - len(prefix) for ids, (prefix, _) in zip(rows, prefixes))
        read = torch.zeros(len(rows), rest, dtype=torch.long)
        positions = torch.full((len(rows), gap + rest), _NOWHERE)
        for index, (ids, (prefix, _)) in enumerate(zip(rows, prefixes)):
            start, end = len(prefix), len(ids)
            read[index, : end - start] = torch.tensor(ids[start:])
            positions[index, :start] = torch.arange(start)
            positions[index, gap : gap + end - start] = torch.arange(start, end)
        cache = DynamicCache()
        if gap:
            longest = max((states for _, states in prefixes), key=len)
            empty = [tuple(state[:, :, :0] for state in pair) for pair in longest]
            for layer, kept in enumerate(zip(*(states or empty for _, states in prefixes))):
                padded = ([F.pad(state, (0, 0, 0, gap - state.shape[2])) for state in pair] for pair in kept)
                cache.update(*map(torch.cat, zip(*padded)), layer)
        own = starts[:, None] + torch.arange(rest)
        # Padding attends to itself.
        itself = torch.arange(gap + rest) == gap + torch.arange(rest)[:, None]
        seen = (positions[:, None] <= own[:, :, None]) | itself
        self._run(read, cache, position_ids=own, attention_mask=seen[:, None])
        shared = DynamicCache()
        for index, layer in enumerate(self.layers):
            shared.update(cache.layers[layer].keys, cache.layers[layer].values, index)
        return shared, positions.to(self.model.device)

    def _prefix(self, ids: list[int]) -> tuple[list[int], list[tuple[torch.Tensor, ...]]]:
        """Return the prefix that a row shares with earlier rows, and the target's keys and values of all layers."""
        key = tuple(ids[:_PREFIX_KEY])
        prefix, states = self._prefixes.pop(key, (None, []))
        if prefix is None:
            prefix = ids[:-1]  # read when another row begins with it
        else:
            prefix = prefix[: min(count_shared(prefix, ids), len(ids) - 1)]
            if not states and len(prefix) >= _PREFIX_KEY:
                cache = DynamicCache()
                self._run(torch.tensor([prefix]), cache)
                states = [(layer.keys, layer.values) for layer in cache.layers]
            states = [tuple(state[:, :, : len(prefix)] for state in pair) for pair in states]
        self._prefixes[key] = prefix, states
        if len(self._prefixes) > _PREFIXES:
            self._prefixes.popitem(last=False)
        return (prefix, states) if states else ([], [])

    def _run(self, ids: torch.Tensor, cache: DynamicCache, **inputs: torch.Tensor) -> None:
        device = self.model.device
        inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
        self.model.base_model(input_ids=ids.to(device), **{CACHE: cache}, use_cache=True, **inputs)


class KeySharing:
    """The preparation of training batches, with the target's keys and values if the drafter attends to them.

    Sets `kv_sharing_layers` in the drafter's configuration.

    Raises:
        InputError: If the drafter cannot attend to the target's keys.
    """

    def __init__(self, model: PreTrainedModel, args: DrafterTrainingArguments, target: Target | None) -> None:
        config, self._target, self._args, self.max_length = model.config, target, args, args.max_length
        if args.kv_sharing_layers and target is None:
            raise InputError("kv_sharing_layers needs the target: make the drafter with create_drafter")
        config.kv_sharing_layers = list(args.kv_sharing_layers) or getattr(config, "kv_sharing_layers", None)
        # Without a known target, the drafter is trained without key sharing.
        self.layers: list[int] = [] if target is None else config.kv_sharing_layers or []
        self._reader: TargetReader | None = None
        if not self.layers:
            return
        if args.activation_checkpointing:  # checkpointed layers get no cache
            raise InputError("activation_checkpointing cannot be combined with kv_sharing_layers: leave one out")
        if (implementation := config._attn_implementation) not in ("sdpa", "eager"):
            raise InputError(f"kv_sharing_layers cannot be trained with attention {implementation}: use sdpa")
        if (reason := reason_against(model)) is not None:
            raise InputError(f"the drafting loop cannot share keys with this drafter, since {reason}")
        target_config, layers = target.load_config().get_text_config(), self.layers
        if len(layers) != config.num_hidden_layers:
            raise InputError(
                f"kv_sharing_layers names {len(layers)} layers, the drafter has {config.num_hidden_layers}"
            )
        if not all(0 <= layer < target_config.num_hidden_layers for layer in layers):
            raise InputError(f"kv_sharing_layers must be 0 to {target_config.num_hidden_layers - 1}, got {layers}")
        for name in ("num_key_value_heads", "head_dim"):
            own, other = getattr(config, name, None), getattr(target_config, name, None)
            if own != other:
                raise InputError(f"kv_sharing_layers needs the target's {name} of {other}, the drafter has {own}")
        self.max_length = min(args.max_length, getattr(config, "sliding_window", None) or args.max_length)

    def prepare(self, inputs: dict[str, torch.Tensor], training: bool) -> dict[str, Any]:
        """Return a batch as the drafter reads it."""
        if not self.layers:
            return inputs
        if training and torch.rand(()) < ALONE:
            return keep_windows(inputs, self._args.prompt_window)
        if self._reader is None:
            model = self._target.load_model("bfloat16" if self._args.bf16 else "float32", self._args.device)
            self._reader = TargetReader(model, self.layers)
        rows = len(inputs["input_ids"])
        offsets = torch.randint(DRAFTED, (rows,)) if training else torch.zeros(rows, dtype=torch.long)
        return share_keys(inputs, self._reader, offsets)


def share_keys(batch: dict[str, torch.Tensor], reader: TargetReader, offsets: torch.Tensor) -> dict[str, Any]:
    """Divide the completions of a batch into drafts of five tokens, which a drafter reads as it reads its own drafts.

    A token attends to the target's keys and values of all tokens before its draft, and to the drafter's own keys and
    values within its draft.

    Args:
        batch (`dict`): Batch of `SelfDistilledCollator` with whole prompts, of shapes `(batch, length, ...)`.
        offsets (`torch.Tensor` of shape `(batch,)`): Number of tokens by which the first draft of a row is shorter
            than five.
    Returns:
        `dict` of the columns from the last token of each prompt on, with the target's cache, a Boolean
        `attention_mask` of shape `(batch, 1, tokens, entries + tokens)`, and `position_ids`.
    """
    lengths, starts = _lengths_and_starts(batch)
    rows = [ids[:length].tolist() for ids, length in zip(batch["input_ids"], lengths.tolist())]
    cache, positions = reader.read(rows)
    device = batch["input_ids"].device
    column = torch.arange(int((lengths - starts).max()) + 1, device=device)
    index = (starts - 1)[:, None] + column
    moved = _select(batch, index, index < lengths[:, None])
    moved["labels"][:, 0] = IGNORED
    offset = offsets.to(device)[:, None]
    first = ((column + offset) // DRAFTED * DRAFTED - offset).clamp(min=0)  # column where each token's draft begins
    verified = positions[:, None] < ((starts - 1)[:, None] + first)[:, :, None]
    own = (column <= column[:, None]) & (column >= first[:, :, None])
    seen = torch.cat((verified, own), dim=2)[:, None]
    return moved | {CACHE: cache, "attention_mask": seen, "position_ids": index}


def keep_windows(batch: dict[str, torch.Tensor], window: int | None) -> dict[str, torch.Tensor]:
    """Cut the prompts of a batch to the window that a drafter reads without the target's keys."""
    lengths, starts = (numbers.tolist() for numbers in _lengths_and_starts(batch))
    kept = [[*cut_prompt(range(start), window), *range(start, length)] for start, length in zip(starts, lengths)]
    longest, device = max(map(len, kept)), batch["input_ids"].device
    index = torch.tensor([columns + [0] * (longest - len(columns)) for columns in kept], device=device)
    real = torch.arange(longest, device=device) < torch.tensor(list(map(len, kept)), device=device)[:, None]
    return _select(batch, index, real) | {"attention_mask": real.long()}


def _lengths_and_starts(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the number of tokens of each row, and of its prompt."""
    lengths, supervised = batch["attention_mask"].sum(dim=1), batch["labels"] != IGNORED
    return lengths, torch.where(supervised.any(dim=1), supervised.long().argmax(dim=1), lengths)


def _select(batch: dict[str, torch.Tensor], index: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the columns of a batch at an index of shape `(batch, tokens)`, of which only some tokens are real."""
    rows = torch.arange(len(index), device=index.device)[:, None]
    index = index.clamp(max=batch["input_ids"].shape[1] - 1)
    masks = ("attention_mask", "position_ids")
    selected = {name: values[rows, index] for name, values in batch.items() if name not in masks}
    selected["labels"] = selected["labels"].masked_fill(~real, IGNORED)
    return selected
