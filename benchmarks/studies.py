"""Shared code of the training studies: rows, training arguments, and replay on held-out completions."""

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from transformers import AutoModelForCausalLM

from drafter_trainer import DrafterTrainingArguments
from drafter_trainer.decoding.metrics import Round, alpha, mean_accepted_tokens
from drafter_trainer.decoding.target_cache import TargetTexts
from drafter_trainer.drafters.loop.build import VOCABULARY, read_vocabulary
from drafter_trainer.drafters.loop.network import LeanNetwork
from drafter_trainer.drafters.loop.network_kinds import StockNetwork, build_network
from drafter_trainer.drafters.loop.sources import count_skipped, unread_part
from drafter_trainer.drafters.vocabulary import choose_ids, count_ids
from drafter_trainer.targets import Target
from drafter_trainer.training.rows import load_rows

DRAFT_LENGTH = 5


def read_rows(folders: Iterable[Path], target: Target, draft_vocabulary: int) -> tuple[Dataset, torch.Tensor]:
    """Return the training rows of folders in a fixed random order, and the draft vocabulary of all of them."""
    rows = concatenate_datasets([load_rows(folder / "train", target) for folder in folders])
    special = target.load_tokenizer().all_special_ids
    counts = count_ids(rows["response_ids"], target.load_config().get_text_config().vocab_size)
    return rows.shuffle(0), choose_ids(counts, draft_vocabulary, special, fill=True)


class HeldOut:
    """Held-out completions to replay drafters on.

    Args:
        path (`Path`): A file of greedy completions, written by `tokens_per_pass.py`.
        target (`Target`): The target that wrote them.
    """

    def __init__(self, path: Path, target: Target) -> None:
        self.completions = json.loads(path.read_text(encoding="utf-8"))["completions"]
        tokens = sum(len(completion) for _, completion in self.completions)
        self.facts = {"held-out completions": len(self.completions), "held-out tokens": tokens}
        self._end_ids = frozenset(target.end_ids(target.load_tokenizer()))
        self._texts = TargetTexts(target.load_model("bfloat16"))

    def replay(self, folder: Path, alone: bool = False) -> dict[str, float]:
        """Return the tokens per target pass and the α of the drafter in a folder, at five tokens per round.

        Args:
            folder (`Path`): Folder of the trained drafter.
            alone (`bool`, *optional*, defaults to `False`): Also replay a network that shares the target's keys
                without them.
        """
        network = load_network(folder)
        figures = self._replay(network)
        if alone and network.kv_sharing_layers:
            network.kv_sharing_layers = None
            figures |= {f"{name}, alone": value for name, value in self._replay(network).items()}
        return figures

    def _replay(self, network: Any) -> dict[str, float]:
        rounds = replay_at_fixed_length(network, self.completions, DRAFT_LENGTH, self._end_ids, self._texts)
        yielded = mean_accepted_tokens(self.facts["held-out tokens"], len(rounds))
        return {"tokens per target pass": yielded, "alpha": alpha(rounds)}


def replay_at_fixed_length(
    network: LeanNetwork | StockNetwork,
    completions: Iterable[tuple[Sequence[int], Sequence[int]]],
    draft_length: int,
    end_ids: Collection[int] = (),
    target: TargetTexts | None = None,
) -> list[Round]:
    """Let a network draft the same number of tokens in every round of stored greedy completions.

    Nothing depends on the clock or the machine. `mean_accepted_tokens` of the rounds are the tokens per target pass.

    Args:
        completions (`Iterable` of `(prompt_ids, completion_ids)`): The target's own greedy completions.
        draft_length (`int`): Number of tokens drafted in each round; a draft stops after an end token.
        end_ids (`Collection[int]`): Ids that end a completion.
        target (`TargetTexts`, *optional*): As for `decoding.replay.replay`.
    """
    rounds = []
    for prompt_ids, completion_ids in completions:
        text, known = [*prompt_ids, *completion_ids], len(prompt_ids)
        cached = target and target.read(network, text)
        read, shared, skipped = 0, 0, count_skipped(known, network.prompt_window)
        while left := text[known:]:
            if cached is not None and known > len(prompt_ids):
                network.share(cached.first(known - 1), shared, known - 1)
                read, shared, skipped = known - 1, known - 1, 0
            # As in generate: nothing is drafted past the length limit, where a completion is truncated.
            limit = draft_length if text[-1] in end_ids else min(draft_length, len(left) - 1)
            draft: list[int] = []
            while len(draft) < limit and not (draft and draft[-1] in end_ids):
                context = [*text[:known], *draft]
                kept, unread = unread_part(context, read, skipped)
                network.crop(kept)
                entry = network.read(unread).argmax()
                read = len(context)
                draft.append(int(entry if network.draft_ids is None else network.draft_ids[entry]))
            rounds.append(Round.of(draft, left))
            read = min(read, known + rounds[-1].accepted)
            known += min(rounds[-1].accepted + 1, len(left))
    return rounds


def load_network(folder: Path, int8: bool = False) -> Any:
    """Load the network of a drafter in a folder, in the form of the drafting loop."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    vocabulary = folder / VOCABULARY
    draft_ids = read_vocabulary(vocabulary, model.config.vocab_size) if vocabulary.is_file() else None
    return build_network(model, draft_ids, int8)


def study_arguments(folder: Path, **given: Any) -> DrafterTrainingArguments:
    """Return training arguments for one epoch, without checkpoints or evaluation."""
    return DrafterTrainingArguments(
        str(folder),
        num_train_epochs=1,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        report_to="none",
        **given,
    )
