"""Trains an IQA model, or resumes a run that was stopped; `python train.py --help` tells more."""

from iqa_jax.cli.ending import as_process


def main() -> None:
    """Trains and ends the process."""
    as_process("iqa_jax.cli.train")


if __name__ == "__main__":
    main()
