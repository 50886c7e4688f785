"""Workers of a Ray on this machine start by a fork of one process that has imported torch and the rest already.

Ray starts a process for each actor and each reader at a time, and each spends 4 to 10 s of a core on imports: half of
a short run on a laptop. Its raylet starts each by a program of Ray's (``setup_worker.py``). In place of that, ours
(``client.py``) asks a server (``server.py``, one for each raylet, started by the first client) for a fork, and stays as
the worker's stand-in until that ends. Where the server cannot start, the worker starts as it always does.

Not used where workers compute on CUDA, which does not survive a fork, nor on a Ray that others started.
"""

import sys
from pathlib import Path

CAN_FORK = sys.platform == "linux"
"""Elsewhere processes cannot be watched through descriptors."""

CLIENT = Path(__file__).with_name("client.py")
"""The program that a raylet starts workers with."""
