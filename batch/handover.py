"""The last step of a rebuild: the heads of the old generation are closed, then the number of the next one is set.

A worker reads the number when it starts and claims its heads seconds later, so it may come with the old number after
any look at who is running. A closed head cannot be claimed, and its epoch is higher than that of any claim, so no load
and no commit succeeds. A head is closed only as it was when records were folded: what a worker did before is noticed,
and after it a worker can do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from riskflow.state import LEFT_FOR

Heads = Mapping[str, Mapping[str, str]]

CLOSE = f"""
local stored = redis.call('HMGET', KEYS[1], 'position', 'epoch')
if stored[1] ~= ARGV[1] or stored[2] ~= ARGV[2] then return 0 end
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], '{LEFT_FOR}', ARGV[3])
return 1
"""


def close(store: Any, heads: Heads, following: int) -> bool:
    """Closes these heads (key -> the fields that it must have); False, and all open again, when one has changed."""
    script = store.register_script(CLOSE)
    closed: dict[str, Mapping[str, str]] = {}
    for key, head in heads.items():
        if not script([key], [head["position"], head["epoch"], following]):
            reopen(store, closed)
            return False
        closed[key] = head
    return True


def reopen(store: Any, heads: Heads) -> None:
    """Workers may claim these heads again, except those that an earlier rebuild had closed for good."""
    for key, head in heads.items():
        if LEFT_FOR in head:
            store.hset(key, LEFT_FOR, head[LEFT_FOR])
        else:
            store.hdel(key, LEFT_FOR)
