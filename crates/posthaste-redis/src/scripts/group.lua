-- Makes a group that is not there, and says which lease is in force.
-- KEYS record, private, streams... | ARGV group, create, lease or '', start of each stream
-- -1: no topic, -2: no group, else the lease or 0
local name, create, lease = ARGV[1], ARGV[2] == '1', ARGV[3]
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local passing = string.sub(name, 1, 1) == '~'
local known = redis.call('HEXISTS', KEYS[1], 'g:' .. name) == 1
local first = tonumber(redis.call('HGET', KEYS[1], 'groups') or '0') == 0
for i = 3, #KEYS do
  if not find(KEYS[i], name) then
    if not create then return -2 end
    local start = ARGV[1 + i]
    if start == 'created' then start = first and '0' or '$' end
    -- What came after the stream was made anew must not be skipped.
    if known then start = '0' end
    group(KEYS[i], name, start)
  end
end
if not find(KEYS[2], name) then group(KEYS[2], name, '0') end
if passing then return 0 end
if not known then
  redis.call('HINCRBY', KEYS[1], 'groups', 1)
  redis.call('HSET', KEYS[1], 'g:' .. name, time())
end
if lease ~= '' then redis.call('HSETNX', KEYS[1], 'lease:' .. name, lease) end
return tonumber(redis.call('HGET', KEYS[1], 'lease:' .. name) or '0')
