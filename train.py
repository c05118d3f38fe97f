"""Trains an IQA model, or resumes a run; `python train.py --help` lists the options."""

from iqa_jax.cli.ending import as_process


def main() -> None:
    """Trains and ends the process."""
    as_process("iqa_jax.cli.train")


if __name__ == "__main__":
    main()
