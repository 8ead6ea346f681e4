"""Options of ``predict`` and ``evaluate`` for the processes that run the model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from diffsight.cli.flags import Flag
from diffsight.errors import InputError

if TYPE_CHECKING:
    from diffsight.inference.ray_engine import Cluster


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Processes that run the model.

    Attributes:
        engine: process for this process; ray for the machines of a Ray cluster, or for several
            processes of this machine. The results are the same.
        address: address of a Ray cluster, or auto for the cluster that this machine belongs to
            (default: start processes on this machine).
        workers: number of processes that load the model (default: one per GPU of the cluster, or
            one per machine if there is no GPU).
        threads: processors of each worker (default: those of the cluster divided by the workers).
    """

    engine: Literal["process", "ray"] = "process"
    address: Annotated[str | None, Flag("HOST:PORT")] = None
    workers: int | None = None
    threads: int | None = None

    def cluster(self, device: str | None) -> "Cluster | None":
        """Return where the workers run; None if this process runs the model.

        Args:
            device: device of the model.

        Raises:
            InputError: if the options do not fit together, or Ray is not installed.
        """
        for name in ("address", "workers", "threads"):
            value = getattr(self, name)
            if value is not None and self.engine == "process":
                raise InputError(f"--{name} is for --engine ray: leave it out, or add --engine ray")
            if isinstance(value, int) and value < 1:
                raise InputError(f"--{name} must be at least 1, got {value}")
        if self.engine == "process":
            return None
        from diffsight.inference.ray_engine import Cluster, require_ray

        require_ray()
        return Cluster(self.address, self.workers, self.threads, device)
