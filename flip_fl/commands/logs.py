"""``-v`` and ``FLIP_LOG``: what flip_fl and its libraries log, to stderr or into a file, with times."""

from __future__ import annotations

import logging
import os
import sys

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
# One line a request: method, path, status. Headers and bodies, where keys and rows would be, are not in it.
_REQUESTS = "urllib3.connectionpool"


def configure(verbose: int, file: str | None) -> None:
    """``verbose`` 0: nothing; 1: requests and flip_fl's own notes; 2: every library's logs.

    ``file``: all of it there as well; it is made readable by its owner alone.
    """
    # Without any handler Python prints warnings by itself, in the middle of a command's own words.
    handlers: list[logging.Handler] = [logging.NullHandler()]
    if not verbose and not file:
        logging.getLogger().addHandler(handlers[0])
        return
    if verbose:
        handlers.append(logging.StreamHandler(sys.stderr))
    if file:
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        handlers.append(logging.FileHandler(file, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger()
    root.handlers = [*root.handlers, *handlers]
    deep = verbose >= 2 or bool(file)
    root.setLevel(logging.DEBUG if deep else logging.WARNING)
    # Signed S3 requests are logged at DEBUG with their headers.
    for noisy in ("botocore", "boto3", "s3transfer"):
        logging.getLogger(noisy).setLevel(logging.INFO)
    logging.getLogger("flip_fl").setLevel(logging.DEBUG)
    logging.getLogger(_REQUESTS).setLevel(logging.DEBUG)


def warn_on_stderr() -> None:
    """For a server's process: warnings of every library on stderr, as they come."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.getLogger().addHandler(handler)
