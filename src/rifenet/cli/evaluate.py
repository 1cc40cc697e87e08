"""`rifenet evaluate`: scores a model on novel classes, and the training-free baseline on request (protocols.md)."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rifenet.cli.console import noted_warnings, print_json
from rifenet.cli.options import TRAINED, add_backbone, add_list_file
from rifenet.cli.over_ray import add_cluster, whole
from rifenet.config import (
    DATASETS,
    FOLDS,
    NAMED_EPISODES,
    PARTLY_MARKED,
    PROTOCOLS,
    TEST_OPTIONS,
    Config,
    DataConfig,
    EvalConfig,
    named_episodes,
    needs,
    with_test_options,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from rifenet.evaluation.shards import Elsewhere
    from rifenet.models import Prototype, RiFeNet

_EXAMPLE = """examples:
  rifenet evaluate --model runs/fold2 --baseline --dataset pascal --root VOC2012 --fold 2 --out runs/fold2/result.json
  rifenet evaluate --model runs/fold2 --dataset pascal --root VOC2012 --fold 2 --protocol hsnet --shots 5 --vote
  rifenet evaluate --model prototype --backbone efficientnet_lite2 --dataset custom --root photos --out prototype.json
  torchrun --nproc-per-node 4 -m rifenet evaluate --model runs/fold2 --dataset pascal --root VOC2012 --fold 2
  rifenet evaluate --model runs/fold2 --dataset coco --root /shared/coco --fold 2 --episodes 20000 --ray auto"""


_EPISODES = f"""episodes for each seed, or by name: {" or ".join(NAMED_EPISODES)} (default: 1000; pfenet on COCO: 5000;
FSS-1000: each query once; other sets as published, docs/protocols.md 3)"""


@needs("rifenet[train]")
def main(argv: list[str]) -> int:
    """Scores one or two models, writes a result file for each, and returns 0."""
    options = _parse(argv)
    fabric = _fabric(options.device)
    if fabric is not None and options.ray is not None:
        raise ValueError("Expected torchrun or --ray, but got both. Start the command by itself: Ray has the workers.")

    import torch

    from rifenet.data.sources import open_dataset
    from rifenet.engines.device import choose_device
    from rifenet.evaluation.lists import read_episodes, write_episodes
    from rifenet.evaluation.partial import Journal, discard_partial, partial_path
    from rifenet.evaluation.presence import judged_presence
    from rifenet.evaluation.protocol import drawn_episodes, evaluate, settled
    from rifenet.evaluation.result_file import write_result
    from rifenet.files import expect_writable

    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device) if fabric is None else fabric.device
    leads = fabric is None or fabric.is_global_zero
    model = _load(options)
    watched = leads and sys.stderr.isatty()
    index = open_dataset(
        options.dataset,
        options.root,
        list_file=options.list_file,
        part="val",
        folds=options.folds,
        progress=watched,
    )
    listed = read_episodes(options.episodes_from, index) if options.episodes_from else None
    config = settled(_config(options, getattr(model, "metadata", {}).get("image_size")), index, listed)
    if options.save_episodes and leads:
        runs_of_episodes = listed.runs if listed else drawn_episodes(index, config)
        write_episodes(options.save_episodes, index, config, runs_of_episodes)
    runs: dict[Path, tuple[Any, str]] = {options.out: (model, options.name)}
    if options.baseline:
        runs[options.out.with_name(f"{options.out.stem}-prototype.json")] = (_baseline(model), "")
    if leads:
        expect_writable(*runs)
    printed: list[dict[str, Any]] = []
    for out, (scored, name) in runs.items():
        journal = Journal(partial_path(out), skip=options.on_error == "skip")
        with noted_warnings(leads), episode_bar(config, fabric) as progress:
            result = evaluate(
                scored.to(device),
                index,
                config,
                listed=listed,
                name=name,
                fabric=fabric,
                progress=progress,
                journal=journal,
                elsewhere=_elsewhere(options),
            )
        if leads:
            if options.presence:
                result["presence"] = judged_presence(scored, index, config, options.presence)
            write_result(result, out)
            discard_partial(out)
            printed.append({"file": str(out), **{key: result[key] for key in result if key != "episode_counts"}})
    if leads:
        print_json(printed) if options.json else _print(printed)
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    data, rules = DataConfig(), EvalConfig()
    parser = argparse.ArgumentParser(
        prog="rifenet evaluate",
        description="Score a model on the novel classes of a fold, over exactly N episodes for each seed.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default="default", help=f"{TRAINED}, hf:owner/name, or prototype (the training-free baseline)")
    add_backbone(parser)
    add("--weights", default="", metavar="FILE", help="the backbone's weights, if no package or folder brings them")
    add("--baseline", action="store_true", help="also score the training-free prototype with the model's own backbone")
    for option in TEST_OPTIONS:
        add(f"--model.{option}", metavar="VALUE", help="changes this option of a trained model, as in a config")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="older form of --model.NAME VALUE")
    add("--name", default="", help="name of the model in tables (default: its own)")
    add("--dataset", choices=DATASETS, required=True, help="layout of the dataset")
    add("--root", required=True, metavar="DIR", help="folder of the dataset")
    add_list_file(parser, "image names to use instead of the dataset's test list")
    add("--fold", type=int, default=data.fold, help="fold whose novel classes are scored (default: %(default)s)")
    add("--folds", choices=FOLDS, default=data.folds, help="coco: how folds divide the classes (default: %(default)s)")
    add("--shots", type=int, metavar="K", help=f"support images in an episode (default: {data.shots})")
    add("--protocol", choices=tuple(PROTOCOLS), default=rules.protocol, help="rules of scoring (default: %(default)s)")
    add("--episodes", type=_episodes, metavar="N", help=_EPISODES)
    add(
        "--some-classes",
        action="store_true",
        help="accept an N that leaves out classes; the title of the table says so",
    )
    add("--seeds", type=_seeds, metavar="0,1,...", help="each seed draws N episodes (default: 0,1,2,3,4; hsnet: 0)")
    add("--min-area", type=int, metavar="PX", help=f"smallest area of a class that counts (default: {data.min_area})")
    add("--class-area", action="store_true", help="pfenet: also a query's own class must have that area")
    add("--original-size", action="store_true", help="hsnet: score masks at the photo's size, not the network's")
    add("--vote", action="store_true", help="hsnet, K > 1: segment with each shot alone, and let the shots vote")
    add("--unlabeled", type=int, default=0, metavar="U", help="also learn the class from U photos without masks")
    add("--episodes-from", type=Path, metavar="FILE", help="JSON list of episodes to score; replaces the drawn ones")
    add("--save-episodes", type=Path, metavar="FILE", help="write the scored episodes as a list for --episodes-from")
    add("--absent-as-zero", action="store_true", help="count a class without episodes as 0, as published code does")
    add("--image-size", type=int, metavar="PX", help="side of the network's input (default: the model's; hsnet: 400)")
    add("--batch-size", type=int, default=rules.batch_size, help="episodes loaded together; has no effect on scores")
    add("--workers", type=int, default=rules.workers, help="loader processes; has no effect on scores")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="default: %(default)s")
    add("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    add(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="if an image cannot be read: stop, to go on later, or skip its episodes and name them (default: stop)",
    )
    add("--presence", type=int, default=0, metavar="N", help="also check confidence, on N photos with and N without")
    add_cluster(parser, "score shards of the episodes over a Ray cluster, whose machines all see the dataset")
    add("--shard", type=whole, default=250, metavar="N", help="--ray: episodes of a shard (default: %(default)s)")
    add("--json", action="store_true", help="print the results as JSON")
    add("--out", type=Path, default=Path("result.json"), metavar="FILE", help="result file (default: %(default)s)")
    options = parser.parse_args(argv)
    given = {option: getattr(options, f"model.{option}") for option in TEST_OPTIONS}
    options.set += [f"{option}={value}" for option, value in given.items() if value is not None]
    _check(parser, options)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends the program where options contradict each other."""
    if (options.model == "prototype") != (options.backbone is not None):
        parser.error("give --backbone with --model prototype, and only with it")
    if options.model == "prototype" and options.baseline:
        parser.error("--baseline is for a trained model; --model prototype is the baseline itself")
    if options.model == "prototype" and options.set:
        parser.error("--model.NAME and --set are for a trained model; the prototype has no such options")
    if options.protocol == "hsnet" and (options.min_area is not None or options.unlabeled or options.class_area):
        parser.error("--min-area, --class-area and --unlabeled belong to --protocol pfenet; hsnet has none of them")
    if options.protocol != "hsnet" and (options.original_size or options.vote):
        parser.error("--original-size and --vote belong to --protocol hsnet")
    if options.presence and options.dataset in PARTLY_MARKED:
        parser.error(f"--presence needs photos without a class, which {options.dataset} does not tell; leave it out")
    if options.presence and options.unlabeled:
        parser.error("--presence learns classes from their supports alone; leave --unlabeled out")
    own = (options.shots, options.episodes, options.seeds, options.unlabeled)
    if options.episodes_from and own != (None, None, None, 0):
        parser.error("--episodes-from sets shots, episodes, seeds and unlabeled itself; leave those options out")


def _episodes(text: str) -> int | str:
    if text in NAMED_EPISODES:
        return text
    try:
        return int(text)
    except ValueError as error:
        known = ", ".join(NAMED_EPISODES)
        raise argparse.ArgumentTypeError(f"expected a whole number or one of {known}, but got {text!r}") from error


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected whole numbers separated by commas, but got {text!r}") from error


def _config(options: argparse.Namespace, model_size: int | None) -> Config:
    """The config of the options. The protocol fills what they leave open; `model_size` is the training size."""
    default = DataConfig()
    data = DataConfig(
        dataset=options.dataset,
        root=options.root,
        list_file=options.list_file,
        folds=options.folds,
        fold=options.fold,
        shots=default.shots if options.shots is None else options.shots,
        image_size=model_size or default.image_size,
        min_area=default.min_area if options.min_area is None else options.min_area,
    )
    episodes = options.episodes
    if isinstance(episodes, str):
        episodes = named_episodes(episodes, options.dataset)
    rules = EvalConfig(
        protocol=options.protocol,
        episodes=episodes,
        some_classes=options.some_classes,
        class_area=options.class_area,
        seeds=options.seeds or (),
        image_size=options.image_size,
        original_size=options.original_size,
        vote=options.vote,
        unlabeled=options.unlabeled,
        batch_size=options.batch_size,
        workers=options.workers,
        absent_as_zero=options.absent_as_zero,
    )
    return Config(data=data, eval=rules)


def _load(options: argparse.Namespace) -> RiFeNet | Prototype:
    from rifenet.models.files.checkpoint import identify
    from rifenet.models.files.hub import PROTOTYPE, load_model

    if options.model == "prototype":
        return named_by_backbone(load_model(f"{PROTOTYPE}{options.backbone}", weights=options.weights))
    model = load_model(options.model, weights=options.weights)
    if options.set:
        model.config = with_test_options(model.config, options.set)
        identify(model)
    return model


def _baseline(model: RiFeNet | Prototype) -> RiFeNet | Prototype:
    from rifenet.models.build import baseline_of

    return named_by_backbone(baseline_of(model))


def named_by_backbone(prototype: RiFeNet | Prototype) -> RiFeNet | Prototype:
    """The prototype, named by its backbone's hash: it has no other weights."""
    from rifenet.models.files.checkpoint import backbone_hash

    prototype.hash = backbone_hash(prototype)
    return prototype


def _elsewhere(options: argparse.Namespace) -> Elsewhere | None:
    """The workers of --ray; None without it."""
    if options.ray is None:
        return None
    from rifenet.evaluation.shards import Elsewhere
    from rifenet.integrations.ray import Crew, spread

    tasks = spread(options.ray or None, Crew(cpus=options.worker_cpus, gpus=options.worker_gpus))
    device = "cuda" if options.worker_gpus else "cpu"
    return Elsewhere(tasks, device, options.threads or options.worker_cpus, options.shard)


def _fabric(device: str) -> Fabric | None:
    """The process group under torchrun or Slurm; None for a single process."""
    from rifenet.training.distributed import launch, launched_ranks

    return launch(device) if launched_ranks() else None


@contextlib.contextmanager
def episode_bar(config: Config, fabric: Fabric | None) -> Iterator[Callable[[int], None] | None]:
    """Shows this rank's episodes, as a bar or as lines; None if this rank does not lead. `config` is settled."""
    from rifenet.drawing.progress import TaskProgress

    if fabric is not None and not fabric.is_global_zero:
        yield None
        return
    assert config.eval.episodes is not None
    ranks = 1 if fabric is None else fabric.world_size
    with TaskProgress("episode", config.eval.episodes * len(config.eval.seeds) // ranks) as progress:
        yield progress.advance


def _print(printed: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from rifenet.evaluation.leakage import training_unknown
    from rifenet.evaluation.settings import setting_title

    console = Console(highlight=False, markup=False)
    first = printed[0]
    console.print(f"{setting_title(first)}, fold {first['fold']}", soft_wrap=True)
    models = [result["model"]["name"] for result in printed]
    table = Table("IoU in percent", *models, "episodes a seed", "queries of images")
    for row, item in enumerate(first["per_class"]):
        ious = [result["per_class"][row]["iou"] for result in printed]
        cells = ("absent" if iou is None else f"{100 * iou:.1f}" for iou in ious)
        table.add_row(item["name"], *cells, _range(item["episodes"]), f"{item['queries']:,} of {item['images']:,}")
    table.add_section()
    for key, title in (("miou", "mIoU"), ("fb_iou", "FB-IoU")):
        table.add_row(title, *(_plus_minus(result["scores"][key]) for result in printed), "", "")
    for kind, title in (("seeds", "over seeds"), ("bootstrap", "over queries")):
        intervals = (result["scores"]["miou"][f"interval_{kind}"] for result in printed)
        cells = ("–" if found is None else f"{100 * found[0]:.1f} to {100 * found[1]:.1f}" for found in intervals)
        table.add_row(f"mIoU, 95% {title}", *cells, "", "")
    console.print(table)
    for result in printed:
        kept = {True: "on", False: "off"}.get(result["model"]["exclude_novel"])
        console.print(
            f"{result['file']}: {result['episodes']:,} episodes x {len(result['seeds'])} seeds, "
            f"{result['episodes_per_second']:.1f} a second"
            + (f", trained with exclude_novel {kept}" if kept else "")
            + (", trained on what its file does not say" if training_unknown(result) else ""),
            soft_wrap=True,
        )
        if result["skipped"]:
            console.print(f"  {len(result['skipped']):,} of these episodes were skipped: an image could not be read.")


def _range(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _plus_minus(score: dict[str, Any]) -> str:
    deviation = "" if score["std"] is None else f" ± {100 * score['std']:.1f}"
    return f"{100 * score['mean']:.1f}{deviation}"
