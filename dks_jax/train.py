"""Trains a deeply-supervised network.

    python -m dks_jax.train --config configs/NAME.py[:METHOD] [--workdir DIR] [--config.FIELD=VALUE ...]

METHOD is dks (every classifier teaches every other one), ds (deep supervision alone), baseline (no
branch), top_down or bottom_up. A run that was stopped goes on when it is started again in its workdir.

Several hosts: the same command on each, with --coordinator, --num_processes and --process_id, or these as
JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or --distributed; one workdir for all.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dks_jax import compilation, configuration, hosts
from dks_jax.command_line import ConfigParser, report, silence_libraries
from dks_jax.configuration import Config
from dks_jax.errors import InputError
from dks_jax.loop import train
from dks_jax.signals import Interrupted, StopSignals, handling


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status.

    0: finished, or saved after SIGTERM; 1: another process of the job is gone; 2: the input is wrong; 130:
    after Ctrl-C; 143: stopped at once by a second SIGTERM.
    """
    silence_libraries()
    try:
        stop = StopSignals()
        with handling(stop.receive):
            command = parse(sys.argv[1:] if argv is None else argv)
            compilation.keep_programs()
            with hosts.job(command.place, detect=command.distributed):
                train(command.config, command.workdir, stop)
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        return interrupted.status
    except Exception as error:
        return report(error)
    return 0


class Command(NamedTuple):
    """What a command line asks for.

    place, distributed: as `hosts.job` takes them.
    """

    config: Config
    workdir: Path
    place: hosts.Membership | None
    distributed: bool


def parse(argv: Sequence[str]) -> Command:
    """Reads a command line.

    Raises:
      InputError: a flag or a field of the config is wrong.
    """
    parser = ConfigParser("python -m dks_jax.train", __doc__)
    parser.add_argument("--workdir", metavar="DIR", help="default: runs/<config>-<method>-seed<seed>")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, for several processes")
    parser.add_argument("--num_processes", metavar="N", help="how many processes train together")
    parser.add_argument("--process_id", metavar="I", help="number of this process, from 0")
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="join the processes that SLURM, Open MPI or a TPU pod has started",
    )
    arguments, config = parser.parse_with_config(argv)
    if arguments.workdir == "":
        raise InputError("`--workdir` must name a folder; got an empty name.")
    name = configuration.split_method(arguments.config)[0].stem
    default = Path("runs", f"{name}-{config.method}-seed{config.seed}")
    return Command(
        config,
        Path(os.path.expanduser(arguments.workdir)) if arguments.workdir else default,
        hosts.membership(arguments.coordinator, arguments.num_processes, arguments.process_id),
        arguments.distributed,
    )


if __name__ == "__main__":
    status = main()
    hosts.leave(status)
    sys.exit(status)
