-- Requests of wrk: recommendations with random histories, or events with unique keys; prints a summary as a line of JSON.

local route = os.getenv("SEGUE_ROUTE")
local items = tonumber(os.getenv("SEGUE_ITEMS"))
local length = tonumber(os.getenv("SEGUE_HISTORY"))
local first = tonumber(os.getenv("SEGUE_FIRST_USER") or 0)
local last = tonumber(os.getenv("SEGUE_LAST_USER") or 6039)
local user = os.getenv("SEGUE_USER") or "u%d"
local sent = 0

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"

function init()
  math.randomseed(os.time())
  start = os.time() .. "-" .. math.random(1, 1000000000)
end

local function item()
  return '"i' .. math.random(0, items - 1) .. '"'
end

local function event()
  sent = sent + 1
  return '{"user":"' .. string.format(user, math.random(first, last)) .. '","item":' .. item() .. ',"key":"' .. start .. "-" .. sent .. '"}'
end

function request()
  local body
  if route == "healthz" then return wrk.format("GET", "/healthz") end
  if route == "known" then
    return wrk.format(nil, "/v1/recommend", nil, '{"k":10,"user":"' .. string.format(user, math.random(first, last)) .. '"}')
  end
  if route == "events" then
    body = event()
  elseif route == "events/batch" then
    local events = {}
    for n = 1, 100 do events[n] = event() end
    body = '{"events":[' .. table.concat(events, ",") .. "]}"
  else
    local history = {}
    for n = 1, length do history[n] = item() end
    body = '{"k":10,"history":[' .. table.concat(history, ",") .. "]}"
  end
  return wrk.format(nil, nil, nil, body)
end

function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    '{"per_second":%.3f,"p50_ms":%.4f,"p95_ms":%.4f,"p99_ms":%.4f,"max_ms":%.4f,"requests":%d,"errors":%d}\n',
    summary.requests / summary.duration * 1e6, latency:percentile(50) / 1000, latency:percentile(95) / 1000,
    latency:percentile(99) / 1000, latency.max / 1000, summary.requests, failed))
end
