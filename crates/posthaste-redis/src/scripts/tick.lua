-- A sign of life of a member. Moves what is due, and says what there is to take.
-- KEYS record, members, waiting, waiting entries, private, later, later entries, streams...
-- ARGV group, member, how long it is there, lease, most
-- nothing: no topic or group, else when the next is due or -1, whether there is something to take,
-- how many messages were lost
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
local name, lease, most = ARGV[1], ARGV[4], ARGV[5]
local now = time()
local function move(times, entries, target)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', times, '-inf', now, 'LIMIT', 0, most)) do
    local packed = redis.call('HGET', entries, member)
    if packed then
      local fields = cmsgpack.unpack(packed)
      -- A topic that is gone is not made again by what waited for it.
      redis.call('XADD', fields[1], 'NOMKSTREAM', '*', unpack(fields, 2))
    end
    redis.call('HDEL', entries, member)
    redis.call('ZREM', times, member)
  end
  local first = redis.call('ZRANGE', times, 0, 0, 'WITHSCORES')
  return first[2] and tonumber(first[2])
end
local due = move(KEYS[3], KEYS[4])
local later = move(KEYS[6], KEYS[7])
if later and (not due or later < due) then due = later end
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. now)
local take = 0
for i = 8, #KEYS + 1 do
  local key = KEYS[i] or KEYS[5]
  local free = redis.pcall('XPENDING', key, name, '-', '+', 1, '~free')
  -- The stream or its group is gone.
  if free.err then return false end
  if #free > 0 or #redis.call('XPENDING', key, name, 'IDLE', lease, '-', '+', 1) > 0 then take = 1 end
end
if redis.call('XLEN', KEYS[5]) > redis.call('XPENDING', KEYS[5], name)[1] then take = 1 end
local lost = redis.call('HGET', KEYS[1], 'lost:' .. name)
if lost then redis.call('HDEL', KEYS[1], 'lost:' .. name) end
return {due and due - now or -1, take, tonumber(lost or '0')}
