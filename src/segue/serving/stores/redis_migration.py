"""Conversion of Redis stores of format 2.

Format 2 had plain ids in its streams (``segue:events``, ``segue:exposures:EXPERIMENT``) and in its hash of deleted
users (``segue:deleted``). The streams are copied in small steps, between which the server responds to others. One
script then deletes the old keys and changes the format. An interrupted conversion continues with the next entry.
Services of format 2 must not run at the same time; they fail afterwards, as ``segue:sequence`` is no longer a string.
"""

from __future__ import annotations

import time
from typing import Any

from segue.serving.stores.deletion_markers import create_deletion_marker
from segue.serving.stores.redis_scripts import USER_NUMBER

__all__ = ["PREVIOUS_FORMAT", "convert_store"]

PREVIOUS_FORMAT = 2
PAGE_SIZE = 1_000

COPY_EVENTS = (
    USER_NUMBER
    + """
local last = redis.call('XREVRANGE', 'segue:log', '+', '-', 'COUNT', 1)[1]
local entries = redis.call('XRANGE', 'segue:events', last and '(' .. last[1] or '-', '+', 'COUNT', ARGV[1])
for _, entry in ipairs(entries) do
    redis.call('XADD', 'segue:log', entry[1], 'u', user_number(entry[2][2]), 'n', entry[2][4])
end
return #entries
"""
)
"""Argument: limit. Returns the number of copied entries."""

COPY_EXPOSURES = (
    USER_NUMBER
    + """
local stream = 'segue:experiment:' .. ARGV[2]
local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
local start = last and '(' .. last[1] or '-'
local entries = redis.call('XRANGE', 'segue:exposures:' .. ARGV[2], start, '+', 'COUNT', ARGV[1])
for _, entry in ipairs(entries) do
    local user = cjson.decode(entry[2][2])[2]
    redis.call('HSET', 'segue:shown:' .. user, entry[1] .. ' ' .. ARGV[2], entry[2][2])
    redis.call('XADD', stream, entry[1], 'u', user_number(user))
end
return #entries
"""
)
"""Arguments: limit, experiment. Returns the number of copied entries."""

FINISH = """
if redis.call('GET', 'segue:format') ~= '2' then return 1 end
local deleted = redis.call('HGETALL', 'segue:deleted')
local is_complete = redis.call('XLEN', 'segue:events') == redis.call('XLEN', 'segue:log')
for i = 1, #deleted, 2 do
    is_complete = is_complete and redis.call('HEXISTS', 'segue:migration', deleted[i]) == 1
end
if not is_complete then
    for _, pattern in ipairs({'segue:experiment:*', 'segue:shown:*'}) do
        for _, key in ipairs(redis.call('KEYS', pattern)) do redis.call('UNLINK', key) end
    end
    redis.call('UNLINK', 'segue:log', 'segue:users', 'segue:numbers')
    return 0
end
for i = 1, #deleted, 2 do
    local marker = redis.call('HGET', 'segue:migration', deleted[i])
    redis.call('HSET', 'segue:deletions', marker, deleted[i + 1] .. ' ' .. ARGV[1])
end
local last = redis.call('GET', 'segue:sequence') or '0'
redis.call('SET', 'segue:last_sequence', last)
redis.call('HSET', 'segue:counters', 'deleted', last)
for _, pattern in ipairs({'segue:exposures:*', 'segue:exposed:*'}) do
    for _, key in ipairs(redis.call('KEYS', pattern)) do redis.call('UNLINK', key) end
end
redis.call('UNLINK', 'segue:events', 'segue:deleted', 'segue:migration', 'segue:sequence')
redis.call('HSET', 'segue:sequence', 'format', 3)
redis.call('SET', 'segue:format', 3)
return 1
"""
"""Argument: time of the deletions, which format 2 did not store. Returns 0 if users were deleted during the conversion,
which must then start again. The hash ``segue:migration`` contains the markers of the deleted users."""


def convert_store(client: Any, key: bytes) -> None:
    """Convert a store of format 2.

    Args:
        client: ``redis.Redis``.
        key: key of the deletion markers.
    """
    copy_events, copy_exposures, finish = map(client.register_script, (COPY_EVENTS, COPY_EXPOSURES, FINISH))
    is_converted = False
    while not is_converted:
        for user in client.hkeys("segue:deleted"):
            client.hset("segue:migration", user, create_deletion_marker(key, user.decode()))
        while copy_events(args=[PAGE_SIZE]):
            pass
        for stream in client.scan_iter("segue:exposures:*", PAGE_SIZE):
            while copy_exposures(args=[PAGE_SIZE, stream.removeprefix(b"segue:exposures:")]):
                pass
        for state in client.scan_iter("segue:state:*", PAGE_SIZE):
            client.unlink(state)  # is computed again when it is needed
        is_converted = bool(finish(args=[int(time.time())]))
