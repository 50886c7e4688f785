"""moto's S3 server, one request after the other, at a free port that it prints.

A store decides a conditional write in one step; moto looks and writes in two, between which another thread may come.
"""

import threading
from collections.abc import Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

moto = DomainDispatcherApplication(create_backend_app)
one_at_a_time = threading.Lock()


def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    with one_at_a_time:
        return list(moto(environ, start_response))


if __name__ == "__main__":
    run_simple("127.0.0.1", 0, answer, threaded=True, request_handler=MotoRequestHandler)
