-- Stores a dead letter, and settles its delivery.
-- KEYS stream, letters | ARGV group, member, id, count, 1 if it is of the private channel, fields...
if not ours(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]) then return 0 end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 6))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
if ARGV[5] == '1' then redis.call('XDEL', KEYS[1], ARGV[3]) end
return 1
