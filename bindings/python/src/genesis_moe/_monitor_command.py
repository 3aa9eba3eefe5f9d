"""``genesis-moe monitor``: the console of runs in files."""

from __future__ import annotations

import argparse
import os
import signal
import time

from genesis_moe._monitor import DEFAULT_ADDRESS, monitor
from genesis_moe.errors import InvalidArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="RUN.jsonl", help="files of records; several are compared")
    parser.add_argument(
        "--address", default=DEFAULT_ADDRESS, metavar="HOST:PORT", help="default: %(default)s"
    )
    parser.add_argument(
        "--follow", action="store_true", help="the runs are being written: show what is appended"
    )
    parser.add_argument(
        "--speed",
        type=float,
        default=0.0,
        metavar="X",
        help="replay X times as fast as it ran (default: all at once)",
    )
    parser.add_argument(
        "--allow-remote", action="store_true", help="let other machines reach the address; needs a token"
    )
    parser.add_argument(
        "--token",
        metavar="TEXT",
        help="what a browser must show (default: the variable GENESIS_MOE_MONITOR_TOKEN)",
    )
    parser.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name under which the page is asked for",
    )


def run(options: argparse.Namespace) -> int:
    """Serves until it is interrupted."""
    if not options.runs:
        raise InvalidArgumentError(
            "RUN.jsonl: none given, want at least one file of records (a training process shows itself by gm.monitor())"
        )
    console = monitor(
        options.address,
        allow_remote=options.allow_remote,
        token=options.token or os.environ.get("GENESIS_MOE_MONITOR_TOKEN"),
        hosts=options.host,
    )
    # A shell starts what runs in the background with Ctrl+C ignored: take it up again.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with console:
        try:
            for path in options.runs:
                console.open(path, follow=options.follow, speed=options.speed)
            runs = ", ".join(options.runs)
            print(f"the console of {runs} is at {console.url}   (Ctrl+C stops it)", flush=True)
            while True:
                time.sleep(1)
        except KeyboardInterrupt:
            print()
    return 0
