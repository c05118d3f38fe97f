"""Work on a Ray cluster, one worker a device or machine; what a lost worker had is done again by another."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import iqa_jax
from iqa_jax.errors import UserError

LOCAL = "local"

Work = Callable[[Any], Any]


class _Worker:
    """An actor: what `build` gave, applied to one part after the other."""

    def __init__(self, build: Callable[[], Work]):
        self._work = build()

    def work(self, number: int, part: Any) -> tuple[int, Any]:
        return number, self._work(part)


def spread(
    build: Callable[[], Work], parts: Sequence[Any], *, address: str = LOCAL, workers: int = 0
) -> Iterator[tuple[int, Any]]:
    """The results of all parts as they come, each with the part's number.

    Args:
      build: makes the function that works out a part, once in each worker; it and the parts are pickled, and
        files have to lie where every worker sees them.
      address: of a Ray cluster, or "local" for workers on this machine.
      workers: how many; as many as the cluster has GPUs, else machines, if 0.
    Raises:
      UserError: the cluster cannot be reached.
    """
    import ray
    from ray.util import ActorPool

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do by itself one day
    # Workers import this package from where it lies here, installed or not.
    here = str(Path(iqa_jax.__file__).resolve().parents[1])
    paths = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        ray.init(
            address=None if address == LOCAL else address,
            runtime_env={"env_vars": {"PYTHONPATH": paths}},
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if address == LOCAL else None,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"ray {address}: {str(error).splitlines()[0]}") from None
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = min(workers or gpus or len(ray.nodes()), len(parts))
        # A worker that was lost is started again, and its part with it, however often.
        actor = ray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=1, num_gpus=1 if gpus else 0)(
            _Worker
        )
        pool = ActorPool([actor.remote(build) for _ in range(count)])
        yield from pool.map_unordered(lambda one, part: one.work.remote(*part), list(enumerate(parts)))
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, UserError) else error from None
    finally:
        ray.shutdown()
