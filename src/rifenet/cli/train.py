"""`rifenet train`: meta-trains a model from a YAML file and options that override it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rifenet.config import MissingExtra, needs

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from rifenet.config import Config

PROGRAM = "rifenet train"
EPILOG = """example:
  rifenet train --config configs/voc_mini_lite2.yaml --data.root VOC2012 --data.fold 2 --train.out runs/fold2
Run the same command again to resume a stopped run. Under torchrun or Slurm it uses every device."""
SECTIONS = ("data", "model", "train", "eval")


@needs("rifenet[train]")
def main(argv: list[str]) -> int:
    """Trains, or resumes, and returns 0."""
    parser = config_parser(
        PROGRAM, "Meta-train RiFeNet on the base classes of a fold. Learning rates apply as given.", EPILOG, argv
    )
    config = parsed_config(parser, parser.parse_args(argv))

    from rifenet.training import train

    train(config)
    return 0


def config_parser(program: str, description: str, epilog: str, argv: list[str]) -> ArgumentParser:
    """A parser of `--config FILE` and of every option by its dotted name.

    Raises MissingExtra without the extra `train`. Before that, `--help` in `argv` prints the help without the options.
    """
    import argparse

    try:
        with needs("rifenet[train]"):
            from jsonargparse import ArgumentParser, set_parsing_settings
    except MissingExtra as missing:
        known = argparse.ArgumentParser(
            prog=program,
            description=description,
            epilog=f"{epilog}\n\nThe options are not listed here: {missing}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        known.parse_known_args(argv)
        raise

    from rifenet.config import DataConfig, EvalConfig, ModelConfig, TrainConfig

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=program,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", action="config", help="YAML file with data, model, train and eval sections")
    for name, section in zip(SECTIONS, (DataConfig, ModelConfig, TrainConfig, EvalConfig), strict=True):
        parser.add_class_arguments(section, name)
    return parser


def parsed_config(parser: ArgumentParser, arguments: Any) -> Config:
    """The config from the parsed arguments of a `config_parser`."""
    from rifenet.config import Config

    built = parser.instantiate(arguments)
    return Config(**{name: built[name] for name in SECTIONS})
