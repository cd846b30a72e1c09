"""moto's S3 on loopback as a process: `python s3_server.py PORT`. Objects of buckets named `faulty*` arrive badly.

Of every eight GETs of a shard there, one gets 503, one ends after half of the body, one has a byte changed.
"""

import itertools
import sys

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

application = DomainDispatcherApplication(create_backend_app)
requests = itertools.count()


def faulty(environ, start_response):
    path = environ["PATH_INFO"]
    if environ["REQUEST_METHOD"] != "GET" or not path.startswith("/faulty") or not path.endswith(".mds"):
        return application(environ, start_response)
    turn = next(requests) % 8
    if turn == 1:
        start_response("503 Slow Down", [("Content-Length", "0")])
        return []
    body = b"".join(application(environ, start_response))
    if turn == 3:
        return [body[: len(body) // 2]]
    return [body[:-1] + bytes([body[-1] ^ 1])] if turn == 6 and body else [body]


if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), faulty, threaded=True)
