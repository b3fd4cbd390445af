-- Moves a group without members.
-- KEYS record, members, private, waiting, waiting entries, streams...
-- ARGV group, where each stream is read from or ''
-- -1: no topic, -2: no group, a list: who is there, else 0
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local name = ARGV[1]
if redis.call('HEXISTS', KEYS[1], 'g:' .. name) == 0 then return -2 end
local alive = redis.call('ZRANGEBYSCORE', KEYS[2], time(), '+inf')
if #alive > 0 then return alive end
for i = 6, #KEYS do
  local to = ARGV[i - 4]
  if to ~= '' then
    redis.pcall('XGROUP', 'DESTROY', KEYS[i], name)
    group(KEYS[i], name, to)
  end
end
-- What waits would come besides.
redis.call('DEL', KEYS[3], KEYS[4], KEYS[5])
group(KEYS[3], name, '0')
redis.call('HDEL', KEYS[1], 'lost:' .. name)
return 0
