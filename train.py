"""Trains an IQA model, or goes on with a run that was stopped.

    python train.py --config configs/conformer.py[:pipal|:demo] [--workdir DIR] [--config.FIELD=VALUE ...]

The fields are those of the configuration file; the run is kept in --workdir, runs/NAME by default.  One of
several processes is told --coordinator HOST:PORT --num-processes N --process-id K, unless its launcher does.
"""

import sys


def main(argv: list[str]) -> int:
    if {"-h", "--help", "--helpfull"} & set(argv):
        print(__doc__.strip())
        return 0
    from iqa_jax.ending import shown_plainly

    with shown_plainly():
        from iqa_jax import config, processes
        from iqa_jax.compilation import keep_programs
        from iqa_jax.distillation import train_student
        from iqa_jax.models import IQA_MODELS
        from iqa_jax.trainer import Interrupted, train

        command = config.parse(argv)
        processes.join(**command.processes)
        keep_programs()
        try:
            run = train if IQA_MODELS[command.config.model].full_reference else train_student
            run(command.config, command.workdir or f"runs/{command.name}", reason=command.reason)
        except Interrupted as interruption:
            print(interruption, file=sys.stderr)
            return interruption.exit_code
    return 0


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except SystemExit as end:
        code = end.code or 0
    from iqa_jax.processes import leave

    leave(code)
