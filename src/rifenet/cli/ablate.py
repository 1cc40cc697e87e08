"""`rifenet ablate`: trains and scores each row of a grid, and writes one table with paired intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rifenet.cli.console import note, noted_warnings
from rifenet.cli.train import config_parser, parsed_config
from rifenet.config import needs

if TYPE_CHECKING:
    from rifenet.config import Config

PROGRAM = "rifenet ablate"
DESCRIPTION = """Train and score each row of a grid, on its folds and with its seeds, below --train.out.
Runs that rows, or grids with one --train.out, have in common are done once. After each run the table is rewritten:
OUT/GRID.md for people, OUT/GRID.json for rifenet report."""
EPILOG = """example:
  rifenet ablate --config configs/ablate_voc_mini.yaml --grid configs/grids/components.yaml \\
    --data.root VOC2012 --data.list_file voc_mini --train.out runs/ablation
The same command goes on where it stopped and tries failed runs again. What the grid says of a row goes before the
command line. Several processes with one --train.out share out the runs: start one for each device."""


@needs("rifenet[train]")
def main(argv: list[str]) -> int:
    """Runs what is missing of the grid; 0, or 1 where a run failed."""
    parser = config_parser(PROGRAM, DESCRIPTION, EPILOG, argv)
    parser.add_argument("--grid", required=True, metavar="FILE", help="YAML file of rows, folds and seeds")
    parser.add_argument("--folds", type=str, default="", metavar="0,1,...", help="instead of the grid's own")
    parser.add_argument("--seeds", type=str, default="", metavar="0,1,...", help="instead of the grid's own")
    arguments = parser.parse_args(argv)
    try:
        folds, seeds = (tuple(map(int, filter(None, text.split(",")))) for text in (arguments.folds, arguments.seeds))
    except ValueError:
        parser.error("--folds and --seeds take whole numbers with commas between")
    config = parsed_config(parser, arguments)

    from rifenet.evaluation.ablation import run_grid
    from rifenet.evaluation.grid import read_grid

    if config.train.devices != 1:
        raise ValueError(
            f"Expected train.devices 1, but got {config.train.devices}. Start the command once for each device: "
            "processes with one --train.out share out the runs."
        )
    grid = read_grid(arguments.grid, config, folds=folds, seeds=seeds)
    failures = run_grid(grid, config.train.out, train_and_score, note)
    print(f"Wrote {config.train.out}/{grid.name}.md")
    if failures:
        raise ValueError(
            f"Expected every run to finish, but {len(failures)} failed: {', '.join(failures)}. Their reasons are above "
            "and in the table; the same command tries them again."
        )
    return 0


def train_and_score(config: Config) -> dict[str, Any]:
    """The result of one run: trains or resumes it in `config.train.out`, then scores the model it kept.

    With `model.kind` prototype nothing is trained.
    """
    from rifenet.cli.evaluate import episode_bar, named_by_backbone
    from rifenet.data.sources import open_dataset
    from rifenet.engines.device import choose_device
    from rifenet.evaluation.protocol import evaluate, settled
    from rifenet.models import build_model
    from rifenet.models.files.hub import load_model
    from rifenet.training import train

    data = config.data
    if config.model.kind == "prototype":
        model = named_by_backbone(build_model(config.model).eval())
    else:
        train(config)
        model = load_model(config.train.out, weights=config.model.weights)
    index = open_dataset(
        data.dataset, data.root, list_file=data.list_file, part="val", folds=data.folds, progress=False
    )
    config = settled(config)
    with noted_warnings(True), episode_bar(config, None) as progress:
        return evaluate(model.to(choose_device(config.train.device)), index, config, progress=progress)
