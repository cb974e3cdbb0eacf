"""Keys and Lua scripts of the Redis store.

A script runs atomically, and its writes go to the append-only file as one transaction. Redis refuses a script for lack
of memory only at its first write, so no script is interrupted halfway.

In Lua only integers below 2^53 are exact; ``%.0f`` formats them without an exponent.

Keys:

- ``segue:sequence``: last sequence number assigned
- ``segue:user:USER``: list of a user's events as JSON: ``[sequence, item, time, action, value, key]``
- ``segue:events``: stream of all events; the id is ``SEQUENCE-0``, the entry holds the user and the 1-based index of
  the event in the user's list
- ``segue:keys:USER``: set of the idempotency keys of a user's events
- ``segue:state:USER``: hash of ``last:MODEL`` and ``data:MODEL``
- ``segue:deleted``: hash of deleted users and the sequence numbers of their deletion
- ``segue:exposures:EXPERIMENT``: stream; ``segue:exposed:USER``: set of ``ID EXPERIMENT``
- ``segue:settings``: hash; ``segue:format``: storage format
"""

from __future__ import annotations

__all__ = [
    "APPEND",
    "DELETE_USER",
    "EVENTS",
    "EVENTS_AFTER",
    "FORMAT",
    "GET_STATES",
    "PRUNE_STATES",
    "PUT_STATES",
    "RECENT_EVENTS",
    "RECORD_EXPOSURES",
]

FORMAT = 2

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

APPEND = """
local sequence = tonumber(redis.call('GET', 'segue:sequence') or '0')
local is_new, first = {}, sequence
for i = 1, #ARGV, 3 do
    local user, key = ARGV[i], ARGV[i + 1]
    if key == '' or redis.call('SADD', 'segue:keys:' .. user, key) == 1 then
        sequence = sequence + 1
        local text = string.format('%.0f', sequence)
        local index = redis.call('RPUSH', 'segue:user:' .. user, '[' .. text .. ',' .. ARGV[i + 2])
        redis.call('XADD', 'segue:events', text .. '-0', 'u', user, 'n', index)
        is_new[#is_new + 1] = '1'
    else
        is_new[#is_new + 1] = '0'
    end
end
if sequence > first then redis.call('SET', 'segue:sequence', string.format('%.0f', sequence)) end
return table.concat(is_new)
"""
"""Arguments per event: user, ``k`` and the key or an empty string, event without ``[sequence,``. Returns ``1`` for each
new event and ``0`` for the others."""

RECENT_EVENTS = (
    _BINARY_SEARCH
    + """
local limit, after, out = tonumber(ARGV[1]), tonumber(ARGV[2]), {}
for i = 3, #ARGV do
    local list = 'segue:user:' .. ARGV[i]
    local deleted = tonumber(redis.call('HGET', 'segue:deleted', ARGV[i]) or '0')
    local start, length = first_after(list, after)
    local events = {}
    if limit > 0 then events = redis.call('LRANGE', list, math.max(start, length - limit), -1) end
    local last = length > 0 and sequence_at(list, -1) or deleted
    out[#out + 1] = {'[' .. table.concat(events, ',') .. ']', length - start, last, deleted}
end
return out
"""
)
"""Arguments: limit, after, users. Returns for each user the events as a JSON list, their number, the last sequence
number and that of the deletion."""

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
for i, entry in ipairs(redis.call('XRANGE', 'segue:events', '(' .. ARGV[1], '+', 'COUNT', ARGV[2])) do
    out[i] = {entry[2][2], redis.call('LINDEX', 'segue:user:' .. entry[2][2], entry[2][4] - 1)}
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

PUT_STATES = """
for i = 1, #ARGV, 4 do
    local key, last, model = 'segue:state:' .. ARGV[i], tonumber(ARGV[i + 2]), ARGV[i + 1]
    local stored = tonumber(redis.call('HGET', key, 'last:' .. model) or '0')
    local deleted = tonumber(redis.call('HGET', 'segue:deleted', ARGV[i]) or '0')
    if last >= stored and last >= deleted then
        redis.call('HSET', key, 'last:' .. model, ARGV[i + 2], 'data:' .. model, ARGV[i + 3])
    end
end
"""
"""Arguments per state: user, model, last sequence number, data."""

PRUNE_STATES = """
local kept, count = {}, 0
for i = 2, ARGV[1] + 1 do kept[ARGV[i]] = true end
for i = ARGV[1] + 2, #ARGV do
    for _, field in ipairs(redis.call('HKEYS', ARGV[i])) do
        local model = string.match(field, '^last:(.*)$')
        if model and not kept[model] then
            count = count + 1
            redis.call('HDEL', ARGV[i], field, 'data:' .. model)
        end
    end
end
return count
"""
"""Arguments: number of models, models, keys of states. Returns the number of states of other models deleted."""

DELETE_USER = """
local user = ARGV[1]
local list, exposed = 'segue:user:' .. user, 'segue:exposed:' .. user
local count = redis.call('LLEN', list)
for start = 0, count - 1, 1000 do
    local ids = {}
    for i, event in ipairs(redis.call('LRANGE', list, start, start + 999)) do
        ids[i] = string.match(event, '^%[(%d+)') .. '-0'
    end
    redis.call('XDEL', 'segue:events', unpack(ids))
end
for _, member in ipairs(redis.call('SMEMBERS', exposed)) do
    local id, experiment = string.match(member, '^(%S+) (.*)$')
    redis.call('XDEL', 'segue:exposures:' .. experiment, id)
end
redis.call('DEL', list, exposed, 'segue:keys:' .. user, 'segue:state:' .. user)
redis.call('HSET', 'segue:deleted', user, redis.call('INCR', 'segue:sequence'))
return count
"""
"""Arguments: user. Returns the number of deleted events."""

RECORD_EXPOSURES = """
for i = 1, #ARGV, 3 do
    local id = redis.call('XADD', 'segue:exposures:' .. ARGV[i], '*', 'e', ARGV[i + 2])
    redis.call('SADD', 'segue:exposed:' .. ARGV[i + 1], id .. ' ' .. ARGV[i])
end
"""
"""Arguments per exposure: experiment, user, exposure."""
