"""Run work on a cluster, or in several processes of this machine, with Ray Data.

The command that starts the work is the *driver*. It sends groups of items to *workers*, which are
processes that keep a model in memory, and gets their results in order.
"""

import contextlib
import importlib.util
import logging
import os
import pickle
import secrets
import shutil
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from diffsight.errors import InputError, MissingExtraError
from diffsight.ops.memory import is_out_of_memory

Group = TypeVar("Group")
Result = TypeVar("Result")
CONNECT_S = 5.0  # a machine that does not respond for this time is not there
START_S = 300  # for the processes to start: their resources may be in use
ATTEMPTS = 3  # of a group whose worker ends, such as for lack of memory
GROUPS_IN_FLIGHT = 2  # per worker: the next group waits there
MIN_STORE_BYTES, MAX_STORE_BYTES = 80 * 2**20, 2**30  # memory for results in flight
# a client of gRPC sends these bytes first; the server sends its settings, a frame of type 4
HTTP2_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
HTTP2_BEGIN = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HTTP2_SETTINGS
TOKEN = Path("~/.ray/auth_token")  # where `ray start` writes the token of a cluster
LOCAL, AUTO = "local", "auto"
INSTALL = "pip install 'diffsight[ray]'"


@dataclass(frozen=True)
class Cluster:
    """Where the workers run, and what each of them gets.

    Attributes:
        address: ``HOST:PORT`` of a Ray cluster, or ``auto`` for the cluster of this machine; None:
            new processes on this machine only.
        workers: number of workers; None: one per GPU, or one per machine if there are no GPUs.
        threads: processors of each worker; None: those of the cluster divided by the workers.
        device: device of the model; None: a GPU if the cluster has any.
    """

    address: str | None = None
    workers: int | None = None
    threads: int | None = None
    device: str | None = None


def require_ray() -> None:
    """Check that Ray is installed.

    Raises:
        MissingExtraError: if it is not.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError(f"ray is not installed: {INSTALL}")


def map_groups(
    groups: Sequence[Group], make: Callable[[], Callable[[Group], Result]], cluster: Cluster
) -> Iterator[tuple[int, Result]]:
    """Yield the index and the result of every group, in order; only a few are in memory.

    If a worker ends, its group is run again by another one. A group that ended ``ATTEMPTS`` workers
    is left out.

    Args:
        groups: what is sent to the workers.
        make: function that every worker calls once; it returns the function for a group.
        cluster: where the workers run.

    Raises:
        InputError: if there is no such cluster, the workers cannot start, or one of the functions
            raises one.
        RuntimeError: if one of the functions raises another error.
    """
    if not groups:
        return
    with _connected(cluster) as ray:
        workers, threads, resources = _fit_workers(ray.nodes(), cluster)
        data = _configured_data()
        workers = min(workers, len(groups))
        rows = [{"index": i, "group": pickle.dumps(one)} for i, one in enumerate(groups)]
        pool = data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=GROUPS_IN_FLIGHT)
        with warnings.catch_warnings():
            # max_task_retries is without a successor: Ray would try again for ever
            warnings.simplefilter("ignore", DeprecationWarning)
            results = data.from_items(rows, override_num_blocks=len(rows)).map(
                _Worker,
                fn_constructor_args=(pickle.dumps(make), threads, os.getcwd()),
                compute=pool,
                max_task_retries=ATTEMPTS - 1,
                **resources,
            )
        with contextlib.closing(_rows_of(ray, results, workers)) as stream:
            for row in stream:
                yield row["index"], _open(pickle.loads(row["result"]))


class _Worker:
    """A process of the cluster. It makes its function for the first group, so that it starts fast.

    Args:
        make: pickled function that returns the function for a group.
        threads: number of threads of torch.
        folder: current folder of the driver. If this machine has it too, relative paths are the
            same here.
    """

    def __init__(self, make: bytes, threads: int, folder: str) -> None:
        torch.set_num_threads(threads)
        with contextlib.suppress(OSError):
            os.chdir(folder)
        self._make = make
        self._run: Callable[[Any], Any] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the index and the pickled result, or error, of a group."""
        where = "" if self._run else f"{socket.gethostname()}: "
        try:
            run = self._run = self._run or pickle.loads(self._make)()
            where = ""
            result = run(pickle.loads(row["group"]))
        except InputError as error:
            result = _Failure(f"{where}{error}")
        except Exception as error:  # the driver raises it again
            result = _Failure(traceback.format_exc(), is_input_error=False)
            host = socket.gethostname()
            if is_out_of_memory(error):
                result = _Failure(f"{host}: not enough memory: give a smaller --short-side")
            elif isinstance(error, OSError):
                result = _Failure(f"{host}: {error}: check its permissions and free space")
        return {"index": row["index"], "result": pickle.dumps(result)}


@dataclass(frozen=True)
class _Failure:
    """An error of a worker."""

    message: str
    is_input_error: bool = True


def _open(result: Any) -> Any:
    """Return a result; raise the error of a worker."""
    if not isinstance(result, _Failure):
        return result
    if result.is_input_error:
        raise InputError(result.message)
    raise RuntimeError(f"a worker failed: {result.message}")


def _rows_of(ray: Any, results: Any, workers: int) -> Generator[dict[str, Any]]:
    """Yield the rows of a Ray Data set; turn errors of Ray into one line."""
    try:
        yield from results.iter_rows()
    except ray.exceptions.GetTimeoutError:
        raise InputError(
            f"{workers} workers did not start within {START_S} s: other programs use the "
            "cluster; wait for them, or give fewer --workers or --threads"
        ) from None
    except ray.exceptions.RayError as error:
        first = next(filter(None, str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"the workers ended ({first}): install the same version of diffsight on every machine, "
            "and leave enough memory for the models"
        ) from None


def _fit_workers(
    nodes: Sequence[dict[str, Any]], cluster: Cluster
) -> tuple[int, int, dict[str, int]]:
    """Return the number of workers, and the threads and the resources of each (options of Ray).

    The driver lists the items, so Ray Data reads nothing. It therefore needs no processor besides
    those of the workers.

    Args:
        nodes: machines as ``ray.nodes`` lists them.
        cluster: wanted workers.

    Raises:
        InputError: if the machines cannot hold the workers.
    """
    machines = [one["Resources"] for one in nodes if one["Alive"]]
    cpus = [int(one.get("CPU", 0)) for one in machines]
    gpus = [int(one.get("GPU", 0)) for one in machines]
    uses_gpu = any(gpus) if cluster.device is None else cluster.device != "cpu"
    if uses_gpu and not any(gpus):
        raise InputError(f"--device {cluster.device}: the cluster has no GPU: give --device cpu")
    workers = cluster.workers or (sum(gpus) if uses_gpu else sum(count > 0 for count in cpus))

    def capacity_with(threads: int) -> int:
        counts = zip(cpus, gpus if uses_gpu else cpus, strict=True)
        return sum(min(cpu // threads, limit) for cpu, limit in counts)

    most = range(max(cpus, default=1), 0, -1)
    threads = cluster.threads or next((n for n in most if capacity_with(n) >= workers), 1)
    capacity = capacity_with(threads)
    if not 0 < workers <= capacity:
        unit = " and a GPU" if uses_gpu else ""
        raise InputError(
            f"{workers} workers with {threads} processors{unit} each do not fit: the cluster has "
            f"{sum(cpus)} processors and {sum(gpus)} GPUs, room for {capacity} of them: give "
            "fewer --workers or --threads"
        )
    # Ray Data supports only one of the two
    return workers, threads, {"num_gpus": 1} if uses_gpu else {"num_cpus": threads}


@contextlib.contextmanager
def _connected(cluster: Cluster) -> Iterator[Any]:
    """Yield the module ``ray``, connected to a cluster; a connection of the caller is kept."""
    ray = import_ray(cluster)
    if ray.is_initialized():
        yield ray
        return
    _start(ray, cluster)
    try:
        yield ray
    finally:
        ray.shutdown()


def import_ray(cluster: Cluster) -> Any:
    """Return the module ``ray``, which sends nothing to its authors and prints nothing.

    Args:
        cluster: cluster that it will be used with.

    Raises:
        MissingExtraError: if it is not installed.
    """
    require_ray()
    if "ray" not in sys.modules:  # it reads these variables when it is imported
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        if "RAY_AUTH_MODE" not in os.environ:  # the ports of Ray are open to the network
            if cluster.address is None:
                os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            elif "RAY_AUTH_TOKEN" in os.environ or TOKEN.expanduser().exists():
                os.environ["RAY_AUTH_MODE"] = "token"
    import ray

    # messages about a worker that ended would be printed between the lines of --json
    internal: Any = ray._private
    internal.worker.print_to_stdstream = lambda data, ignore_prefix: None
    return ray


def _start(ray: Any, cluster: Cluster) -> None:
    """Connect to the cluster, or start processes on this machine.

    Raises:
        InputError: if there is no cluster at the address.
    """
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if cluster.address is None:
        free = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
        store = min(MAX_STORE_BYTES, max(MIN_STORE_BYTES, free // 2))
        quiet |= {"object_store_memory": store, "include_dashboard": False}
    elif cluster.address != AUTO:
        _require_server(cluster.address)
    try:
        with _without_stderr():
            ray.init(cluster.address or LOCAL, **quiet)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        first = next(filter(None, str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"--address {cluster.address or LOCAL}: Ray cannot be used ({first}): start a cluster "
            "with `ray start --head` and the same versions of Ray and Python, and copy its "
            f"{TOKEN} to this machine"
        ) from None


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Hide what the libraries of Ray print while it starts; errors in Python are still raised."""
    stderr = os.dup(2)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _require_server(address: str) -> None:
    """Check that an address is that of a gRPC server, because Ray itself waits for minutes.

    Raises:
        InputError: if the address is wrong, or nothing is there.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        raise InputError(f"--address {address}: give HOST:PORT of a Ray cluster, or auto")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_S) as connection:
            connection.sendall(HTTP2_BEGIN)
            if connection.recv(len(HTTP2_SETTINGS))[3:4] != HTTP2_SETTINGS[3:4]:
                raise OSError("another program uses this port")
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, UnicodeError):
            reason = "not the name of a machine"
        raise InputError(
            f"--address {address}: no cluster there ({reason}): check the address, or start one "
            "with `ray start --head`"
        ) from None


def _configured_data() -> Any:
    """Return the module ``ray.data`` with the settings of this module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its own settings
        import ray.data

        context = ray.data.DataContext.get_current()
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.wait_for_min_actors_s = START_S
    context.execution_no_progress_timeout_s = -1  # a group of large images may take long
    context.max_errored_blocks = -1  # the caller sees what is missing
    return ray.data
