"""Runs a training and interrupts it right after its first saved state.

    python tests/at_first_save.py ACTION train.py ...

The moment is an event of the run itself, so that it does not depend on how busy the machine is. ACTION is SIGTERM
(to this process, as `kill` does), SIGINT (to its whole process group, as Ctrl-C in a terminal does) or KILL_WORKER
(SIGKILL to its first data loading process).
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.core.cli import call
from utils.core.files import ROOT
from utils.training.resume import TrainState


def interrupt(action: str) -> None:
    if action == "SIGTERM":
        os.kill(os.getpid(), signal.SIGTERM)
    elif action == "SIGINT":
        os.killpg(0, signal.SIGINT)
    else:
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)


if __name__ == "__main__":
    action, script = sys.argv[1], ROOT / sys.argv[2]
    save = TrainState.save

    def save_and_interrupt(self: TrainState, *args: object, **values: object) -> None:
        save(self, *args, **values)
        TrainState.save = save
        interrupt(action)

    TrainState.save = save_and_interrupt
    os.chdir(script.parent)
    call(str(script), *sys.argv[3:])
