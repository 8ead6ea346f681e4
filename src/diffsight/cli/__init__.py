"""The command line: a table of commands. The module of a command is imported when it runs."""

import errno
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence

from diffsight.cli.console import printable
from diffsight.errors import INTERRUPTED, InputError, MissingExtraError
from diffsight.errors import suggest as suggest_name  # a module here has the name suggest

# summaries by group and name; the module of a command has its name, with "_" for "-", and defines
# ``main(argv) -> exit status``
GROUPS = {
    "Learn a task from a few labelled images": {
        "demo": "train a depth model on ten rendered rooms and draw its predictions",
        "adapt": "train a model for a new task on a few labelled images",
        "studio": "label photographs in the browser while a model is trained",
        "suggest": "choose the images that should be labelled next",
        "distil": "train a small, fast model on the predictions of a model",
        "benchmark": "compare methods on the same few labelled images",
    },
    "Use a model": {
        "predict": "run models on images",
        "explain": "draw class probabilities and attention maps of an image",
        "evaluate": "score a model on labelled images",
        "serve": "keep a model in memory and answer images sent by HTTP",
        "export": "write a model as an ONNX or PyTorch file that runs without diffsight",
        "show": "describe a saved model",
        "models": "list pretrained networks, or the saved models in a folder",
    },
    "Train from a recipe, or take over a checkpoint": {
        "recipes": "list the recipes, or print one",
        "describe": "print the size and cost of a recipe's model",
        "fit": "train a model from a recipe",
        "convert": "convert an authors' checkpoint to a diffsight model",
    },
    "Prepare data": {
        "render": "render furnished rooms with exact labels",
        "labels": "convert class labels to masks, COCO or labelme",
        "check-data": "read a whole data set and report problems",
        "caption": "write a caption for every image (EVP)",
        "aggregate-prompts": "average captions to one prompt for a data set (EVP)",
        "latent-std": "measure the standard deviation of a data set's latents (EVP)",
        "text-table": "encode class names to a table of CLIP text features",
        "index-nuscenes": "write the index file of nuScenes that training reads",
    },
    "Generate pictures": {
        "generate": "generate images from texts",
        "control": "generate pictures with the class layout of a photograph (DDP)",
        "pretrain": "train a small diffusion model on rendered rooms from scratch",
    },
    "Set up": {
        "doctor": "check this installation for known problems",
        "completion": "print a script for command completion in a shell",
    },
}
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}

# what a user can do if memory runs out: for commands with an option that reduces it, and others
_DEFAULT_MEMORY_ADVICE = "run it on a machine with more, or end other programs"
MEMORY_ADVICE = {
    "adapt": "choose a smaller --short-side",
    "benchmark": "choose a smaller --short-side, or a smaller --size of rooms",
    "caption": "choose a smaller --batch-size, or --device cpu",
    "control": "choose a smaller --size",
    "distil": "choose a smaller --batch-size or --short-side",
    "evaluate": "choose a smaller --short-side or --batch-size, or --tile N --stride N",
    "explain": "give a smaller image, or --device cpu",
    "export": "choose a smaller --size",
    "fit": "choose a smaller --batch_size (with more --accumulate), or a smaller crop",
    "generate": "choose a smaller --size, or a smaller --count",
    "latent-std": "choose a smaller crop in the recipe",
    "predict": "choose a smaller --short-side or --batch-size, or --tile N --stride N",
    "pretrain": "choose a smaller --size, or a smaller batch_size of the stage in the recipe",
    "render": "choose a smaller --size, or fewer --workers",
}
# these map files that may be larger than the memory, which a memory limit would count
NO_MEMORY_LIMIT = ("fit", "pretrain")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Errors that the user can fix are printed as one line on stderr.

    Args:
        argv: arguments of the command line, without the program (default: those of the process).

    Returns:
        0: done, 1: the run failed, 2: the input or the usage is wrong, 3: an optional library is
        missing, 4: an exported file is wrong, 130: interrupted.
    """
    is_own_process = argv is None
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_format_help())
        return 0
    if argv[0] == "--version":
        from diffsight import __version__

        sys.stdout.write(f"diffsight {__version__}\n")
        return 0
    if argv[0] not in COMMANDS:
        return _fail(f"unknown command {argv[0]!r}: {suggest_name(argv[0], COMMANDS)}", 2)
    # rounds that an idle thread of libgomp spins before it sleeps. With the default of 0.3 million,
    # training takes 3 to 10 times as long if another process needs the core. With 1,000 it takes a
    # third longer on an idle machine. The variable is read when torch is imported
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # terminals without "°" print an escape
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    if is_own_process and argv[0] not in NO_MEMORY_LIMIT:
        from diffsight.ops.machine import limit_memory

        limit_memory()
    return _run_module(argv[0], argv[1:])


class _PrintableFormatter(logging.Formatter):
    """A formatter that removes control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _run_module(name: str, argv: Sequence[str]) -> int:
    module = f"{__name__}.{name.replace('-', '_')}"
    try:
        return importlib.import_module(module).main(argv)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno == errno.ENOMEM:
            return _fail_for_memory(name)
        path = f" ({error.filename})" if error.filename else ""
        hint = "check the path, its permissions and the free space"
        return _fail(f"{error.strerror or error}{path}: {hint}", 1)
    except ValueError as error:
        if not isinstance(error, InputError):
            raise
        return _fail(str(error), 3 if isinstance(error, MissingExtraError) else 2)
    except (MemoryError, RuntimeError) as error:
        from diffsight.ops.memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        return _fail_for_memory(name)


def _fail_for_memory(name: str) -> int:
    return _fail(f"{name}: not enough memory: {MEMORY_ADVICE.get(name, _DEFAULT_MEMORY_ADVICE)}", 2)


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"diffsight: {printable(' '.join(message.split()))}\n")
    return status


def _format_help() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = ["usage: diffsight COMMAND ...\n\nDense visual perception with diffusion models."]
    for title, commands in GROUPS.items():
        lines.append(f"\n{title}:")
        lines += [f"  {name:<{width}}  {summary}" for name, summary in commands.items()]
    lines.append("\n`diffsight COMMAND --help` prints the options of a command.\n")
    return "\n".join(lines)
