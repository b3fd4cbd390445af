-- Takes what a former owner of a lane has left unsettled, in its order, from `after` on.
-- KEYS stream, lanes | ARGV group, member, after, most, 1 if it is settled by that, lane
-- the entries (id, count of deliveries, fields), how many are no more there, the last id or ''
local name, member, after, most, settled = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
if not reads(KEYS[2], ARGV[6], member) then return {{}, 0, ''} end
local pending = redis.call('XPENDING', KEYS[1], name, after, '+', most)
if #pending == 0 then return {{}, 0, ''} end
local ids, counts, got = {}, {}, {}
for j, p in ipairs(pending) do
  ids[j] = p[1]
  counts[p[1]] = p[4] + 1
end
for _, e in ipairs(redis.call('XCLAIM', KEYS[1], name, member, 0, unpack(ids))) do
  got[#got + 1] = {e[1], counts[e[1]], e[2]}
  if settled then redis.call('XACK', KEYS[1], name, e[1]) end
end
return {got, #ids - #got, ids[#ids]}
