"""``python -m fl_client.supernode ARGUMENT...``: a ``flower-supernode`` that comes back.

Takes the arguments of ``flower-supernode``. Ends with status 77 when the SuperLink does not admit
the node and with 78 when the SuperNode cannot run as it is configured: starting it again would
change neither.
"""

import signal
import sys
import threading

from fl_client.supernode.keeper import Keeper
from fl_client.supernode.policy import NodeRefused
from fl_protocol.core_dumps import leave_no_core
from fl_protocol.flower import require_supported


def main(arguments: list[str]) -> int:
    """Run until stopped or refused; returns the exit status."""
    require_supported()
    leave_no_core()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        Keeper(arguments, stop).run()
    except NodeRefused as refusal:
        print(f"{refusal.code}: {refusal.sentence}", file=sys.stderr, flush=True)
        return refusal.status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
