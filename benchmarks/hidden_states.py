"""The effect of the target's hidden states on a drafter, with equal rows and initial weights, without a clock.

    python benchmarks/hidden_states.py --config recipes/configs/gemma-3-270m/de-en.yaml \
        --rows runs/gemma-3-270m-drafter-de-en/distill --held_out runs/held-out/distill

A drafter of eight layers is trained in four variants. "none" has no hidden states. "last" adds the target's last
hidden states to the embeddings of verified tokens, by a linear map that starts at zero. "three" adds the hidden states
of three layers. "matched" has a loss that matches the drafter's last hidden states with the target's at every token.
With hidden states, training has two streams: tokens with hidden states, and drafted tokens without hidden states after
a random position. PARD-2 (github.com/AMD-AGI/PARD) and EAGLE (arXiv 2401.15077) add hidden states too. The drafters
are replayed with 5 drafted tokens per round.
"""

import argparse
import copy
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from reporting import RESULTS, report
from torch.nn.utils import clip_grad_norm_
from tqdm.auto import tqdm
from transformers import PreTrainedModel, set_seed

from drafter_trainer import create_drafter
from drafter_trainer.cli.configuration import parse_arguments
from drafter_trainer.drafters.loop.sources import cut_prompt
from drafter_trainer.drafters.vocabulary import choose_ids, count_ids, map_ids
from drafter_trainer.training.losses import topk_kl
from drafter_trainer.training.rows import load_rows

WINDOW, DRAFT_LENGTH, BATCH = 64, 5, 4
WITHOUT = 0.1  # share of rows that are trained without hidden states
REACHED = 0.7  # weight of a drafted token, relative to the drafted token before it
KINDS = {"none": (), "last": (-1,), "three": (6, 12, -1), "matched": ()}
LAYERS = (0, 1, 2, 3, 4, 5, 10, 11)


class Row:
    """A row as the drafter reads it: the prompt's window and the completion, with the target's hidden states.

    Args:
        target_model (`PreTrainedModel`): The target.
        row (`dict`): A self-distilled row.
    """

    def __init__(self, target_model: PreTrainedModel, row: dict) -> None:
        prompt, completion = list(row["prompt_ids"]), list(row["response_ids"])
        read = cut_prompt(prompt, WINDOW)
        self.start, self.ids = len(read), torch.tensor([*read, *completion])
        with torch.inference_mode():
            states = target_model.model(
                input_ids=torch.tensor([[*prompt, *completion]]), output_hidden_states=True, use_cache=False
            ).hidden_states
        kept = [0, *range(len(prompt) - len(read) + 1, len(prompt) + len(completion))]
        self.states = {layer: states[layer][0, kept].clone() for layer in {-1}.union(*KINDS.values())}
        self.topk = (torch.tensor(row["topk_ids"]), torch.tensor(row["topk_logprobs"]).float())

    def features(self, layers: tuple[int, ...]) -> torch.Tensor:
        """Return, for each token, the normalized states of the previous token: `(tokens, layers * width)`."""
        states = [self.states[layer].float() for layer in layers]
        states = torch.cat([F.rms_norm(each, each.shape[-1:]) for each in states], dim=-1)
        return F.pad(states[:-1], (0, 0, 1, 0))


class Study:
    """One drafter and how it is trained.

    Args:
        kind (`str`): One of `KINDS`.
        drafter (`PreTrainedModel`): The drafter that is trained, in place.
        draft_ids (`torch.Tensor` of shape `(draft vocabulary,)`): Ids of the draft vocabulary.
    """

    def __init__(self, kind: str, drafter: PreTrainedModel, draft_ids: torch.Tensor) -> None:
        self.kind, self.layers, self.drafter, self.draft_ids = kind, KINDS[kind], drafter, draft_ids
        width = drafter.config.hidden_size
        self.map = torch.nn.Linear(width * max(len(self.layers), 1), width, bias=False)
        torch.nn.init.zeros_(self.map.weight)
        self.head = drafter.get_output_embeddings().weight[draft_ids].detach()

    def run(self, embedded: torch.Tensor, seen: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return last hidden states of shape `(tokens, width)` for inputs of that shape."""
        return self.drafter.model(
            inputs_embeds=embedded[None].to(self.drafter.dtype), attention_mask=seen[None, None],
            position_ids=positions[None], use_cache=False,
        ).last_hidden_state[0].float()  # fmt: skip

    def loss(self, row: Row) -> torch.Tensor:
        """Compute the mean loss of a row's completion."""
        length, number = len(row.ids), len(row.ids) - row.start
        embedded, order = self.drafter.get_input_embeddings()(row.ids), torch.arange(length)
        causal = order <= order[:, None]
        predicts = order[row.start - 1 : -1]
        if not self.layers:
            hidden = self.run(embedded, causal, order)
            streams = [(hidden[predicts], torch.ones(number))]
        else:
            told = self.map(row.features(self.layers)) * (torch.rand(()) >= WITHOUT)
            offset = torch.randint(DRAFT_LENGTH - 1, ())
            # Tokens of the second stream are drafted after the verified token `cut`.
            step = DRAFT_LENGTH - 1
            cut = ((predicts - 1 - offset).div(step, rounding_mode="floor") * step + offset).clamp(min=0)
            own = (predicts > cut[:, None]) & (predicts <= predicts[:, None]) | torch.eye(number, dtype=torch.bool)
            first = torch.cat((causal, torch.zeros(length, number, dtype=torch.bool)), dim=1)
            seen = torch.cat((first, torch.cat((order <= cut[:, None], own), dim=1)))
            inputs = torch.cat((embedded + told, embedded[predicts]))
            hidden = self.run(inputs, seen, torch.cat((order, predicts)))
            streams = [(hidden[predicts], torch.ones(number)), (hidden[length:], REACHED ** (predicts - cut))]
        ids, logprobs = map_ids(row.topk[0], self.draft_ids), row.topk[1]
        losses = [(topk_kl(states @ self.head.T, ids, logprobs) * weight).sum() for states, weight in streams]
        loss = sum(losses) / sum(weight.sum() for _, weight in streams)
        if self.kind == "matched":
            wanted = row.states[-1].float()
            loss = loss + ((hidden - wanted).square().sum(-1) / wanted.square().sum(-1))[1:].mean()
        return loss

    @torch.no_grad()
    def replay(self, row: Row, with_states: bool) -> tuple[int, int]:
        """Replay a completion; return its tokens and the target passes after the first pass."""
        embedded = self.drafter.get_input_embeddings()(row.ids)
        if self.layers and with_states:
            embedded = embedded + self.map(row.features(self.layers))
        known, tokens, passes = row.start + 1, len(row.ids) - row.start - 1, 0
        while known < len(row.ids):
            text, accepted = embedded[:known], 0
            for place in range(known, min(known + DRAFT_LENGTH, len(row.ids))):
                order = torch.arange(len(text))
                hidden = self.run(text, order <= order[:, None], order)[-1]
                drafted = self.draft_ids[(self.head @ hidden).argmax()]
                if drafted != row.ids[place]:
                    break
                accepted += 1
                text = torch.cat((text, self.drafter.get_input_embeddings()(drafted[None])))
            known, passes = known + accepted + 1, passes + 1
        return tokens, passes


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="Configuration of the target")
    parser.add_argument("--rows", type=Path, required=True, help="Folder of self-distilled rows to train on")
    parser.add_argument("--held_out", type=Path, required=True, help="Folder of self-distilled rows to replay")
    parser.add_argument("--max_rows", type=int, default=800)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    (_, where, *_), _ = parse_arguments("export", ["--config", options.config], __doc__)
    target = where.resolve()
    rows = load_rows(options.rows / "train", target).shuffle(0)
    rows = rows.select(range(min(options.max_rows, len(rows))))
    held_out = load_rows(options.held_out / "train", target)
    start = create_drafter(target, layers=LAYERS, freeze_embeddings=True)
    counts = count_ids(rows["response_ids"], start.config.vocab_size)
    draft_ids = choose_ids(counts, 12288, target.load_tokenizer().all_special_ids, fill=True)
    target_model = target.load_model("bfloat16")
    training = [Row(target_model, row) for row in tqdm(rows, desc="target")]
    known = [Row(target_model, row) for row in tqdm(held_out, desc="held out")]
    del target_model
    figures, facts = [], {"training tokens": sum(len(row.ids) - row.start for row in training)}
    for kind in options.kinds:
        set_seed(0)
        study = Study(kind, copy.deepcopy(start).train(), draft_ids)
        train(study, training, options.learning_rate)
        study.drafter.eval().to(torch.bfloat16)
        for with_states in (True, False) if study.layers else (False,):
            counted = [study.replay(row, with_states) for row in tqdm(known, desc=kind)]
            tokens, passes = map(sum, zip(*counted))
            said = f"{kind}, run without" if study.layers and not with_states else kind
            figures.append({"hidden states": said, "tokens per target pass": tokens / passes})
        report("hidden_states", figures, facts | {"held-out tokens": tokens}, options.out)


def train(study: Study, rows: list[Row], learning_rate: float) -> None:
    """Train for one epoch; the map learns at ten times the rate, since it starts at zero."""
    weights = [weight for weight in study.drafter.parameters() if weight.requires_grad]
    groups = [{"params": weights}, {"params": study.map.parameters(), "lr": 10 * learning_rate}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, weight_decay=0.0)
    steps = len(rows) // BATCH
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 30) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))
    )
    for step in tqdm(range(steps), desc=study.kind):
        batch = rows[step * BATCH : (step + 1) * BATCH]
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):  # weights are cast once a batch
            loss = sum(map(study.loss, batch)) / len(batch)
        loss.backward()
        clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()


if __name__ == "__main__":
    main()
