"""What a RayJob of KubeRay runs: a command of ours, ended so that only a failure is tried again.

Called as ``python -m orchestrator.launch.entrypoint ARGUMENTS``. KubeRay makes a whole new cluster for a Ray job that
FAILED, with whatever code. A run that was asked to stop, or whose input is wrong, would come to the same end there: it
ends as STOPPED, which KubeRay shows and leaves alone.
"""

import json
import logging
import os
import subprocess
import sys
import time

from orchestrator.env import SUBMISSION_ENV, setup_logging
from orchestrator.errors import Interrupted, UserError

logger = logging.getLogger(__name__)

_JOB_ENV = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # that is the variable's name, set by Ray for what it submits
_COMES_AGAIN = (UserError.exit_code, Interrupted.exit_code)
_ENDS_WITHIN_S = 60.0


def main() -> None:
    """Run the command as this submission's, and leave with its code unless Ray has ended both before."""
    setup_logging()
    submission = json.loads(os.environ[_JOB_ENV])["metadata"]["job_submission_id"]
    command = [sys.executable, "-m", "orchestrator.cli.main", *sys.argv[1:]]
    code = subprocess.run(command, env={**os.environ, SUBMISSION_ENV: submission}).returncode
    if code in _COMES_AGAIN:
        from orchestrator.launch.ray_jobs import stop_here  # imports Ray, of no use while the command runs

        logger.info("ended with code %d, which would come again: %s ends as STOPPED", code, submission)
        stop_here(submission)
        time.sleep(_ENDS_WITHIN_S)  # Ray's stop ends this process meanwhile
    sys.exit(code)


if __name__ == "__main__":
    main()
