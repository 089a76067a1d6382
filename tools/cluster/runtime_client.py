"""Asks the confidential runtime about one call of runc: ``runtime_client.py SOCKET create|delete ARGUMENT ...``.

containerd waits for it at each container, so it imports nothing but a little of the standard library.
"""

import json
import socket
import sys


def main(arguments: list[str]) -> int:
    """Return 0 if runc may go on. Otherwise report the reason as runc would, in its log, from which containerd passes it on."""
    address, command, *given = arguments
    bundle = given[given.index("--bundle") + 1] if "--bundle" in given else ""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(address)
            connection.sendall(json.dumps({"command": command, "id": given[-1], "bundle": bundle}).encode() + b"\n")
            with connection.makefile() as answer:
                refused = json.loads(answer.readline())["refused"]
    except (OSError, ValueError, KeyError) as error:
        refused = f"the confidential runtime does not answer: {error}"
    if not refused:
        return 0
    if "--log" in given:
        with open(given[given.index("--log") + 1], "a") as log:
            log.write(json.dumps({"level": "error", "msg": refused, "time": "1970-01-01T00:00:00Z"}) + "\n")
    print(refused, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
