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
    """An actor: what `build` gives, applied to one part after the other."""

    def __init__(self, build: Callable[[], Work]):
        self._build = build
        self._work: Work | None = None

    def work(self, number: int, part: Any) -> tuple[int, Any]:
        if self._work is None:  # here, so that what it raises is told
            self._work = self._build()
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
      UserError: the cluster cannot be reached, or has no room for the workers.
    """
    import ray
    from ray.util import ActorPool

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do by itself one day
    # Workers import this package from where it lies here, installed or not.
    here = str(Path(iqa_jax.__file__).resolve().parents[1])
    paths = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        ray.init(
            address=address,
            num_cpus=max(workers, os.cpu_count() or 1) if address == LOCAL else None,
            runtime_env={"env_vars": {"PYTHONPATH": paths}},
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if address == LOCAL else None,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        hint = "" if address == LOCAL else "; if the cluster wants a token, set RAY_AUTH_MODE=token"
        raise UserError(f"ray {address}: {str(error).splitlines()[0]}{hint}") from None
    try:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        room = gpus or int(resources.get("CPU", 0))
        if workers > room:
            raise UserError(f"ray {address}: --workers {workers}, but there is room for {room}")
        nodes = sum(node["Alive"] for node in ray.nodes())
        count = min(workers or gpus or nodes, len(parts))
        # A worker that was lost is started again, and its part with it, however often.
        actor = ray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=1, num_gpus=1 if gpus else 0)(
            _Worker
        )
        pool = ActorPool([actor.remote(build) for _ in range(count)])
        yield from pool.map_unordered(lambda one, part: one.work.remote(*part), list(enumerate(parts)))
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, UserError) else error from None
    except ray.exceptions.RayActorError as error:
        raise UserError(f"ray {address}: a worker does not start: {str(error).splitlines()[0]}") from None
    finally:
        ray.shutdown()
