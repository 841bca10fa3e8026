"""A side of a measurement in a process of its own, so that its peak memory is its own: the side that asks.

The process builds what it measures, then does one thing after another as it is asked to; see serving.py.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from dks_jax.errors import InputError


class Worker:
    """A process that measures.

    Args:
      name: of what it measures, for messages.
      module: run as a program; it calls `serve`.
      options: for the module; they fit into JSON.
      environment: variables to set beside those of this process.
    """

    def __init__(
        self, name: str, module: str, options: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ):
        self.name = name
        settings = {
            # What this process can import the other can too.
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            # Several such processes share an accelerator.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(options)],
            env=dict(os.environ) | settings | dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, request: str) -> Any:
        """The answer to a request.

        Raises:
          InputError: the other process has met one, or it has ended.
        """
        assert self._process.stdin
        assert self._process.stdout
        try:
            print(request, file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            raise InputError(
                f"The process that measures {self.name} has ended with status {status} (-9: it was killed, "
                "as the system does where memory runs out)."
            )
        answer = json.loads(line)
        if "error" in answer:
            raise InputError(f"{self.name}: {answer['error']}")
        return answer["value"]
