-- A member goes. A group without a name goes with it.
-- KEYS record, members, lanes, waiting, waiting entries, private, streams... | ARGV group, member
local name, member = ARGV[1], ARGV[2]
local passing = string.sub(name, 1, 1) == '~'
if redis.call('ZREM', KEYS[2], member) == 1 and redis.call('EXISTS', KEYS[1]) == 1 and not passing then
  redis.call('HSET', KEYS[1], 'seen:' .. name, time())
end
local owners = redis.call('HGETALL', KEYS[3])
for i = 1, #owners, 2 do
  if owners[i + 1] == member then redis.call('HDEL', KEYS[3], owners[i]) end
end
for i = 6, #KEYS do
  if passing then
    redis.pcall('XGROUP', 'DESTROY', KEYS[i], name)
  else
    -- One that holds something is deleted later: its deliveries would go with it.
    local held = redis.pcall('XPENDING', KEYS[i], name, '-', '+', 1, member)
    if not held.err and #held == 0 then redis.pcall('XGROUP', 'DELCONSUMER', KEYS[i], name, member) end
  end
end
if passing then redis.call('DEL', KEYS[2], KEYS[4], KEYS[5], KEYS[6]) end
return 1
