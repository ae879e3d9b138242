"""The router's benchmark, on a tiny target with untrained drafters."""

import yaml

from benchmarks.router_speed import main
from drafter_trainer.results import read_results
from tests.conftest import make_model
from tests.drafters.test_load import write_drafter

PAIRS = ("de-en", "fr-en")


def test_router_is_compared_with_the_known_language(tmp_path, target_folder, tokenizer, capsys) -> None:
    """Separate runs for each pair would hide the cost of switching between drafters."""
    config, out = tmp_path / "tiny.yaml", tmp_path / "route"
    values = {"target_model": f"tests/tiny-target={target_folder}", "dtype": "float32"}
    config.write_text(yaml.safe_dump(values | {"pair": "de-en"}), encoding="utf-8")
    drafters = [write_drafter(tmp_path / pair, make_model(tokenizer, layers=1), tokenizer, pair) for pair in PAIRS]
    named = ["--config", str(config), "--drafters", *map(str, drafters), "--out", str(out)]
    main([*named, "--max_questions", "2", "--max_new_tokens", "6"])
    mixed, *alone = read_results(out / "results.json")["runs"]
    assert [run["pair"] for run in (mixed, *alone)] == ["de-en fr-en", "de-en", "fr-en"]
    assert [method["name"] for method in mixed["methods"]] == ["plain", "drafter", "router"]
    asked = [prompt["question_id"].partition("/")[0] for prompt in mixed["methods"][0]["prompts"]]
    assert asked == ["de-en", "fr-en", "de-en", "fr-en"]
    assert {run["questions"]["count"] for run in alone} == {2}
    assert {method["losslessness"]["equal"] for method in mixed["methods"]} == {4}
    assert "over knowing the language" in capsys.readouterr().out
