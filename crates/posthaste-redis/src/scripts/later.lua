-- Lets a message wait for its time, and settles its delivery.
-- KEYS stream, waiting, waiting entries, private
-- ARGV group, member, id, count, delay, deliveries, 1 if it is of the private channel, and where the
-- entry is gone its fields and values
-- 0: not ours, -1: the entry is gone
local name, id = ARGV[1], ARGV[3]
if not ours(KEYS[1], name, ARGV[2], id, ARGV[4]) then return 0 end
local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
local fields, origin = {KEYS[4]}, id
if not entry and #ARGV < 8 then return -1 end
local old = entry and entry[2] or {unpack(ARGV, 8)}
for i = 1, #old, 2 do
  if old[i] == 'o' and ARGV[7] == '1' then
    origin = old[i + 1]
  elseif old[i] ~= 'a' or ARGV[7] ~= '1' then
    fields[#fields + 1] = old[i]
    fields[#fields + 1] = old[i + 1]
  end
end
-- Where it was, and how often it was delivered.
for _, more in ipairs({'o', origin, 'a', ARGV[6]}) do fields[#fields + 1] = more end
local member = KEYS[1] .. '|' .. id
redis.call('HSET', KEYS[3], member, cmsgpack.pack(fields))
redis.call('ZADD', KEYS[2], time() + ARGV[5], member)
redis.call('XACK', KEYS[1], name, id)
if ARGV[7] == '1' then redis.call('XDEL', KEYS[1], id) end
return 1
