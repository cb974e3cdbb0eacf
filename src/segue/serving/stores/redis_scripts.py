"""Keys and Lua scripts of the Redis store.

A script runs atomically, and its writes go to the append-only file as one transaction. Redis refuses a script for lack
of memory only at its first write, so no script is interrupted halfway.

In Lua only integers below 2^53 are exact; ``%.0f`` formats them without an exponent.

Keys:

- ``segue:last_sequence``: last sequence number assigned
- ``segue:counters``: hash of the number of ``users`` numbered so far, the sequence number of the last deletion
  (``deleted``) and that of the last one whose user is erased from the server's files (``erased``)
- ``segue:numbers``: hash of users and their numbers; ``segue:users``: hash of numbers and users
- ``segue:user:USER``: list of a user's events as JSON: ``[sequence, item, time, action, value, key]``,
  and the context where an event has one
- ``segue:items``: hash of added items and ``CREATED CONTENT``; ``segue:item_changes``: sorted set of all items that
  were ever added, by the sequence number of their last change, which is counted in ``segue:counters`` (``items``)
- ``segue:log``: stream of all events; the id is ``SEQUENCE-0``, the entry holds the number of the user and the
  1-based index of the event in the user's list
- ``segue:keys:USER``: set of the idempotency keys of a user's events
- ``segue:state:USER``: hash of ``last:MODEL``, the last sequence number and the time of writing, and ``data:MODEL``
- ``segue:deletions``: hash of markers of deleted users; sequence number and time of the deletion
- ``segue:shown:USER``: hash of ``ID EXPERIMENT`` and the exposure as JSON: ``[variant, user, time, items]``
- ``segue:experiment:EXPERIMENT``: stream; the entry holds the number of the user
- ``segue:settings``: hash; ``segue:format``: storage format; ``segue:key``: key of the markers

Redis keeps the bytes of a deleted stream entry until all entries next to it are deleted, too. The streams therefore
contain numbers instead of ids.
"""

from __future__ import annotations

__all__ = [
    "APPEND",
    "DELETE_USER",
    "EVENTS",
    "EVENTS_AFTER",
    "EXPOSURES",
    "FORMAT",
    "GET_STATES",
    "ITEM_CHANGES",
    "PRUNE_STATES",
    "PUT_ITEMS",
    "PUT_STATES",
    "RECENT_EVENTS",
    "RECORD_EXPOSURES",
]

FORMAT = 3

_BINARY_SEARCH = """
local function sequence_at(list, index)
    return tonumber(string.match(redis.call('LINDEX', list, index), '^%[(%d+)'))
end
local function first_after(list, sequence)
    local low, high = 0, redis.call('LLEN', list)
    local length = high
    if sequence == 0 then return 0, length end
    while low < high do
        local middle = math.floor((low + high) / 2)
        if sequence_at(list, middle) > sequence then high = middle else low = middle + 1 end
    end
    return low, length
end
"""
"""Index of the first event after a sequence number in a user's list, and the length of the list."""

USER_NUMBER = """
local function user_number(user)
    local number = redis.call('HGET', 'segue:numbers', user)
    if not number then
        number = string.format('%.0f', redis.call('HINCRBY', 'segue:counters', 'users', 1))
        redis.call('HSET', 'segue:numbers', user, number)
        redis.call('HSET', 'segue:users', number, user)
    end
    return number
end
"""
"""Number of a user, who receives one if needed."""

_DELETION = """
if redis.call('GET', 'segue:key') ~= ARGV[1] then
    return redis.error_reply('REPLACED the data are those of another store')
end
local markers = ARGV[2]
local function deletion(n)
    local text = redis.call('HGET', 'segue:deletions', string.sub(markers, 32 * n - 31, 32 * n))
    if not text then return 0, nil end
    local sequence, time = string.match(text, '^(%d+) (%S+)$')
    return tonumber(sequence), tonumber(time)
end
"""
"""Sequence number and time of the deletion of the n-th user; 0 and nil if there was none.

The first two arguments of the script are the key of the markers and the markers of all users, one after the other."""

APPEND = (
    USER_NUMBER
    + """
local sequence = tonumber(redis.call('GET', 'segue:last_sequence') or '0')
local is_new, first, numbers, call, format = {}, sequence, {}, redis.call, string.format
for i = 1, #ARGV, 3 do
    local user, key = ARGV[i], ARGV[i + 1]
    if key == '' or call('SADD', 'segue:keys:' .. user, key) == 1 then
        sequence = sequence + 1
        numbers[user] = numbers[user] or user_number(user)
        local text = format('%.0f', sequence)
        local index = call('RPUSH', 'segue:user:' .. user, '[' .. text .. ',' .. ARGV[i + 2])
        call('XADD', 'segue:log', text .. '-0', 'u', numbers[user], 'n', index)
        is_new[#is_new + 1] = '1'
    else
        is_new[#is_new + 1] = '0'
    end
end
if sequence > first then redis.call('SET', 'segue:last_sequence', string.format('%.0f', sequence)) end
return table.concat(is_new)
"""
)
"""Arguments per event: user, ``k`` and the key or an empty string, event without ``[sequence,``. Returns ``1`` for each
new event and ``0`` for the others."""

RECENT_EVENTS = (
    _DELETION
    + _BINARY_SEARCH
    + """
local limit, after, out = tonumber(ARGV[3]), tonumber(ARGV[4]), {}
for i = 5, #ARGV do
    local list = 'segue:user:' .. ARGV[i]
    local deleted = deletion(i - 4)
    local start, length = first_after(list, after)
    local events, last = {}, deleted
    if limit > 0 and start < length then
        events = redis.call('LRANGE', list, math.max(start, length - limit), -1)
        last = tonumber(string.match(events[#events], '^%[(%d+)'))
    elseif length > 0 then
        last = sequence_at(list, -1)
    end
    out[#out + 1] = {'[' .. table.concat(events, ',') .. ']', length - start, last, deleted}
end
return out
"""
)
"""Arguments: key, markers, limit, after, users. Returns for each user the events as a JSON list, their number, the last
sequence number and that of the deletion."""

EVENTS_AFTER = (
    _BINARY_SEARCH
    + """
local list = 'segue:user:' .. ARGV[1]
local start = first_after(list, tonumber(ARGV[2]))
return '[' .. table.concat(redis.call('LRANGE', list, start, start + tonumber(ARGV[3]) - 1), ',') .. ']'
"""
)
"""Arguments: user, sequence number, limit (at least 1). Returns the events as a JSON list."""

EVENTS = """
local out = {}
for i, entry in ipairs(redis.call('XRANGE', 'segue:log', '(' .. ARGV[1], '+', 'COUNT', ARGV[2])) do
    local user = redis.call('HGET', 'segue:users', entry[2][2])
    out[i] = {user, redis.call('LINDEX', 'segue:user:' .. user, entry[2][4] - 1)}
end
return out
"""
"""Arguments: sequence number, limit. Returns user and event of each entry."""

GET_STATES = """
local out = {}
for i = 2, #ARGV do
    out[i - 1] = redis.call('HMGET', 'segue:state:' .. ARGV[i], 'last:' .. ARGV[1], 'data:' .. ARGV[1])
end
return out
"""
"""Arguments: model, users."""

PUT_STATES = (
    _DELETION
    + """
for i = 4, #ARGV, 4 do
    local key, model, last = 'segue:state:' .. ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
    local stored = redis.call('HGET', key, 'last:' .. model)
    local deleted = deletion(i / 4)
    if not (stored and last < tonumber(string.match(stored, '^%d+'))) and (deleted == 0 or last > deleted) then
        redis.call('HSET', key, 'last:' .. model, ARGV[i + 2] .. ' ' .. ARGV[3], 'data:' .. model, ARGV[i + 3])
    end
end
"""
)
"""Arguments: key, markers, time; per state: user, model, last sequence number, data."""

PRUNE_STATES = """
local before, count = tonumber(ARGV[1]), 0
for i = 2, #ARGV do
    for _, field in ipairs(redis.call('HKEYS', ARGV[i])) do
        local model = string.match(field, '^last:(.*)$')
        if model and tonumber(string.match(redis.call('HGET', ARGV[i], field), '%S+$')) < before then
            count = count + 1
            redis.call('HDEL', ARGV[i], field, 'data:' .. model)
        end
    end
end
return count
"""
"""Arguments: time, keys of states. Returns the number of deleted states, which were written before that time."""

DELETE_USER = (
    _DELETION
    + """
local user = ARGV[3]
local list, exposed = 'segue:user:' .. user, 'segue:shown:' .. user
local count = redis.call('LLEN', list)
for start = 0, count - 1, 1000 do
    local ids = {}
    for i, event in ipairs(redis.call('LRANGE', list, start, start + 999)) do
        ids[i] = string.match(event, '^%[(%d+)') .. '-0'
    end
    redis.call('XDEL', 'segue:log', unpack(ids))
end
for _, field in ipairs(redis.call('HKEYS', exposed)) do
    local id, experiment = string.match(field, '^(%S+) (.*)$')
    redis.call('XDEL', 'segue:experiment:' .. experiment, id)
end
redis.call('DEL', list, exposed, 'segue:keys:' .. user, 'segue:state:' .. user)
local number = redis.call('HGET', 'segue:numbers', user)
if number then
    redis.call('HDEL', 'segue:numbers', user)
    redis.call('HDEL', 'segue:users', number)
end
local sequence = string.format('%.0f', redis.call('INCR', 'segue:last_sequence'))
redis.call('HSET', 'segue:counters', 'deleted', sequence)
redis.call('HSET', 'segue:deletions', ARGV[2], sequence .. ' ' .. ARGV[4])
return count
"""
)
"""Arguments: key, marker, user, time. Returns the number of deleted events."""

RECORD_EXPOSURES = (
    _DELETION
    + USER_NUMBER
    + """
for i = 4, #ARGV, 4 do
    local experiment, user, time = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
    local _, deletion_time = deletion(i / 4)
    if not deletion_time or time > deletion_time + tonumber(ARGV[3]) then
        local id = redis.call('XADD', 'segue:experiment:' .. experiment, '*', 'u', user_number(user))
        redis.call('HSET', 'segue:shown:' .. user, id .. ' ' .. experiment, ARGV[i + 3])
    end
end
"""
)
"""Arguments: key, markers, clock skew; per exposure: experiment, user, time, exposure."""

EXPOSURES = """
local out = {}
for i, entry in ipairs(redis.call('XRANGE', 'segue:experiment:' .. ARGV[1], ARGV[2], '+', 'COUNT', ARGV[3])) do
    local user = redis.call('HGET', 'segue:users', entry[2][2])
    out[i] = {entry[1], redis.call('HGET', 'segue:shown:' .. user, entry[1] .. ' ' .. ARGV[1])}
end
return out
"""
"""Arguments: experiment, first id, limit. Returns id and exposure of each entry."""

PUT_ITEMS = """
for i = 1, #ARGV, 2 do
    local item, content = ARGV[i], ARGV[i + 1]
    local sequence = string.format('%.0f', redis.call('HINCRBY', 'segue:counters', 'items', 1))
    local stored = redis.call('HGET', 'segue:items', item)
    if content == '' then
        redis.call('HDEL', 'segue:items', item)
    else
        local created = stored and string.match(stored, '^%d+') or sequence
        redis.call('HSET', 'segue:items', item, created .. ' ' .. string.sub(content, 2))
    end
    redis.call('ZADD', 'segue:item_changes', sequence, item)
end
"""
"""Arguments: per item its id, and ``c`` and its content, or nothing to remove it."""

ITEM_CHANGES = """
local out = {}
local start, limit = '(' .. ARGV[1], ARGV[2]
local found = redis.call('ZRANGEBYSCORE', 'segue:item_changes', start, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
for i = 1, #found, 2 do
    local stored = redis.call('HGET', 'segue:items', found[i])
    local created, content = found[i + 1], false
    if stored then
        created, content = string.match(stored, '^(%d+) (.*)$')
    end
    out[#out + 1] = {found[i], found[i + 1], created, content}
end
return out
"""
"""Arguments: sequence number, limit. Returns id, sequence number, that of its creation and content of each item."""
