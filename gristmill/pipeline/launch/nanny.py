"""`python -m gristmill.pipeline.launch.nanny`: torchrun that ends with the exit code of its processes.

torchrun itself ends with 1 whatever they ended with, so that a scheduler could not tell a wrong recipe (2) from a lost
machine. Options are those of torchrun.
"""

from __future__ import annotations

import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun


def main(arguments: list[str] | None = None) -> int:
    """The exit code of the process that failed first, 128 + N for signal N; the same where a signal ended torchrun."""
    try:
        torchrun(arguments)
    except ChildFailedError as error:
        print(error, file=sys.stderr, flush=True)
        code = error.get_first_failure()[1].exitcode
        return code if code >= 0 else 128 - code
    except SignalException as error:
        return 128 + error.sigval
    return 0


if __name__ == "__main__":
    sys.exit(main())
