"""Training from the command line."""

import sys

import typer

_HELP = """\
Trains an IQA model, or resumes a run that was stopped.

    {command} --config {config}[:pipal|:demo] [--workdir DIR] [--config.FIELD=VALUE ...]

The fields are those of the configuration file; a file of one's own is given by its path.  The run is kept in
--workdir, by default in runs/ under the name of its recipe: runs/conformer, runs/conformer-demo.  One of
several processes is told --coordinator HOST:PORT --num-processes N --process-id K, unless its launcher does.

Example: {command} --config {config}:demo --workdir runs/demo"""


def train(context: typer.Context) -> None:
    """Train an IQA model, or resume a run that was stopped; --help tells more.

    Example: python -m iqa_jax train --config conformer:demo --workdir runs/demo
    """
    leave(run(context.args, command="python -m iqa_jax train", config="conformer"))


def main() -> None:
    """`train.py` of a clone: the same command under its other name."""
    from iqa_jax.cli.ending import shown_plainly

    with shown_plainly():
        leave(run(sys.argv[1:], command="python train.py", config="configs/conformer.py"))


def run(argv: list[str], *, command: str, config: str) -> int:
    """Trains as the arguments say; returns the exit code.

    Args:
      command, config: what to call this command and a configuration in the help.
    """
    if {"-h", "--help", "--helpfull"} & set(argv):
        print(_HELP.format(command=command, config=config))
        return 0
    from iqa_jax.training.config import parse

    asked = parse(argv)
    from iqa_jax.cli.output import say_of_device
    from iqa_jax.models import IQA_MODELS
    from iqa_jax.ops.programs import keep_programs
    from iqa_jax.parallel import processes
    from iqa_jax.training.distillation import train_student
    from iqa_jax.training.loop import Interrupted, train

    quiet_libraries()
    processes.join(**asked.processes)
    keep_programs()
    say_of_device()
    try:
        work = train if IQA_MODELS[asked.config.model].full_reference else train_student
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
    """tensorflow-datasets and orbax warn of what is meant to be, and tell of failures that are raised too."""
    from absl import logging

    logging.set_verbosity(logging.FATAL)
