"""The command line: a table of commands; a command's module is imported only when it runs."""

import errno
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence

from diffsight.cli.console import printable
from diffsight.errors import InputError

# the module of a command has its name, with "_" for "-", and ``main(argv) -> exit status``
COMMANDS = {
    "demo": "learn depth from ten labelled rooms and write a picture",
    "adapt": "learn a new dense task from a few labelled images",
    "show": "describe a saved model",
    "models": "list pretrained networks, or the saved models in a folder",
    "recipes": "list the recipes, or print one",
    "explain": "show what a model sees in an image",
    "fit": "train a model from a recipe",
    "pretrain": "train a small diffusion model on rooms from scratch",
    "evaluate": "score a model on labelled images",
    "predict": "run models on images",
    "benchmark": "compare methods on the same few labelled images",
    "generate": "turn texts into images with the embedded model",
    "control": "paint pictures that keep the classes of a photograph",
    "render": "write images and exact labels of the procedural world",
    "describe": "describe a recipe's model and its cost",
    "labels": "write class labels as masks, COCO or labelme",
    "check-data": "read a data set end to end and report problems",
    "caption": "describe images in sentences (EVP)",
    "aggregate-prompts": "turn captions into one prompt for a data set (EVP)",
    "latent-std": "measure the standard deviation of latents (EVP)",
    "text-table": "turn names into a table of CLIP text features",
    "index-nuscenes": "read the tables of nuScenes once, for training",
    "convert": "convert an authors' checkpoint into a model",
    "doctor": "find problems of this installation",
    "completion": "print a script that completes commands in a shell",
}

_LESS_DATA = "run it on a machine with more, or end other programs"
# of commands whose memory depends on an option
LESS_MEMORY = {
    "adapt": "choose a smaller --short-side",
    "benchmark": "choose a smaller --short-side, or a smaller --size of rooms",
    "caption": "choose a smaller --batch-size, or --device cpu",
    "control": "choose a smaller --size",
    "evaluate": "choose a smaller --short-side or --batch-size, or --tile N --stride N",
    "explain": "give a smaller image, or --device cpu",
    "fit": "choose a smaller --batch_size (with more --accumulate), or a smaller crop",
    "generate": "choose a smaller --size, or a smaller --count",
    "latent-std": "choose a smaller crop in the recipe",
    "predict": "choose a smaller --short-side or --batch-size, or --tile N --stride N",
    "pretrain": "choose a smaller --size, or a smaller batch_size of the stage in the recipe",
    "render": "choose a smaller --size, or fewer --workers",
}
# their files may be larger than memory: they are mapped, which counts as used
UNLIMITED = ("fit", "pretrain")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors that the user can mend become one line on stderr.

    Exit status: 0 done, 1 the run failed, 2 the input or the usage is wrong, 130 interrupted.
    """
    is_own_process = argv is None
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_help())
        return 0
    if argv[0] == "--version":
        from diffsight import __version__

        sys.stdout.write(f"diffsight {__version__}\n")
        return 0
    if argv[0] not in COMMANDS:
        return _fail(f"unknown command {argv[0]!r}: choose from {', '.join(COMMANDS)}", 2)
    # how long an idle thread of libgomp spins before it sleeps: with its default (0.3 million),
    # training took 3 to 10 times as long where another process wanted the core; with 1,000 a third
    # more on a free machine. torch reads it when it is loaded
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no "°" shows it escaped
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if is_own_process and argv[0] not in UNLIMITED:
        from diffsight.ops.machine import limit_memory

        limit_memory()
    return _guarded(argv[0], argv[1:])


class _Printable(logging.Formatter):
    """Messages without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _guarded(name: str, argv: Sequence[str]) -> int:
    module = f"{__name__}.{name.replace('-', '_')}"
    try:
        return importlib.import_module(module).main(argv)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno == errno.ENOMEM:
            return _fail_without_memory(name)
        where = f" ({error.filename})" if error.filename else ""
        hint = "check the path, its permissions and the free space"
        return _fail(f"{error.strerror or error}{where}: {hint}", 1)
    except ValueError as error:
        if not isinstance(error, InputError):
            raise
        return _fail(str(error), 2)
    except (MemoryError, RuntimeError) as error:
        from diffsight.ops.memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        return _fail_without_memory(name)


def _fail_without_memory(name: str) -> int:
    return _fail(f"{name}: not enough memory: {LESS_MEMORY.get(name, _LESS_DATA)}", 2)


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"diffsight: {printable(' '.join(message.split()))}\n")
    return status


def _help() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    head = "usage: diffsight COMMAND ...\n\nDense visual perception with diffusion models.\n\n"
    return head + "\n".join(lines) + "\n\n`diffsight COMMAND --help` says more.\n"
