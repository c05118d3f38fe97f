"""Training from the command line."""

import sys

import typer

_HELP = """\
Trains an IQA model, or resumes a run.

    {command} --config {config}[:pipal|:demo] [--workdir DIR] [--config.FIELD=VALUE ...]

The configuration file lists the fields; give your own file by its path.  --workdir keeps the run, by default
in runs/ under the name of its recipe: runs/conformer, runs/conformer-demo.  Run the same command again to
resume.  Each of several processes needs --coordinator HOST:PORT --num-processes N --process-id K, unless a
launcher (SLURM, Open MPI, GKE, TPU) sets them.  --num-processes 1 trains in a single process, ignoring any
launcher.

Example: {command} --config {config}:demo --workdir runs/demo"""


def train(context: typer.Context) -> None:
    """Train an IQA model, or resume a run; --help lists the options.

    Example: python -m iqa_jax train --config conformer:demo --workdir runs/demo
    """
    leave(run(context.args, command="python -m iqa_jax train", config="conformer"))


def main() -> None:
    """`train.py` of a clone."""
    from iqa_jax.cli.ending import shown_plainly

    with shown_plainly():
        leave(run(sys.argv[1:], command="python train.py", config="configs/conformer.py"))


def run(argv: list[str], *, command: str, config: str) -> int:
    """Trains as the arguments say; returns the exit code.

    Args:
      command, config: the command and the configuration that the help shows.
    """
    if {"-h", "--help", "--helpfull"} & set(argv):
        print(_HELP.format(command=command, config=config))
        return 0
    from iqa_jax.cli.train_arguments import parse

    asked = parse(argv)
    from iqa_jax.cli.options import arguments_as_options
    from iqa_jax.cli.output import say_of_device
    from iqa_jax.errors import ConfigError
    from iqa_jax.ops.programs import keep_programs
    from iqa_jax.parallel import processes
    from iqa_jax.training.distillation import train_student
    from iqa_jax.training.loop import Interrupted, train

    quiet_libraries()
    try:
        processes.join(**asked.processes)
    except ConfigError as error:
        options = "--coordinator HOST:PORT, --num-processes, --process-id; or --num-processes 1 alone"
        raise ConfigError(f"{error} ({options})") from None
    keep_programs()
    say_of_device()
    work = train if asked.config.full_reference else train_student
    try:
        with arguments_as_options("data_dir", fields=True):
            work(asked.config, asked.workdir or f"runs/{asked.name}", reason=asked.reason)
    except Interrupted as interruption:
        print(interruption, file=sys.stderr)
        return interruption.exit_code
    return 0


def leave(code: int) -> None:
    """Ends the process; a failed one of several does not wait for the others."""
    if "jax" not in sys.modules:
        sys.exit(code)
    from iqa_jax.parallel.processes import leave

    leave(code)


def quiet_libraries() -> None:
    """tensorflow-datasets and orbax warn of what is intended, and log failures that they raise too."""
    from absl import logging

    logging.set_verbosity(logging.FATAL)
