"""`rifenet ablate`: trains and scores each row of a grid, and compares the rows in one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rifenet.cli.console import note, noted_warnings
from rifenet.cli.over_ray import add_cluster
from rifenet.cli.train import config_parser, parsed_config
from rifenet.config import needs

if TYPE_CHECKING:
    from rifenet.config import Config

PROGRAM = "rifenet ablate"
DESCRIPTION = """Train and score each row of a grid, on each of its folds and with each of its seeds.
Runs go into folders below --train.out. Rows that need the same run share it, and so do grids with the same --train.out.
Each finished run updates the table: OUT/GRID.md for people, OUT/GRID.json for rifenet report."""
EPILOG = """example:
  rifenet ablate --config configs/ablate_voc_mini.yaml --grid configs/grids/components.yaml \\
    --data.root VOC2012 --data.list_file voc_mini --train.out runs/ablation
Run the same command again to resume it and to retry failed runs. A row's own options override the command line.
To use several devices, start the command once for each: processes with the same --train.out divide the runs."""


@needs("rifenet[train]")
def main(argv: list[str]) -> int:
    """Runs what the grid still lacks, and returns 0. Raises ValueError if a run failed."""
    parser = config_parser(PROGRAM, DESCRIPTION, EPILOG, argv)
    parser.add_argument("--grid", required=True, metavar="FILE", help="YAML file with rows, folds and seeds")
    parser.add_argument("--folds", type=str, default="", metavar="0,1,...", help="folds to use instead of the grid's")
    parser.add_argument("--seeds", type=str, default="", metavar="0,1,...", help="seeds to use instead of the grid's")
    add_cluster(parser, "make each run a task of a Ray cluster, whose machines all see --train.out and the dataset")
    arguments = parser.parse_args(argv)
    try:
        folds, seeds = (tuple(map(int, filter(None, text.split(",")))) for text in (arguments.folds, arguments.seeds))
    except ValueError:
        parser.error("--folds and --seeds take whole numbers, separated by commas")
    config = parsed_config(parser, arguments)

    from rifenet.evaluation.ablation import run_grid
    from rifenet.evaluation.grid import read_grid

    if config.train.devices != 1:
        raise ValueError(
            f"Expected train.devices 1, but got {config.train.devices}. Start the command once for each device: "
            "processes with the same --train.out divide the runs."
        )
    grid = read_grid(arguments.grid, config, folds=folds, seeds=seeds)
    tasks = None
    if arguments.ray is not None:
        from rifenet.integrations.ray import Crew, spread

        tasks = spread(arguments.ray or None, Crew(cpus=arguments.worker_cpus, gpus=arguments.worker_gpus))
    failures = run_grid(grid, config.train.out, train_and_score, note, tasks)
    print(f"Wrote {config.train.out}/{grid.name}.md")
    if failures:
        raise ValueError(
            f"Expected every run to finish, but {len(failures)} failed: {', '.join(failures)}. The reasons are above "
            "and in the table. Run the same command to try them again."
        )
    return 0


def train_and_score(config: Config) -> dict[str, Any]:
    """Trains or resumes one run in `config.train.out`, scores the model that it kept, and returns the result.

    A prototype (`model.kind`) is scored without training.
    """
    import torch

    from rifenet.cli.evaluate import episode_bar, named_by_backbone
    from rifenet.config import resolved
    from rifenet.data.sources import open_dataset
    from rifenet.engines.device import choose_device
    from rifenet.evaluation.ablation import RESULT_FILE
    from rifenet.evaluation.partial import Journal, partial_path
    from rifenet.evaluation.protocol import evaluate, settled
    from rifenet.models import build_model
    from rifenet.models.files.hub import load_model
    from rifenet.training import train

    if config.model.kind == "prototype":
        torch.manual_seed(config.train.seed)  # a backbone may be random, and no run may depend on those before it
        model = named_by_backbone(build_model(config.model).eval())
    else:
        train(config)
        model = load_model(config.train.out, weights=config.model.weights)
    data = resolved(config).data
    index = open_dataset(
        data.dataset, data.root, list_file=data.list_file, part="val", folds=data.folds, progress=False
    )
    config = settled(config, index)
    device = choose_device(config.train.device)
    journal = Journal(partial_path(Path(config.train.out) / RESULT_FILE))
    with noted_warnings(True), episode_bar(config, None) as progress:
        return evaluate(model.to(device), index, config, progress=progress, journal=journal)
