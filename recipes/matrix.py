"""Measure drafters on tasks in several languages: a table and a heat map of drafters × tasks × pairs.

    make matrix MATRIX=recipes/configs/smollm2-135m/matrix.yaml

Each cell is a run of bench.py with the same configuration, in a folder of its own under --out; finished cells are not
measured again, and an interrupted one goes on. A folder with a results.json and no drafter fills the cells that it
has. A cell that cannot be measured says why. Writes matrix.md and matrix.png to --out.
"""

import shlex
import subprocess
import sys
from pathlib import Path

from drafter_trainer.benchmark.matrix import Cell, matrix_tables, plot_matrix
from drafter_trainer.cli.benchmark_arguments import MatrixArguments
from drafter_trainer.cli.configuration import option_of, parse_arguments
from drafter_trainer.cli.launch import run_recipe
from drafter_trainer.drafters.load import describe_drafter
from drafter_trainer.errors import InputError
from drafter_trainer.results import read_results

BENCH = Path(__file__).with_name("bench.py")


def main(argv: list[str]) -> None:
    (matrix,), _ = parse_arguments("matrix", argv, __doc__)
    config = option_of(argv, "--config")
    if config is None:
        raise InputError("no --config FILE: bench.py reads it for each cell")
    cells: list[Cell] = []
    for drafter in matrix.drafters:
        row = measured_before(drafter, matrix.columns) or measure_row(drafter, matrix, config)
        if any(cell.drafter == row[0].drafter for cell in cells):
            raise InputError(f"two of the drafters are called {row[0].drafter}: name one of them alone")
        cells += row
    out = Path(matrix.out)
    out.mkdir(parents=True, exist_ok=True)
    tables = matrix_tables(cells)
    (out / "matrix.md").write_text(tables + "\n", encoding="utf-8")
    plot_matrix(cells, out / "matrix.png")
    print(f"\n{tables}\n\nwritten: {out}/matrix.md, {out}/matrix.png")


def measured_before(folder: str, columns: list[tuple[str, str]]) -> list[Cell]:
    """Return the cells of a folder that holds results and no drafter, and none for anything else."""
    path = Path(folder) / "results.json"
    if not path.is_file() or any(Path(folder).glob("*config.json")):  # of a model or an adapter; a card has none
        return []
    results = read_results(path)
    name = results["provenance"]["drafter"]
    cells = []
    for task, pair in columns:
        runs = [run for run in results["runs"] if (run["task"], run["pair"]) == (task, pair)]
        reason = None if runs else f"{folder} holds other results and no drafter to measure"
        cells.append(Cell(name, task, pair, results | {"runs": runs} if runs else None, reason))
    return cells


def measure_row(drafter: str, matrix: MatrixArguments, config: str) -> list[Cell]:
    try:
        name = describe_drafter(drafter).name
    except InputError as error:
        return [Cell(drafter, task, pair, reason=str(error)) for task, pair in matrix.columns]
    return [measure_cell(drafter, name, task, pair, matrix, config) for task, pair in matrix.columns]


def measure_cell(drafter: str, name: str, task: str, pair: str, matrix: MatrixArguments, config: str) -> Cell:
    out = Path(matrix.out) / name / f"{task}-{pair}"
    command = [sys.executable, str(BENCH), "--config", config, "--drafter", drafter, "--drafter_name", name]
    command += ["--task", task, "--pair", pair, "--out", str(out)]
    questions = matrix.questions(task, pair)
    if questions is not None:
        command += ["--questions", questions]
    print(f"\n$ {shlex.join(command)}", flush=True)
    status, said = run_and_show(command)
    if status == 130:
        raise KeyboardInterrupt
    if status:
        lines = said.strip().splitlines() or [f"bench.py ended with status {status}"]
        return Cell(name, task, pair, reason=lines[-1].removeprefix("error: "))
    return Cell(name, task, pair, read_results(out / "results.json"))


def run_and_show(command: list[str]) -> tuple[int, str]:
    """Run a command, pass on its errors and its progress as they come, and return its status with what it said."""
    said = b""
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while part := process.stderr.read1():
            said += part
            sys.stderr.buffer.write(part)
            sys.stderr.flush()
    return process.returncode, said.decode(errors="replace")


if __name__ == "__main__":
    run_recipe(main)
