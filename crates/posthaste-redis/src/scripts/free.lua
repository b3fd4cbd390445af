-- Frees a lane of which nothing is held any more.
-- KEYS stream, lanes | ARGV group, member, lane, 1 to free it whatever is held
if ARGV[4] ~= '1' and #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return 0 end
if redis.call('HGET', KEYS[2], ARGV[3]) == ARGV[2] then redis.call('HDEL', KEYS[2], ARGV[3]) end
return 1
