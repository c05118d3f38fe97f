"""Work on a Ray cluster, one worker a device or machine; if a worker is lost, another one redoes its part."""

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import iqa_jax
from iqa_jax.errors import UserError, first_line
from iqa_jax.signals import others_handlers_undone

LOCAL = "local"
TRIES = 3  # of a part whose workers end

Work = Callable[[Any], Any]


class WorkersLost(UserError):
    """Parts whose workers ended at each try; the other parts are done.

    Attributes:
      reasons: why the worker ended, by the number of the part.
    """

    def __init__(self, reasons: dict[int, str]):
        self.reasons = reasons
        number, reason = next(iter(reasons.items()))
        more = f", and so did {len(reasons) - 1} more" if len(reasons) > 1 else ""
        super().__init__(
            f"part {number} ended its worker {TRIES} times ({reason}){more}; the other parts are done. It "
            "may have needed more memory: give each worker more, or use fewer workers"
        )


class _Worker:
    """An actor that works on one part after the other."""

    def __init__(self, build: Callable[[], Work]):
        self._build = build
        self._work: Work | None = None

    def work(self, number: int, part: Any) -> tuple[int, Any]:
        if self._work is None:  # not in __init__, whose errors Ray hides
            self._work = self._build()
        return number, self._work(part)


def run_parts(
    build: Callable[[], Work], parts: Sequence[Any], *, address: str = LOCAL, workers: int = 0
) -> Iterator[tuple[int, Any]]:
    """The results of all parts as they come, each with the part's number.

    Args:
      build: called once in each worker, returns the function that computes the result of a part.  It and the
        parts are pickled; files have to lie where every worker sees them.
      address: of a Ray cluster, or "local" for workers on this machine.
      workers: how many; 0 means one for each GPU of the cluster, or for each machine if it has none.
    Raises:
      UserError: the cluster cannot be reached, or has too few GPUs or cores for the workers.
      WorkersLost: at the end, if the workers of a part have ended `TRIES` times.
    """
    import ray
    from ray.exceptions import RayTaskError

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # will be Ray's default
    # Workers import this package from where it lies here, installed or not.
    here = str(Path(iqa_jax.__file__).resolve().parents[1])
    paths = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        with others_handlers_undone():
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
        raise UserError(f"ray {address}: {first_line(error)}{hint}") from None
    try:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        room = gpus or int(resources.get("CPU", 0))
        if workers > room:
            kind = "GPUs" if gpus else "cores"
            raise UserError(f"ray {address}: {workers} workers, but {room} {kind}; expected one for each")
        nodes = sum(node["Alive"] for node in ray.nodes())
        count = min(workers or gpus or nodes, len(parts))
        actor = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(_Worker)
        yield from hand_out(ray, lambda: actor.remote(build), parts, count)
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, UserError) else error from None
    finally:
        ray.shutdown()


def hand_out(ray, start: Callable[[], Any], parts: Sequence[Any], count: int) -> Iterator[tuple[int, Any]]:
    """Gives each of `count` workers one part after the other; replaces a worker that is lost.

    Its part is tried again after all others, so that a part that ends its workers does not delay them.
    """
    idle = [start() for _ in range(count)]
    left = deque(range(len(parts)))
    running: dict[Any, tuple[Any, int]] = {}
    lost: Counter[int] = Counter()
    reasons: dict[int, str] = {}
    done = 0
    while left or running:
        while left and idle:
            worker, number = idle.pop(), left.popleft()
            running[worker.work.remote(number, parts[number])] = worker, number
        (finished,), _ = ray.wait(list(running), num_returns=1)
        worker, number = running.pop(finished)
        try:
            result = ray.get(finished)
        except ray.exceptions.RayActorError as error:
            reason = first_line(error)
            worker = start()
            lost[number] += 1
            if not done and lost.total() >= TRIES * count:
                raise UserError(f"workers end before they finish any part: {reason}") from None
            if lost[number] < TRIES:
                left.append(number)
            else:
                reasons[number] = reason
        else:
            done += 1
            yield result
        idle.append(worker)
    if reasons:
        raise WorkersLost(reasons)
