"""`python -m pyranet_fast COMMAND`, also installed as `pyranet-fast COMMAND`: all commands under one name.

`pyranet-fast train …` is `python -m pyranet_fast.train …`, with the same flags and exit status.
"""

from __future__ import annotations

import difflib
import runpy
import sys
from collections.abc import Sequence

from .cli import BAD_INPUT
from .errors import missing_package

COMMANDS = {
    "train": ("train", "train a pose network"),
    "evaluate": ("evaluate", "score a checkpoint, or a file of predictions"),
    "predict": ("predict", "predict the joints of people in images"),
    "demo": ("demo", "try a network on a photo, a video or the camera in the browser"),
    "export": ("export", "export a checkpoint to ONNX Runtime, OpenVINO or C++"),
    "export-weights": ("export_weights", "save the weights of a checkpoint as safetensors"),
    "import-weights": ("import_weights", "convert the weights of other implementations"),
    "pack": ("data.pack", "pack a dataset into one memory-mapped file"),
    "synthetic": ("data.synthetic", "write images of synthetic people"),
    "train-classifier": ("train_classifier", "train an image classifier on CIFAR-10"),
    "ablate": ("ablate", "reproduce a study of the paper"),
    "complexity": ("complexity", "count parameters and FLOPs of networks"),
    "env": ("env", "show versions, build and the backend of each operator"),
}
"""By name: the module below `pyranet_fast` that runs the command, and what it does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; returns the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help"):
        print(_usage())
        return 0 if given else BAD_INPUT
    name = given[0].replace("_", "-")
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        print(f"error: unknown command {given[0]!r}{hint}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return BAD_INPUT
    sys.argv = [f"pyranet_fast {name}", *given[1:]]
    try:
        runpy.run_module(f"{__package__}.{COMMANDS[name][0]}", run_name="__main__", alter_sys=True)
    except ImportError as error:
        if (sentence := missing_package(error)) is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return BAD_INPUT
    return 0  # commands end by sys.exit


def _usage() -> str:
    rows = "\n".join(f"  {name:<18}{text}" for name, (_, text) in COMMANDS.items())
    return f"usage: pyranet-fast COMMAND [FLAGS]\n\n{rows}\n\npyranet-fast COMMAND --help shows the flags of a command."


if __name__ == "__main__":
    sys.exit(main())
