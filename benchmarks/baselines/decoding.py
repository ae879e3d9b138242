"""The decoding loop for trees of drafts, which `generate` calls instead of its own.

`target.generate(**inputs, custom_generate=decoding)` prepares the sampling settings, processors and stopping criteria
as for every other method. A verification pass is the target's own forward with a mask, so stock modules are enough.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from benchmarks.baselines.tree import Tree, accept_by_chance, ancestry, attention_mask, follow_choices
from drafter_trainer.decoding.metrics import Round
from drafter_trainer.drafters.loop.calls import CACHE
from drafter_trainer.errors import InputError


class TreeDecoding:
    """Lossless decoding of one text with trees of drafts.

    A subclass drafts, and receives the target's hidden states and logits.

    Attributes:
        draft_length (`int`): Depth of a tree.
        rounds (`list[Round]`): Rounds of the last text, starting with the pass over the prompt. The number of drafted
            tokens is the depth of the tree.
    """

    draft_length: int

    def __init__(self) -> None:
        self.rounds: list[Round] = []
        self.sampling = False
        self.processors = LogitsProcessorList()

    def start(self, target_model: PreTrainedModel, prompt: list[int]) -> None:
        """Start a new text.

        Args:
            prompt (`list[int]`): The new text's ids so far.
        """

    def learn(self, hidden: torch.Tensor) -> None:
        """Receive the hidden states of the accepted tokens, each token once, the prompt first.

        Args:
            hidden (`torch.Tensor` of shape `(tokens, width)`): Input of the target's head.
        """

    def look(self, tree: Tree, logits: torch.Tensor) -> None:
        """Receive the target's logits after each node, accepted or not.

        Args:
            logits (`torch.Tensor` of shape `(nodes, vocabulary)`): Logits before any processor.
        """

    def draft(self, known: list[int], longest: int) -> Tree:
        """Draft the next tree.

        Args:
            known (`list[int]`): Prompt and output so far; the target has not read the last token yet.
            longest (`int`): Maximum number of accepted tokens, one less than the remaining length.
        """
        raise NotImplementedError

    def accept(self, tree: Tree, scores: torch.Tensor) -> tuple[list[int], int]:
        """Accept nodes of a tree.

        Args:
            scores (`torch.Tensor` of shape `(nodes, vocabulary)`): The target's processed logits after each node.
        Returns:
            `tuple` of the accepted nodes, in order, and the token that follows them.
        """
        if self.sampling:
            return accept_by_chance(tree, scores)
        return follow_choices(tree, scores.argmax(dim=-1).tolist())

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **model_kwargs: Any,
    ) -> torch.Tensor:
        """Decode at batch size 1, as a `custom_generate` function.

        Returns:
            `torch.Tensor` of shape `(1, tokens)`, prompt and output.
        """
        cache: Cache = model_kwargs[CACHE]
        windows = [each.sliding_window for each in cache.layers if type(each) is DynamicSlidingWindowLayer]
        kinds = {type(layer) for layer in cache.layers} - {DynamicLayer, DynamicSlidingWindowLayer}
        if kinds or generation_config.max_length > min(windows, default=generation_config.max_length):
            raise InputError(
                f"{model.config.model_type} has layers that do not attend to all of {generation_config.max_length} "
                "tokens, which trees of drafts need: leave baselines other than early_exit out, or ask for less"
            )
        if windows:  # within the windows, all layers attend to the whole text
            cache = DynamicCache()
        self.rounds, self.sampling, self.processors = [], bool(generation_config.do_sample), logits_processor
        ids, known = input_ids, input_ids[0].tolist()
        tree = Tree(known[-1])
        self.start(model, known)
        with _last_hidden_states(model) as hidden:
            logits = model(input_ids=ids, **{CACHE: cache}, use_cache=True, logits_to_keep=1).logits[0]
            self.learn(hidden[0][:-1])
            while True:
                path, following = self.accept(tree, self.process(known, tree, logits))
                taken, ended = 0, False
                for token in [*(tree.tokens[node] for node in path), following]:
                    ids = torch.cat((ids, ids.new_tensor([[token]])), dim=1)
                    taken += 1
                    if ended := bool(stopping_criteria(ids, None).all()):
                        break
                rejected = taken > len(path) and bool(tree.children[path[-1] if path else 0])
                self.rounds.append(Round(tree.longest, min(len(path), taken), rejected))
                if ended:
                    return ids
                nodes = [0, *path]
                self.learn(hidden[0][-len(tree) :][nodes])
                self.look(tree, logits)
                _keep(cache, len(tree), nodes)
                known = ids[0].tolist()
                tree = self.draft(known, generation_config.max_length - len(known) - 1)
                logits = _read_tree(model, tree, cache)

    def process(self, known: list[int], tree: Tree, logits: torch.Tensor) -> torch.Tensor:
        """Apply the logits processors after each node, with the node's own text.

        Args:
            known (`list[int]`): Prompt and output up to the root.
            logits (`torch.Tensor` of shape `(nodes, vocabulary)`): The target's logits after each node.
        Returns:
            `torch.Tensor` of shape `(nodes, vocabulary)`, in fp32.
        """
        scores = logits.float()
        if not self.processors:
            return scores
        rows = []
        for node, row in enumerate(scores):
            text = torch.tensor([known + tree.path(node)], device=logits.device)
            rows.append(self.processors(text, row[None].clone()))
        return torch.cat(rows)


@contextmanager
def _last_hidden_states(model: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Record the head's input in the last forward pass, of shape `(tokens, width)`, as the only entry of a list."""
    hidden: list[torch.Tensor] = []

    def note(module: torch.nn.Module, args: tuple, output: Any) -> None:
        hidden[:] = [output.last_hidden_state[0]]

    hook = model.base_model.register_forward_hook(note)
    try:
        yield hidden
    finally:
        hook.remove()


def _read_tree(model: PreTrainedModel, tree: Tree, cache: Cache) -> torch.Tensor:
    """Run the target on a tree after its cache; return logits of shape `(nodes, vocabulary)`."""
    cached = cache.get_seq_length()
    return model(
        input_ids=torch.tensor([tree.tokens], device=model.device),
        attention_mask=attention_mask(ancestry(tree.parents), cached, model.dtype, model.device),
        position_ids=torch.tensor([tree.depths], device=model.device) + cached,
        **{CACHE: cache},
        use_cache=True,
    ).logits[0]


def _keep(cache: Cache, size: int, nodes: list[int]) -> None:
    """Keep only the given nodes of the last tree in the cache, in the order of the text."""
    if nodes == list(range(len(nodes))):
        cache.crop(len(nodes) - size)
        return
    before = cache.get_seq_length() - size
    for layer in cache.layers:
        places = torch.tensor([*range(before), *(before + node for node in nodes)], device=layer.keys.device)
        layer.keys, layer.values = layer.keys.index_select(2, places), layer.values.index_select(2, places)
