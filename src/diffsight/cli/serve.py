"""``diffsight serve``: keep a model in memory and answer images that are sent by HTTP."""

import contextlib
import sys
from functools import partial
from typing import TYPE_CHECKING

from diffsight.cli import options
from diffsight.cli.flags import command
from diffsight.cli.studio import require_extra
from diffsight.errors import InputError
from diffsight.inference.plan import Plan

if TYPE_CHECKING:
    from diffsight.studio.security import Guard

MEGABYTE = 1_000_000


@command("serve")
def main(
    model: options.Model,
    *,
    port: int | None = None,
    queue: int = 8,
    max_megabytes: int = 64,
    run: options.RunOptions,
    plan: partial[Plan],
) -> int:
    """Keep a model in memory and answer images that are sent by HTTP.

    The server listens on this machine only. It prints its address, and a header with a token that
    every request sends. POST /predict takes the bytes of one image and returns JSON; with `Accept:
    image/png` the coloured picture, with `Accept: application/x-npy` the numbers and the header
    X-Unit with their unit. Depth is in metres, 0 means no depth. GET /health describes the model.
    End it with Ctrl-C.

    Args:
        port: port of the server (default: 8765, or a free one if that is in use).
        queue: number of images that may wait; further ones get the status 503.
        max_megabytes: size of the largest image file.
        run: where the model runs, and at which size.
        plan: processing of every image that is sent.

    Example:
        diffsight serve mine.safetensors --port 8765
    """
    require_extra()
    for name, value in (("queue", queue), ("max-megabytes", max_megabytes)):
        if value < 1:
            raise InputError(f"--{name} must be at least 1, got {value}")
    from diffsight.studio.predict import make_predict_app, require_servable, warm_up
    from diffsight.studio.server import open_port, serve

    def announce(guard: "Guard") -> None:
        sys.stdout.write(f"{guard.address}/predict\nAuthorization: Bearer {guard.token}\n")
        sys.stdout.flush()

    with contextlib.closing(open_port(port)) as listener:
        predictor = run.load_predictor(model, plan)
        require_servable(predictor)
        warm_up(predictor)
        limit = max_megabytes * MEGABYTE
        app = make_predict_app(predictor, model, queue_size=queue, max_bytes=limit)
        serve(app, listener, announce=announce)
    return 0
