"""``python -m fl_client.warm``: see `fl_client.warm.superexec`."""

import sys

from fl_client.warm.superexec import main
from fl_protocol.codes import AsynclaveError

if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except AsynclaveError as error:
        sys.exit(f"{error.code}: {error.sentence}")
