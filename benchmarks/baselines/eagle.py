"""EAGLE: one decoder layer that continues the target's last hidden states, token by token.

Source: Li et al., "EAGLE: Speculative Sampling Requires Rethinking Feature Uncertainty" (arXiv 2401.15077), the first
version: one layer over embedding and feature, the target's own embeddings and head, and a tree of fixed shape.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoModel, DynamicCache, PretrainedConfig, PreTrainedModel

from benchmarks.baselines.decoding import TreeDecoding
from benchmarks.baselines.tree import Tree, ancestry, attention_mask
from drafter_trainer.drafters.loop.calls import CACHE


class EagleLayer(torch.nn.Module):
    """A layer that predicts the target's next hidden state from the last one and the chosen token.

    It is a stock layer of the target's family, followed by the norm.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        config = copy.deepcopy(config)
        # The input is embeddings, so the target's embedding table is not copied.
        config.num_hidden_layers, config.vocab_size = 1, 1
        config.pad_token_id = config.bos_token_id = config.eos_token_id = None
        if config.to_dict().get("layer_types"):
            config.layer_types = config.layer_types[-1:]
        self.fuse = torch.nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.decoder = AutoModel.from_config(config, dtype=torch.float32)
        self.decoder.get_input_embeddings().requires_grad_(False)

    def forward(self, embeddings: torch.Tensor, features: torch.Tensor, **given: Any) -> torch.Tensor:
        """Predict hidden states.

        Args:
            embeddings (`torch.Tensor` of shape `(batch, length, width)`): Embeddings of the tokens at t + 1.
            features (`torch.Tensor` of shape `(batch, length, width)`): Hidden states at t.
            given (`dict`): Mask, positions and cache, as stock models take them.
        Returns:
            `torch.Tensor` of shape `(batch, length, width)`: hidden states at t + 1, from which the target's head
            predicts the tokens at t + 2.
        """
        fused = self.fuse(torch.cat((embeddings, features), dim=-1))
        return self.decoder(inputs_embeds=fused, **given).last_hidden_state


class EagleDecoding(TreeDecoding):
    """Decoding with an EAGLE layer and a tree of fixed shape; in sampling, the children of a node are drawn in turn.

    Args:
        layer (`EagleLayer`): The layer, on the target's device and in its dtype.
        head_weight (`torch.Tensor` of shape `(draft vocabulary, width)`): Rows of the target's head.
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`): The ids of these rows.
        shape (`Sequence[tuple[int, ...]]`): The tree's nodes, see `grow_tree`.
    """

    def __init__(
        self,
        layer: EagleLayer,
        embeddings: torch.nn.Embedding,
        head_weight: torch.Tensor,
        draft_ids: torch.Tensor,
        shape: Sequence[tuple[int, ...]],
    ) -> None:
        super().__init__()
        self.draft_length = max(map(len, shape))
        self._layer, self._embeddings, self._head_weight, self._draft_ids = layer, embeddings, head_weight, draft_ids
        self._branches = {path: sum(other[:-1] == path for other in shape) for path in [(), *shape]}

    def start(self, target_model: PreTrainedModel, prompt: list[int]) -> None:
        """Start with an empty cache."""
        self._cache = DynamicCache(config=self._layer.decoder.config)
        self._features: list[torch.Tensor] = []
        self._vocabulary = target_model.config.get_text_config().vocab_size

    def learn(self, hidden: torch.Tensor) -> None:
        """Keep the hidden states until the next token is known too."""
        self._features.append(hidden)

    def draft(self, known: list[int], longest: int) -> Tree:
        """Grow the tree level by level, with one forward pass of the layer for each level."""
        tree = Tree(known[-1])
        if longest < 1:
            return tree
        read = self._cache.get_seq_length()
        states = self._run(known[read + 1 :], torch.cat(self._features))[-1:]
        self._features = []
        certain = self._cache.get_seq_length()
        level, inner, parents = [(0, ())], {0: -1}, []
        while level:
            logits = F.linear(states, self._head_weight)
            grown = []
            for (node, path), row, state in zip(level, logits, states):
                for rank, (token, chances) in enumerate(self._choose(known, tree, node, row, self._branches[path])):
                    child = tree.add(token, node, chances)
                    if self._branches[(*path, rank)] and tree.depths[child] < longest:
                        grown.append((child, (*path, rank), state))
            if not grown:
                break
            parents += [inner[tree.parents[child]] for child, _, _ in grown]
            inner |= {child: len(inner) - 1 + number for number, (child, _, _) in enumerate(grown)}
            seen = ancestry(parents)[-len(grown) :]
            states = self._run(
                [tree.tokens[child] for child, _, _ in grown],
                torch.stack([state for _, _, state in grown]),
                attention_mask=attention_mask(seen, certain, states.dtype, states.device),
                position_ids=torch.tensor([[certain + tree.depths[child] - 1 for child, _, _ in grown]]),
            )
            level = [(child, path) for child, path, _ in grown]
        self._cache.crop(certain - self._cache.get_seq_length())
        return tree

    def _run(self, tokens: list[int], features: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
        """Run the layer on features and the tokens after them; return hidden states of shape `(tokens, width)`."""
        given = {name: values.to(features.device) for name, values in given.items()}
        embeddings = self._embeddings(torch.tensor([tokens], device=features.device))
        return self._layer(embeddings, features[None], **{CACHE: self._cache}, use_cache=True, **given)[0]

    def _choose(
        self, known: list[int], tree: Tree, node: int, logits: torch.Tensor, count: int
    ) -> list[tuple[int, torch.Tensor | None]]:
        """Choose the children of a node: the best tokens, or in sampling, drawn tokens with their q."""
        if not self.sampling:
            return [(token, None) for token in self._draft_ids[logits.topk(min(count, len(logits))).indices].tolist()]
        scores = logits.new_full((1, self._vocabulary), float("-inf"), dtype=torch.float32)
        scores[0, self._draft_ids] = logits.float()
        if self.processors:
            text = torch.tensor([known + tree.path(node)], device=logits.device)
            scores = self.processors(text, scores)
        q, drawn = scores[0].softmax(dim=-1), []
        for token in torch.multinomial(q, min(count, int((q > 0).sum())), replacement=False).tolist():
            drawn.append((token, q))
            q = q.index_fill(0, torch.tensor(token, device=q.device), 0.0)
            q = q / q.sum()
        return drawn
