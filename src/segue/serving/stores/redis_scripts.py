"""What a store in Redis holds, and the scripts that read and write it.

A script runs alone, and what it wrote goes to the append-only file as one transaction: all of it is kept, or nothing.
Redis refuses a script for want of memory at its first write only, so none ends half-way.

Of Redis's numbers only whole ones below 2^53 are exact in Lua; ``%.0f`` writes them without an exponent.

Keys:

- ``segue:place``: the last place that was given out
- ``segue:user:USER``: list of a user's events in JSON: ``[place, item, time, action, value, key]``
- ``segue:events``: stream of all events; the id is ``PLACE-0``, the entry tells the user and the event's number in his
  list, from 1
- ``segue:keys:USER``: set of the keys of his events
- ``segue:memory:USER``: hash of ``last:MODEL`` and ``data:MODEL``
- ``segue:forgotten``: hash of users and the places of their being forgotten
- ``segue:exposures:EXPERIMENT``: stream; ``segue:shown:USER``: set of ``ID EXPERIMENT``
- ``segue:settings``: hash; ``segue:format``: the format of all this
"""

from __future__ import annotations

__all__ = ["APPEND", "EVENTS", "EXPOSE", "FORGET", "FORMAT", "KEPT", "MEMORIES", "PRUNE", "REMEMBER", "SINCE"]

FORMAT = 1

_SEARCH = """
local function place(list, nr) return tonumber(string.match(redis.call('LINDEX', list, nr), '^%[(%d+)')) end
local function behind(list, after)
    local low, high = 0, redis.call('LLEN', list)
    local length = high
    if after == 0 then return 0, length end
    while low < high do
        local middle = math.floor((low + high) / 2)
        if place(list, middle) > after then high = middle else low = middle + 1 end
    end
    return low, length
end
"""
"""Where in a user's list the events after a place begin, and its length."""

APPEND = """
local place = tonumber(redis.call('GET', 'segue:place') or '0')
local new, first = {}, place
for i = 1, #ARGV, 3 do
    local user, key = ARGV[i], ARGV[i + 1]
    if key == '' or redis.call('SADD', 'segue:keys:' .. user, key) == 1 then
        place = place + 1
        local told = string.format('%.0f', place)
        local nth = redis.call('RPUSH', 'segue:user:' .. user, '[' .. told .. ',' .. ARGV[i + 2])
        redis.call('XADD', 'segue:events', told .. '-0', 'u', user, 'n', nth)
        new[#new + 1] = '1'
    else
        new[#new + 1] = '0'
    end
end
if place > first then redis.call('SET', 'segue:place', string.format('%.0f', place)) end
return table.concat(new)
"""
"""User, key after a ``k`` or nothing, event without ``[place,``; of each. Gives ``1`` for each that is new, ``0`` for
the others."""

KEPT = (
    _SEARCH
    + """
local most, after, out = tonumber(ARGV[1]), tonumber(ARGV[2]), {}
for i = 3, #ARGV do
    local list = 'segue:user:' .. ARGV[i]
    local forgotten = tonumber(redis.call('HGET', 'segue:forgotten', ARGV[i]) or '0')
    local from, length = behind(list, after)
    local events = {}
    if most > 0 then events = redis.call('LRANGE', list, math.max(from, length - most), -1) end
    local last = length > 0 and place(list, -1) or forgotten
    out[#out + 1] = {'[' .. table.concat(events, ',') .. ']', length - from, last, forgotten}
end
return out
"""
)
"""Most, after, users. Gives of each his events as a JSON list, how many there are, the newest place, and that of his
being forgotten."""

SINCE = (
    _SEARCH
    + """
local list = 'segue:user:' .. ARGV[1]
local from = behind(list, tonumber(ARGV[2]))
return '[' .. table.concat(redis.call('LRANGE', list, from, from + tonumber(ARGV[3]) - 1), ',') .. ']'
"""
)
"""User, place, most (at least 1). Gives his events as a JSON list."""

EVENTS = """
local out = {}
for i, entry in ipairs(redis.call('XRANGE', 'segue:events', '(' .. ARGV[1], '+', 'COUNT', ARGV[2])) do
    out[i] = {entry[2][2], redis.call('LINDEX', 'segue:user:' .. entry[2][2], entry[2][4] - 1)}
end
return out
"""
"""Place, most. Gives user and event of each."""

MEMORIES = """
local out = {}
for i = 2, #ARGV do
    out[i - 1] = redis.call('HMGET', 'segue:memory:' .. ARGV[i], 'last:' .. ARGV[1], 'data:' .. ARGV[1])
end
return out
"""
"""Model, users."""

REMEMBER = """
for i = 1, #ARGV, 4 do
    local key, last, model = 'segue:memory:' .. ARGV[i], tonumber(ARGV[i + 2]), ARGV[i + 1]
    local there = tonumber(redis.call('HGET', key, 'last:' .. model) or '0')
    local forgotten = tonumber(redis.call('HGET', 'segue:forgotten', ARGV[i]) or '0')
    if last >= there and last >= forgotten then
        redis.call('HSET', key, 'last:' .. model, ARGV[i + 2], 'data:' .. model, ARGV[i + 3])
    end
end
"""
"""User, model, last, data; of each."""

PRUNE = """
local wanted, count = {}, 0
for i = 2, ARGV[1] + 1 do wanted[ARGV[i]] = true end
for i = ARGV[1] + 2, #ARGV do
    for _, field in ipairs(redis.call('HKEYS', ARGV[i])) do
        local model = string.match(field, '^last:(.*)$')
        if model and not wanted[model] then
            count = count + 1
            redis.call('HDEL', ARGV[i], field, 'data:' .. model)
        end
    end
end
return count
"""
"""How many models, models, keys of memories. Gives how many memories there were of other models."""

FORGET = """
local user = ARGV[1]
local list, shown = 'segue:user:' .. user, 'segue:shown:' .. user
local count = redis.call('LLEN', list)
for from = 0, count - 1, 1000 do
    local ids = {}
    for i, event in ipairs(redis.call('LRANGE', list, from, from + 999)) do
        ids[i] = string.match(event, '^%[(%d+)') .. '-0'
    end
    redis.call('XDEL', 'segue:events', unpack(ids))
end
for _, member in ipairs(redis.call('SMEMBERS', shown)) do
    local id, experiment = string.match(member, '^(%S+) (.*)$')
    redis.call('XDEL', 'segue:exposures:' .. experiment, id)
end
redis.call('DEL', list, shown, 'segue:keys:' .. user, 'segue:memory:' .. user)
redis.call('HSET', 'segue:forgotten', user, redis.call('INCR', 'segue:place'))
return count
"""
"""User. Gives how many events there were."""

EXPOSE = """
for i = 1, #ARGV, 3 do
    local id = redis.call('XADD', 'segue:exposures:' .. ARGV[i], '*', 'e', ARGV[i + 2])
    redis.call('SADD', 'segue:shown:' .. ARGV[i + 1], id .. ' ' .. ARGV[i])
end
"""
"""Experiment, user, exposure; of each."""
