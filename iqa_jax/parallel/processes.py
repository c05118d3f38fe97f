"""Several processes that train together, one or more on each host."""

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
    """Joins the other processes, if there are any; before anything else is asked of JAX.

    Args:
      num_processes: 1 by itself trains alone, whatever a launcher says.
      coordinator: HOST:PORT of process 0.  With the two others it says what a launcher does not; without
        any, SLURM, Open MPI, GKE and TPU slices are known by their environment.
    Raises:
      ConfigError: only some of the three were given, or the others did not come.
    """
    if (coordinator, num_processes, process_id) == (None, 1, None):
        return
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise ConfigError("give --coordinator HOST:PORT, --num-processes and --process-id together, or none")
    if not any(given) and not _launched():
        return
    if process_id is not None and num_processes is not None and not 0 <= process_id < num_processes:
        raise ConfigError(f"--process-id {process_id}: expected 0 to {num_processes - 1}")
    print(
        f"waiting for {num_processes or _expected()} processes to come together; to train alone: "
        "--num-processes=1",
        file=sys.stderr,
        flush=True,
    )
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=30)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"the processes did not come together ({first_line(error)}); is the coordinator's address "
            "right, and were all of them started?"
        ) from None


def _expected() -> str:
    """How many processes a launcher speaks of, and in which variable."""
    counts = [f"{os.environ[name]} ({name})" for name in _COUNTS if int(os.environ.get(name, 1)) > 1]
    return counts[0] if counts else "the other"


def _launched() -> bool:
    several = any(int(os.environ.get(name, 1)) > 1 for name in _COUNTS)
    tpu = "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return several or tpu or "JAX_COORDINATOR_ADDRESS" in os.environ


def is_first() -> bool:
    """Whether this process is the one that writes and talks."""
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
