"""Run by torchrun: the command line, whose second process is killed once, after the run's second checkpoint."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from dreamstill import cli


def die_after_the_second_checkpoint(folder):
    while len(list((folder / "checkpoint").glob("state-*.pt"))) < 2:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if os.environ["GROUP_RANK"] == "1" and not Path(sys.argv[sys.argv.index("--out") + 1]).exists():
        out = Path(sys.argv[sys.argv.index("--out") + 1])
        threading.Thread(target=die_after_the_second_checkpoint, args=(out,), daemon=True).start()
    sys.exit(cli.main(sys.argv[1:]))
