"""The processes of one training run, one or more on each host."""

import contextlib
import os
import sys
from collections.abc import Iterator

import jax
import numpy as np

from iqa_jax.errors import ConfigError, first_line

# What launchers set where they have started more than one process.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def join(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Connects to the other processes, if there are any; call it before anything else of JAX.

    Args:
      coordinator: HOST:PORT of process 0.
      num_processes: how many there are; 1, without the two others, ignores any launcher.
      process_id: which one this is, from 0.  Without all three, the environment tells of SLURM, Open MPI,
        GKE and TPU slices.
    Raises:
      ConfigError: only some of the three are given, or the other processes did not come.
    """
    if (coordinator, num_processes, process_id) == (None, 1, None):
        return
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise ConfigError("expected all of coordinator, num_processes and process_id, or none")
    if not any(given) and not _launched():
        return
    if process_id is not None and num_processes is not None and not 0 <= process_id < num_processes:
        raise ConfigError(f"process_id={process_id}: expected 0 to {num_processes - 1}")
    print(
        f"waiting for {num_processes or _expected()} processes; num_processes=1 trains in a single one",
        file=sys.stderr,
        flush=True,
    )
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=30)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the processes could not connect ({first_line(error)}); is the coordinator's address "
            "right, and have all of them started?"
        ) from None


def _expected() -> str:
    """How many processes a launcher has started, and the variable that says so."""
    counts = [f"{os.environ[name]} ({name})" for name in _COUNTS if int(os.environ.get(name, 1)) > 1]
    return counts[0] if counts else "the other"


def _launched() -> bool:
    several = any(int(os.environ.get(name, 1)) > 1 for name in _COUNTS)
    tpu = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return several or tpu or "JAX_COORDINATOR_ADDRESS" in os.environ


def is_first() -> bool:
    """Whether this process is the one that writes files and lines."""
    return jax.process_index() == 0


@contextlib.contextmanager
def first_before_others(what: str) -> Iterator[None]:
    """The first process runs the block, then the others do."""
    if not is_first():
        _wait(what)
    yield
    if is_first():
        _wait(what)


def _wait(what: str) -> None:
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def any_of(flag: bool) -> bool:
    """Whether it is set in any process; all have to ask."""
    return bool(_gathered(np.array(flag)).any())


def merged(values: np.ndarray, mine: np.ndarray) -> np.ndarray:
    """Values of all processes: (S, N), of which each process has the columns `mine`."""
    known = np.zeros(values.shape[1], bool)
    known[mine] = True
    owner = _gathered(known).argmax(0)
    return _gathered(values)[owner, :, np.arange(known.size)].T


def _gathered(x: np.ndarray) -> np.ndarray:
    """What each process has, (processes, …)."""
    if jax.process_count() == 1:
        return x[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(x))


def local(tree):
    """Arrays that are the same on every device, as this process's first device has them."""
    return jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, tree)


def leave(code: int) -> None:
    """Ends the process; a failed one does not wait for the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code and jax.process_count() > 1:
        os._exit(code)
    sys.exit(code)
