"""Trains a deeply supervised network.

    python -m dks_jax.train --config configs/NAME.py[:METHOD] [--workdir DIR] [--config.FIELD=VALUE ...]

METHOD is dks (every classifier teaches every other one), ds (deep supervision alone), baseline (no branches),
top_down or bottom_up. A run that was stopped resumes when the same command is started again. It may then get
more epochs and later drops of the learning rate, and with --change another rate from there on.

To train on several hosts, start the same command on each of them with one shared workdir, and give
--coordinator, --num_processes and --process_id, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
JAX_PROCESS_ID, or give --distributed.

The exit status is 0 if the run has finished; 1 if another process of the job is gone; 2 for wrong input; 128
and the number of the signal if one stopped the run: 130 after Ctrl-C (SIGINT), 143 after SIGTERM, 138 after
SIGUSR1, 140 after SIGUSR2, 129 after SIGHUP. A first signal saves the run, a second one stops it at once.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dks_jax.runtime import signals

if __name__ == "__main__":
    signals.imports_begin()

from dks_jax.command_line import ConfigParser, report, silence_libraries
from dks_jax.config import Config, find_config
from dks_jax.runtime import compilation, hosts, output
from dks_jax.runtime.errors import InputError
from dks_jax.runtime.signals import Interrupted, StopSignals, handling
from dks_jax.training.loop import train


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status, which the docstring of the module explains."""
    silence_libraries()
    try:
        stop = StopSignals()
        with handling(stop.receive):
            command = parse(sys.argv[1:] if argv is None else argv)
            compilation.enable_cache()
            with hosts.job(command.process, detect=command.distributed):
                train(
                    command.config,
                    command.workdir,
                    stop,
                    config_file=command.config_file,
                    change=command.change,
                    skip_unreadable=command.skip_unreadable,
                )
    except Interrupted as interrupted:
        output.complain(str(interrupted))
        return interrupted.status
    except Exception as error:
        return report(error)
    return 0


class Command(NamedTuple):
    """A parsed command line.

    config_file: value of --config.
    workdir: folder of the run.
    change: whether a run that goes on may do so with another learning rate.
    skip_unreadable: whether the next image takes the place of one that cannot be decoded.
    process, distributed: place of this process in a job; see `process` and `detect` of `hosts.job`.
    """

    config: Config
    config_file: str
    workdir: Path
    change: bool
    skip_unreadable: bool
    process: hosts.ProcessInfo | None
    distributed: bool


def parse(argv: Sequence[str]) -> Command:
    """Parses a command line.

    Raises:
      InputError: a flag or a field of the config is wrong.
    """
    parser = ConfigParser("python -m dks_jax.train", __doc__)
    parser.add_argument(
        "--workdir", metavar="DIR", help="folder of the run; default: runs/<config>-<method>-seed<seed>"
    )
    parser.add_argument(
        "--change",
        action="store_true",
        help="let learning_rate, drop_epochs and drop_factor of the optimizer differ where a run goes on",
    )
    parser.add_argument(
        "--skip_unreadable",
        action="store_true",
        help="take the next image in the place of one that cannot be decoded, and list it",
    )
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0, the same for all")
    parser.add_argument("--num_processes", metavar="N", help="number of processes that train together")
    parser.add_argument("--process_id", metavar="I", help="number of this process, from 0")
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="join the processes that SLURM, Open MPI or a TPU pod has started",
    )
    arguments, config = parser.parse_with_config(argv)
    if arguments.workdir == "":
        raise InputError("`--workdir` must name a folder; got an empty name.")
    name = find_config(arguments.config)[0].stem
    default = Path("runs", f"{name}-{config.method}-seed{config.seed}")
    return Command(
        config,
        arguments.config,
        Path(os.path.expanduser(arguments.workdir)) if arguments.workdir else default,
        arguments.change,
        arguments.skip_unreadable,
        hosts.process_info(arguments.coordinator, arguments.num_processes, arguments.process_id),
        arguments.distributed,
    )


if __name__ == "__main__":
    signals.imports_end()
    status = main()
    hosts.leave(status)
    sys.exit(status)
