"""A process that takes a lock on several Redis servers by pottery, as services in Python do.

`main.py SERVERS NAME TTL_MS` reads commands by the line: `lock` tries once, and says "held" or
"taken"; `unlock` says "released" or "lost". It ends with its input. Of the NAME `redlock:` goes
before it by itself.
"""

import sys

from pottery import Redlock
from pottery.exceptions import PotteryError
from redis import Redis

servers, name, ttl = sys.argv[1:]
masters = set()
for server in servers.split(","):
    host, port = server.split(":")
    masters.add(Redis(host=host, port=int(port), socket_timeout=5))
lock = Redlock(key=name, masters=masters, auto_release_time=int(ttl) / 1000)
for command in sys.stdin:
    if command == "lock\n":
        taken = lock.acquire(blocking=False)
        print("held" if taken else "taken", flush=True)
    elif command == "unlock\n":
        try:
            lock.release()
            print("released", flush=True)
        except PotteryError:
            print("lost", flush=True)
    else:
        raise ValueError(command)
