-- Deletes a group with its private channel. Its dead letters stay.
-- KEYS record, members, lanes, private, waiting, waiting entries, letters, streams... | ARGV group
-- -1: no topic, -2: no group, a list: who is there, else 0
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local name = ARGV[1]
if redis.call('HEXISTS', KEYS[1], 'g:' .. name) == 0 then return -2 end
local alive = redis.call('ZRANGEBYSCORE', KEYS[2], time(), '+inf')
if #alive > 0 then return alive end
for i = 8, #KEYS do redis.pcall('XGROUP', 'DESTROY', KEYS[i], name) end
redis.call('DEL', unpack(KEYS, 2, 6))
for _, field in ipairs({'g:', 'lease:', 'lost:', 'seen:'}) do
  redis.call('HDEL', KEYS[1], field .. name)
end
redis.call('HINCRBY', KEYS[1], 'groups', -1)
-- So that they are found when the topic goes.
if redis.call('EXISTS', KEYS[7]) == 1 then redis.call('HSET', KEYS[1], 'letters:' .. name, 1) end
return 0
