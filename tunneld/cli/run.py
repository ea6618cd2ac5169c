"""`tunneld run`: the daemon, in the foreground. Reads the options and hands over to `daemon`."""

from __future__ import annotations

import argparse
import errno
import logging
import os

from tunneld import __version__, log
from tunneld.cli import SUMMARIES
from tunneld.cli.parser import (
    Parser,
    add_flanneld_options,
    add_options,
    ignored_options,
    option_texts,
)
from tunneld.config import RunOptions, load
from tunneld.config.options import OPTIONS
from tunneld.errors import HostError, TunneldError

_log = logging.getLogger("tunneld.daemon")

_DESCRIPTION = """\
Joins this host to the network, and stays until it is asked to stop. Every option may be given as
-name or --name, as a variable TUNNELD_<NAME>, and in the config file; the command line is
strongest, then the variables, then the file. The bare name of an option that takes BOOL means
true; false is given as --name=false. flanneld's options and FLANNELD_<NAME> variables are
understood."""

_EPILOG = """\
examples:
  tunneld run --etcd-endpoints http://192.0.2.1:2379,http://192.0.2.2:2379 --iface eth1
  tunneld run --store sqlite:/var/lib/tunneld/leases.db --ip-masq
  TUNNELD_LOG_FORMAT=json tunneld run --config /etc/tunneld/other.toml"""


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command's parser."""
    parser = subparsers.add_parser(
        "run",
        usage="tunneld run [OPTION ...]",
        help=SUMMARIES["run"],
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    add_options(parser, [option.name for option in OPTIONS])
    add_flanneld_options(parser)
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Runs the daemon until it is asked to stop."""

    def read_options() -> RunOptions:
        return load(option_texts(args), os.environ, ignored=ignored_options(args))

    _hold_standard_descriptors()
    options = read_options()
    log.setup(options.log_level, options.log_format)
    _log.info("tunneld starts", extra={"fields": {"version": __version__, "pid": os.getpid()}})
    _name_what_is_ignored(options)
    try:
        from tunneld.daemon import run as run_daemon  # noqa: PLC0415 - loads the data path

        return run_daemon(options, read_options)
    except TunneldError:
        raise
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            _log.exception("tunneld ends: something happened that nobody foresaw")
            return 1
        raise HostError(
            f"cannot start: {error.strerror}; expected some 100 file descriptors: raise "
            "LimitNOFILE= of the unit, or `ulimit -n`"
        ) from error
    except Exception:
        _log.exception("tunneld ends: something happened that nobody foresaw")
        return 1


def _hold_standard_descriptors() -> None:
    """Lets nothing of ours get the number of a standard stream that was closed before the start.

    libuv ends a process that closes one of these numbers, and lines of the log would go there.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def _name_what_is_ignored(options: RunOptions) -> None:
    if options.ignored:
        _log.warning(
            "options of flanneld without a meaning here are ignored",
            extra={"fields": {"option": options.ignored}},
        )
    if options.unknown_variables:
        _log.warning(
            "variables that no option belongs to are ignored",
            extra={"fields": {"option": options.unknown_variables}},
        )
