-- What several scripts share. It stands before each of them.
local function map(flat)
  local m = {}
  for i = 1, #flat, 2 do m[flat[i]] = flat[i + 1] end
  return m
end
local function time()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function less(a, b)
  local am, as = string.match(a, '(%d+)-(%d+)')
  local bm, bs = string.match(b, '(%d+)-(%d+)')
  am, as, bm, bs = tonumber(am), tonumber(as), tonumber(bm), tonumber(bs)
  return am < bm or (am == bm and as < bs)
end
-- The group of that name on a stream; nothing if there is none.
local function find(key, name)
  if redis.call('EXISTS', key) == 0 then return nil end
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    local g = map(flat)
    if g['name'] == name then return g end
  end
  return nil
end
-- How many entries the group has not read, and whether that is exact.
local function unread(key, g)
  if g['lag'] and redis.call('XLEN', key) >= g['lag'] then return g['lag'], 1 end
  local rest = redis.call('XRANGE', key, '(' .. g['last-delivered-id'], '+', 'COUNT', 10001)
  return #rest, #rest <= 10000 and 1 or 0
end
-- Makes a group; it has read what is before `start`.
local function group(key, name, start)
  local args = {'CREATE', key, name, start, 'MKSTREAM'}
  if redis.call('EXISTS', key) == 1 and (start == '$' or start == '0') then
    local s = map(redis.call('XINFO', 'STREAM', key))
    local read = s['entries-added']
    if start == '0' then read = read - s['length'] end
    args[#args + 1] = 'ENTRIESREAD'
    args[#args + 1] = read
  end
  redis.call('XGROUP', unpack(args))
end
-- Whether the delivery is still that of the member.
local function ours(key, name, member, id, count)
  local p = redis.call('XPENDING', key, name, id, id, 1, member)
  return #p == 1 and p[1][4] == tonumber(count)
end
-- Whether the member may read this: its own lane, or what is nobody's own.
local function reads(lanes, lane, member)
  return lane == '' or redis.call('HGET', lanes, lane) == member
end
