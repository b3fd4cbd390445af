-- Makes a topic that is not there, and says what is.
-- KEYS record, streams... | ARGV layout, then the record as fields and values
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], unpack(ARGV, 2))
end
if redis.call('HGET', KEYS[1], 'layout') == ARGV[1] then
  for i = 2, #KEYS do
    if redis.call('EXISTS', KEYS[i]) == 0 then
      redis.call('XGROUP', 'CREATE', KEYS[i], '~', '$', 'MKSTREAM')
      redis.call('XGROUP', 'DESTROY', KEYS[i], '~')
    end
  end
end
return redis.call('HGETALL', KEYS[1])
