"""A training script that needs no torch, and sessions of the referee with it."""

import sys

from fallline.lab.gate import gate

SCRIPT = """
import random, sys, time
options = dict(word.split("=") for word in sys.argv[1:])
seed, gain = int(options["seed"]), float(options.get("gain", GAIN))
random.seed(seed)
NEXT
noise = random.Random(f"{seed} {gain}") if "own" in options else random
print("val_loss:", 3 + 0.01 * noise.gauss(0, 1) - gain)
"""


def write_script(folder, gain=0.0, then=""):
    """Write train.py, in which `then` is run before the loss is printed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text(SCRIPT.replace("GAIN", str(gain)).replace("NEXT", then))


def command(*options):
    """The command that runs train.py with options such as gain=1."""
    return " ".join([sys.executable, "-S", "train.py", "seed={seed}", *options])


class Referee:
    """Proposals in one session, with seeds that do not change from run to run."""

    def __init__(self, folder, **options):
        self.work, self.session = folder / "work", folder / "session"
        write_script(self.work)
        self.options = options

    def __call__(self, candidate=None, **options):
        first = (
            {} if (self.session / "ledger.jsonl").exists() else {"baseline": command(), "metric": "val_loss", "seed": 1}
        )
        first = {} if options.get("final") else first | self.options
        return gate(**{"candidate": candidate, "session": self.session, "folder": self.work, **first, **options})

    def records(self, kind):
        """The records of a kind in the ledger."""
        from fallline.lab.gate.ledger import Ledger

        return Ledger(self.session).find(kind)
