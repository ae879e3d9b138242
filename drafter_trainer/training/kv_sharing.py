"""Training a drafter whose layers attend to the target's own keys and values of the verified tokens.

A drafter that starts from layers of the target reads anew a text that the target has read already, with more layers
and all of its context. Where its layers have the target's shape they can attend to what the target keeps in its cache,
and compute keys and values of the drafted tokens alone.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel

from drafter_trainer.drafters.loop.network import reason_against
from drafter_trainer.drafters.loop.sources import cut_prompt
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target
from drafter_trainer.training.arguments import DrafterTrainingArguments
from drafter_trainer.training.collators import IGNORED

ALONE = 0.15  # share of batches that are read without the target, so that the same weights also draft without it
DRAFTED = 5  # a token attends to the drafter's own keys of four tokens before it at most
_KEY, _BEGINNINGS = 32, 16  # ids that tell beginnings apart; beginnings that are kept
_NOWHERE = 2**30  # position of a place in the cache that holds no token


class TargetReader:
    """Read rows with the target and keep the keys and values of some of its layers.

    What many rows begin with, such as the examples of a template, is read once.

    Args:
        model (`PreTrainedModel`): The target; it is frozen.
        layers (`Sequence[int]`): The layer of the target that each layer of the drafter attends to.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[int]) -> None:
        self.model, self.layers = model.eval().requires_grad_(False), list(layers)
        self._beginnings: OrderedDict[tuple[int, ...], tuple[list[int], list[tuple[torch.Tensor, ...]]]] = (
            OrderedDict()
        )

    @torch.no_grad()
    def read(self, rows: Sequence[list[int]]) -> tuple[DynamicCache, torch.Tensor]:
        """Read rows.

        Args:
            rows (`Sequence[list[int]]`): Token ids.
        Returns:
            `DynamicCache` of the drafter's layers, and a `torch.Tensor` of shape `(rows, places)` of the position of
            the token at each place of the cache, larger than any where there is none.
        """
        begun = [self._beginning(ids) for ids in rows]
        starts = torch.tensor([len(ids) for ids, _ in begun])
        gap, rest = int(starts.max()), max(len(ids) - len(start) for ids, (start, _) in zip(rows, begun))
        read = torch.zeros(len(rows), rest, dtype=torch.long)
        positions = torch.full((len(rows), gap + rest), _NOWHERE)
        for index, (ids, (start, _)) in enumerate(zip(rows, begun)):
            read[index, : len(ids) - len(start)] = torch.tensor(ids[len(start) :])
            positions[index, : len(start)] = torch.arange(len(start))
            positions[index, gap : gap + len(ids) - len(start)] = torch.arange(len(start), len(ids))
        cache = DynamicCache()
        if gap:
            longest = max((states for _, states in begun), key=len)
            nothing = [tuple(each[:, :, :0] for each in pair) for pair in longest]
            for layer, kept in enumerate(zip(*(states or nothing for _, states in begun))):
                cache.update(*(torch.cat(each) for each in zip(*(_padded(pair, gap) for pair in kept))), layer)
        own = starts[:, None] + torch.arange(rest)
        # Padding attends to itself.
        seen = (positions[:, None] <= own[:, :, None]) | (
            torch.arange(gap + rest) == gap + torch.arange(rest)[:, None]
        )
        self._run(read, cache, own, seen[:, None])
        shared = DynamicCache()
        for index, layer in enumerate(self.layers):
            shared.update(cache.layers[layer].keys, cache.layers[layer].values, index)
        return shared, positions.to(self.model.device)

    def _beginning(self, ids: list[int]) -> tuple[list[int], list[tuple[torch.Tensor, ...]]]:
        """Return what a row has in common with earlier ones, with the target's keys and values of all layers."""
        key = tuple(ids[:_KEY])
        start, states = self._beginnings.pop(key, (None, []))
        if start is None:
            start = ids[:-1]  # read where another row begins with it
        else:
            common = next((place for place, (one, other) in enumerate(zip(start, ids)) if one != other), len(start))
            start = start[: min(common, len(ids) - 1)]
            if not states and len(start) >= _KEY:
                cache = DynamicCache()
                self._run(torch.tensor([start]), cache)
                states = [(layer.keys, layer.values) for layer in cache.layers]
            states = [tuple(each[:, :, : len(start)] for each in pair) for pair in states]
        self._beginnings[key] = start, states
        if len(self._beginnings) > _BEGINNINGS:
            self._beginnings.popitem(last=False)
        return (start, states) if states else ([], [])

    def _run(self, ids: torch.Tensor, cache: DynamicCache, positions: Any = None, seen: Any = None) -> None:
        given = {"position_ids": positions, "attention_mask": seen}
        device = self.model.device
        given = {name: tensor.to(device) for name, tensor in given.items() if tensor is not None}
        self.model.base_model(input_ids=ids.to(device), past_key_values=cache, use_cache=True, **given)


class KeySharing:
    """Whether and how the batches of a training are read behind the target's keys.

    Args:
        model (`PreTrainedModel`): The drafter; its configuration gains `kv_sharing_layers`.
        args (`DrafterTrainingArguments`): Of the training.
        target (`Target`, *optional*): The target, where it is known.
    Raises:
        InputError: If the drafter cannot attend to the target's keys.
    """

    def __init__(self, model: PreTrainedModel, args: DrafterTrainingArguments, target: Target | None) -> None:
        config, self._target, self._args, self.max_length = model.config, target, args, args.max_length
        if args.kv_sharing_layers and target is None:
            raise InputError("kv_sharing_layers needs the target: make the drafter with create_drafter")
        config.kv_sharing_layers = list(args.kv_sharing_layers) or getattr(config, "kv_sharing_layers", None)
        # Without its target a drafter goes on learning alone.
        self.layers: list[int] = [] if target is None else config.kv_sharing_layers or []
        self._reader: TargetReader | None = None
        if not self.layers:
            return
        if args.activation_checkpointing:  # checkpointed layers are given no cache
            raise InputError("activation_checkpointing cannot be combined with kv_sharing_layers: leave one out")
        if (implementation := config._attn_implementation) not in ("sdpa", "eager"):
            raise InputError(f"kv_sharing_layers cannot be trained with attention {implementation}: use sdpa")
        if (reason := reason_against(model)) is not None:
            raise InputError(f"the drafting loop cannot share keys with this drafter, since {reason}")
        check_shapes(config, target.load_config().get_text_config(), self.layers)
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
    """Let a drafter read the completions of a batch as it drafts them: behind the target's keys of verified tokens.

    Every five tokens of a completion are drafted behind all tokens before them: they attend to the target's keys and
    values of these, and to the drafter's own among themselves.

    Args:
        batch (`dict`): As `SelfDistilledCollator` makes it of whole prompts, of shapes `(batch, length, ...)`.
        offsets (`torch.Tensor` of shape `(batch,)`): Tokens less than five that the first draft of a row has.
    Returns:
        `dict` of the columns from the last token of each prompt on, with the target's `past_key_values`, a Boolean
        `attention_mask` of shape `(batch, 1, tokens, places + tokens)`, and `position_ids`.
    """
    lengths, starts = _lengths_and_starts(batch)
    rows = [ids[:length].tolist() for ids, length in zip(batch["input_ids"], lengths.tolist())]
    cache, positions = reader.read(rows)
    device = batch["input_ids"].device
    place = torch.arange(int((lengths - starts).max()) + 1, device=device)
    index = (starts - 1)[:, None] + place
    moved = _move(batch, index, index < lengths[:, None])
    moved["labels"][:, 0] = IGNORED
    offset = offsets.to(device)[:, None]
    first = ((place + offset) // DRAFTED * DRAFTED - offset).clamp(min=0)  # of the draft that a token is in
    verified = positions[:, None] < ((starts - 1)[:, None] + first)[:, :, None]
    own = (place <= place[:, None]) & (place >= first[:, :, None])
    seen = torch.cat((verified, own), dim=2)[:, None]
    return moved | {"past_key_values": cache, "attention_mask": seen, "position_ids": index}


def keep_windows(batch: dict[str, torch.Tensor], window: int | None) -> dict[str, torch.Tensor]:
    """Cut the prompts of a batch to the window that a drafter reads where it drafts without the target's keys."""
    lengths, starts = _lengths_and_starts(batch)
    kept = [
        [*cut_prompt(range(start), window), *range(start, length)]
        for start, length in zip(starts.tolist(), lengths.tolist())
    ]
    longest = max(map(len, kept))
    index = torch.tensor([places + [0] * (longest - len(places)) for places in kept])
    real = torch.arange(longest) < torch.tensor([len(places) for places in kept])[:, None]
    device = lengths.device
    moved = _move(batch, index.to(device), real.to(device))
    return moved | {"attention_mask": real.long().to(device)}


def check_shapes(drafter: PretrainedConfig, target: PretrainedConfig, layers: Sequence[int]) -> None:
    """Make sure that a drafter's layers can attend to the target's keys and values.

    Raises:
        InputError: If they cannot.
    """
    if len(layers) != drafter.num_hidden_layers:
        raise InputError(f"kv_sharing_layers names {len(layers)} layers, the drafter has {drafter.num_hidden_layers}")
    if not all(0 <= layer < target.num_hidden_layers for layer in layers):
        raise InputError(f"kv_sharing_layers must be 0 to {target.num_hidden_layers - 1}, got {list(layers)}")
    for name in ("num_key_value_heads", "head_dim"):
        own, others = getattr(drafter, name, None), getattr(target, name, None)
        if own != others:
            raise InputError(f"kv_sharing_layers needs the target's {name} of {others}, the drafter has {own}")


def _lengths_and_starts(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens of each row, and of its prompt."""
    lengths, supervised = batch["attention_mask"].sum(dim=1), batch["labels"] != IGNORED
    return lengths, torch.where(supervised.any(dim=1), supervised.long().argmax(dim=1), lengths)


def _move(batch: dict[str, torch.Tensor], index: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
    """Take the columns of a batch at other places, of shape `(batch, places)`; those that are not real are padding."""
    rows = torch.arange(len(index), device=index.device)[:, None]
    index = index.clamp(max=batch["input_ids"].shape[1] - 1)
    taken = {
        name: values[rows, index] for name, values in batch.items() if name not in ("attention_mask", "position_ids")
    }
    taken["labels"] = taken["labels"].masked_fill(~real, IGNORED)
    return taken


def _padded(pair: tuple[torch.Tensor, ...], length: int) -> tuple[torch.Tensor, ...]:
    return tuple(F.pad(each, (0, 0, 0, length - each.shape[2])) for each in pair)
