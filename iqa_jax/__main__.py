"""A process of the command line: `iqa-jax` and `python -m iqa_jax`."""

from iqa_jax.cli.ending import as_process


def main() -> None:
    """Runs the command and ends the process."""
    as_process("iqa_jax.cli.app")


if __name__ == "__main__":
    main()
