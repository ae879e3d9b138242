"""Baselines as methods of a table, their trees, and the pool of Lookahead decoding."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from benchmarks.baselines import build_baselines
from benchmarks.baselines.eagle import EagleLayer
from benchmarks.baselines.lookahead import LookaheadDecoding
from benchmarks.baselines.medusa import MedusaHeads, accept_typical
from benchmarks.baselines.tree import Tree, accept_by_chance, grow_tree
from drafter_trainer.benchmark.methods import Method
from drafter_trainer.cli.bench import import_baselines
from drafter_trainer.drafters.loop.build import VOCABULARY
from drafter_trainer.drafters.vocabulary import vocabulary_bytes
from drafter_trainer.errors import InputError
from drafter_trainer.targets import Target
from tests.baselines.conftest import noisy
from tests.conftest import change_json
from tests.decoding.drafts import COUNTING, SIZE, successor_model


def test_package_without_a_clone_names_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With only the package installed, the missing module must not end in a traceback."""
    monkeypatch.setattr("drafter_trainer.cli.bench._CLONE", tmp_path)
    with pytest.raises(InputError, match="are not in the installed package: clone the repository"):
        import_baselines()


@pytest.fixture
def folders(target: Target, target_model: PreTrainedModel, tmp_path: Path) -> dict[str, Path]:
    """Folders as the recipes write them, with every second id as draft vocabulary."""
    made = {
        "medusa": (noisy(MedusaHeads(2, 32), 0.1), [[0.5, 0.2], [0.3, 0.1]]),
        "eagle": (EagleLayer(target_model.config), [[0.5, 0.2]]),
    }
    for baseline, (module, accuracies) in made.items():
        folder = tmp_path / baseline
        folder.mkdir()
        save_file(module.state_dict(), folder / "model.safetensors")
        (folder / VOCABULARY).write_bytes(vocabulary_bytes(torch.arange(0, 400, 2)))
        said = {"baseline": baseline, "heads": 2, "target": target.identity, "rank_accuracies": accuracies}
        (folder / "baseline.json").write_text(json.dumps(said), encoding="utf-8")
    return {baseline: tmp_path / baseline for baseline in made}


def build(target: Target, target_model: PreTrainedModel, folders: dict[str, Path], **given: object) -> list[Method]:
    given = {"baselines": ["lookahead", "medusa", "eagle", "early_exit"], "tree_nodes": 5} | given
    return build_baselines(target, target_model, folders=folders, **given)


def test_folder_of_an_earlier_release_is_read(
    folders: dict[str, Path], target: Target, target_model: PreTrainedModel
) -> None:
    """Trained heads must not become useless because their description was renamed."""
    path = folders["medusa"] / "baseline.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    said["rival"] = said.pop("baseline")
    path.unlink()
    path.with_name("rival.json").write_text(json.dumps(said), encoding="utf-8")
    (method,) = build(target, target_model, folders, baselines=["medusa"])
    assert method.name == "Medusa"


def test_every_requested_baseline_is_in_the_table(target, target_model, folders) -> None:
    """A missing baseline looks like one that was slower, and its output must be the target's."""
    methods = build(target, target_model, folders)
    assert [(method.name, method.draft_length, method.lossy) for method in methods] == [
        ("Lookahead", 3, False),
        ("Medusa", 2, True),
        ("EAGLE", 3, False),
        ("early exit after 2 layers", 3, False),
    ]
    assert build(target, target_model, folders, baselines=[]) == []
    ids = torch.tensor([[5, 6, 7]])
    given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "do_sample": False}
    plain = target_model.generate(ids, **given)
    for method in methods:
        assert torch.equal(target_model.generate(ids, **given, **method.draft_arguments), plain)


def test_drafts_stay_within_the_draft_vocabulary(target, target_model, folders) -> None:
    """Positions in the draft vocabulary must not be taken for token ids."""
    for method in build(target, target_model, folders, baselines=["medusa", "eagle"]):
        decoding, drafted = method.draft_arguments["custom_generate"], []
        right = decoding.draft

        def recording(known: list[int], longest: int, right=right, drafted=drafted) -> Tree:
            tree = right(known, longest)
            drafted.extend(tree.tokens[1:])
            return tree

        decoding.draft = recording
        for sampling in (False, True):
            ids = torch.tensor([[5, 6, 7]])
            target_model.generate(ids, max_new_tokens=12, do_sample=sampling, custom_generate=decoding)
        assert drafted
        assert all(token % 2 == 0 for token in drafted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "other@1"}, "was trained for other@1, the target is"),
        ({"baseline": "eagle"}, "holds eagle, expected medusa"),
        ({"rank_accuracies": [[0.0], [0.0]]}, "none of its guesses was right on held-out rows"),
        ({"heads": 3}, "cannot be loaded: .* delete it and train it again"),
    ],
)
def test_wrong_folder_is_rejected(target, target_model, folders, change, message) -> None:
    """Heads of another target are never right, and the table would call the method useless."""
    change_json(folders["medusa"] / "baseline.json", **change)
    with pytest.raises(InputError, match=message):
        build(target, target_model, folders)


def test_typical_acceptance_by_hand() -> None:
    """A uniform distribution accepts many tokens, a peaked one only its best token; the longest path wins."""
    tree = Tree(0)
    first, second = tree.add(1, 0), tree.add(2, 0)
    tree.add(3, second)
    sure, even = [0.96, 0.01, 0.01, 0.02], [0.25, 0.25, 0.25, 0.25]
    # Entropy 1.386: the threshold is min(0.09, 0.3 / 4) = 0.075; with the sure one min(0.09, 0.3 exp(-0.21)) = 0.09.
    path, _ = accept_typical(tree, torch.tensor([even, even, even, sure]).log())
    assert path == [second, 3]
    path, following = accept_typical(tree, torch.tensor([sure, even, even, even]).log())
    assert (path, following) == ([], 0)
    path, following = accept_typical(tree, torch.tensor([even, sure, sure, even]).log())
    assert (path, following) == ([first], 0)


@pytest.mark.parametrize("kind", ["drawn", "certain", "drawn, and the first sibling's q claimed for the second"])
def test_two_siblings_keep_the_targets_distribution(kind: str) -> None:
    """A second sibling judged by the first one's q is accepted too often; this error gives 0.4, 0.4, 0.2."""
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    scores, counts = p.log().expand(3, 3), torch.zeros(3)
    torch.manual_seed(0)
    for _ in range(4000):
        tree, left = Tree(0), q
        for token in torch.multinomial(q, 2, replacement=False).tolist():
            tree.add(token, 0, None if kind == "certain" else left)
            if kind == "drawn":
                left = left.index_fill(0, torch.tensor(token), 0.0)
                left = left / left.sum()
        path, following = accept_by_chance(tree, scores)
        counts[tree.tokens[path[0]] if path else following] += 1
    expected = torch.tensor([0.4, 0.4, 0.2]) if "claimed" in kind else p
    # Four standard deviations of the most uncertain of the three.
    torch.testing.assert_close(counts / 4000, expected, atol=4 * (0.25 / 4000) ** 0.5, rtol=0)


def test_tree_has_the_most_likely_nodes() -> None:
    """Unlikely nodes cost time in each pass. The probabilities: 0.6, 0.36, 0.31, 0.3, 0.186, 0.155."""
    accuracies = [[0.6, 0.31], [0.6, 0.5]]
    assert grow_tree(accuracies, 4) == [(0,), (0, 0), (1,), (0, 1)]
    assert grow_tree(accuracies, 100) == [(0,), (0, 0), (1,), (0, 1), (1, 0), (1, 1)]
    # A rank that was never right on few held-out rows must not hide the ranks after it.
    assert grow_tree([[0.0, 0.5, 0.2], [0.5]], 3) == [(0,), (1,), (1, 0)]


def test_pool_and_window_advance() -> None:
    """An n-gram of two columns, or a window that does not advance, would never be right."""
    decoding = LookaheadDecoding(window=2, ngram=3, guesses=2)
    decoding.start(successor_model(COUNTING), [7])
    tree = decoding.draft([7], 10)
    assert tree.tokens == [7, 7, 7, 7]
    logits = torch.nn.functional.one_hot(torch.tensor([9, 9, 3, 4]), SIZE).float()
    decoding.look(tree, logits)  # after the last row the target predicts 3 and 4
    tree = decoding.draft([7, 8], 10)
    assert tree.tokens == [8, 7, 3, 4]  # rows: 8 (the last known token), 7; 3, 4
    decoding.look(tree, torch.nn.functional.one_hot(torch.tensor([0, 0, 5, 6]), SIZE).float())
    # n-grams: 7 7 3 and 7 7 4 of the first pass, 8 3 5 and 7 4 6 of the second; of those from 7 the latest two stay
    tree = decoding.draft([7, 8, 7], 10)
    assert [tree.path(node) for node in range(1, 5)] == [[4], [4, 6], [7], [7, 4]]
    assert tree.longest == 2
    assert decoding.draft([7, 8], 1).longest == 1  # limited by the length limit
