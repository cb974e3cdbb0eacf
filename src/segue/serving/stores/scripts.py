"""What a store in Redis holds, and the scripts that read and write it.

A script runs alone, and what it wrote goes to the append-only file as one transaction: all of it is kept, or nothing.
Redis refuses a script for want of memory at its first write only, so none ends half-way.

Of Redis's numbers only whole ones below 2^53 are exact in Lua; ``%.0f`` writes them without an exponent.

Keys:

- ``segue:place``: the last place that was given out
- ``segue:events``: stream of all events; the id is ``PLACE-0``, the entry only tells the user
- ``segue:user:USER``: stream of a user's events; the id is ``PLACE-0``, the entry the event and its number among his
- ``segue:keys:USER``: set of the keys of his events
- ``segue:memory:USER``: hash of ``last:MODEL`` and ``data:MODEL``
- ``segue:forgotten``: hash of users and the places of their being forgotten
- ``segue:exposures:EXPERIMENT``: stream; ``segue:shown:USER``: set of ``ID EXPERIMENT``
- ``segue:settings``: hash; ``segue:format``: the format of all this
"""

from __future__ import annotations

__all__ = ["APPEND", "EVENTS", "EXPOSE", "FORGET", "FORMAT", "KEPT", "MEMORIES", "REMEMBER", "SINCE"]

FORMAT = 1

APPEND = """
local place = tonumber(redis.call('GET', 'segue:place') or '0')
local new, first = {}, place
for i = 1, #ARGV, 3 do
    local user, key = ARGV[i], ARGV[i + 1]
    if key == '' or redis.call('SADD', 'segue:keys:' .. user, key) == 1 then
        place = place + 1
        local id, stream = string.format('%.0f-0', place), 'segue:user:' .. user
        redis.call('XADD', stream, id, 'e', ARGV[i + 2], 'n', redis.call('XLEN', stream) + 1)
        redis.call('XADD', 'segue:events', id, 'u', user)
        new[#new + 1] = '1'
    else
        new[#new + 1] = '0'
    end
end
if place > first then redis.call('SET', 'segue:place', string.format('%.0f', place)) end
return table.concat(new)
"""
"""User, key after a ``k`` or nothing, event; of each. Gives ``1`` for each that is new and ``0`` for the others."""

KEPT = """
local most, after, out = ARGV[1], ARGV[2], {}
local function place(entry) return tonumber(string.match(entry[1], '^%d+')) end
for i = 3, #ARGV do
    local stream = 'segue:user:' .. ARGV[i]
    local forgotten = tonumber(redis.call('HGET', 'segue:forgotten', ARGV[i]) or '0')
    local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
    local last, total, events = forgotten, 0, {}
    if newest then
        last = place(newest)
        if last > tonumber(after) then
            local before = redis.call('XREVRANGE', stream, after, '-', 'COUNT', 1)[1]
            total = tonumber(newest[2][4]) - (before and tonumber(before[2][4]) or 0)
            if most ~= '0' then
                local found = redis.call('XREVRANGE', stream, '+', '(' .. after, 'COUNT', most)
                for j = #found, 1, -1 do events[#events + 1] = found[j][2][2] end
            end
        end
    end
    out[#out + 1] = {'[' .. table.concat(events, ',') .. ']', total, last, forgotten}
end
return out
"""
"""Most, after, users. Gives of each his events as a JSON list, how many there are, the newest place, and that of his
being forgotten."""

SINCE = """
local found = redis.call('XRANGE', 'segue:user:' .. ARGV[1], '(' .. ARGV[2], '+', 'COUNT', ARGV[3])
local events = {}
for i, entry in ipairs(found) do events[i] = entry[2][2] end
return {'[' .. table.concat(events, ',') .. ']', #found > 0 and string.match(found[#found][1], '^%d+') or ARGV[2]}
"""
"""User, place, most."""

EVENTS = """
local out = {}
for i, entry in ipairs(redis.call('XRANGE', 'segue:events', '(' .. ARGV[1], '+', 'COUNT', ARGV[2])) do
    local event = redis.call('XRANGE', 'segue:user:' .. entry[2][2], entry[1], entry[1])[1]
    out[i] = {string.match(entry[1], '^%d+'), entry[2][2], event[2][2]}
end
return out
"""
"""Place, most. Gives place, user and event of each."""

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

FORGET = """
local user = ARGV[1]
local stream, shown = 'segue:user:' .. user, 'segue:shown:' .. user
local count, from = redis.call('XLEN', stream), '-'
while true do
    local found, ids = redis.call('XRANGE', stream, from, '+', 'COUNT', 1000), {}
    if #found == 0 then break end
    for i, entry in ipairs(found) do ids[i] = entry[1] end
    redis.call('XDEL', 'segue:events', unpack(ids))
    from = '(' .. ids[#ids]
end
for _, member in ipairs(redis.call('SMEMBERS', shown)) do
    local id, experiment = string.match(member, '^(%S+) (.*)$')
    redis.call('XDEL', 'segue:exposures:' .. experiment, id)
end
redis.call('DEL', stream, shown, 'segue:keys:' .. user, 'segue:memory:' .. user)
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
