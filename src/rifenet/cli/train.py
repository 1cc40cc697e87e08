"""`rifenet train`: meta-training from a YAML file and dotted overrides."""

from __future__ import annotations

PROGRAM = "rifenet train"
EPILOG = """example:
  rifenet train --config configs/voc_mini_lite2.yaml --data.root VOC2012 --data.fold 2 --train.out runs/fold2
The same command goes on where it stopped; under torchrun or Slurm it uses every device."""


def main(argv: list[str]) -> int:
    """Trains, or resumes, and returns 0."""
    import argparse

    from jsonargparse import ArgumentParser, set_parsing_settings

    from rifenet.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=PROGRAM,
        description="Meta-train RiFeNet on the base classes of a fold. Rates are the true ones.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", action="config", help="YAML file with data, model, train and eval sections")
    sections = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig, "eval": EvalConfig}
    for name, section in sections.items():
        parser.add_class_arguments(section, name)
    arguments = parser.instantiate(parser.parse_args(argv))
    config = Config(**{name: arguments[name] for name in sections})

    from rifenet.training import train

    train(config)
    return 0
