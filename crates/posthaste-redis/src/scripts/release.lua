-- Gives a delivery back, with how often the message was delivered.
-- KEYS stream | ARGV group, member, id, count, deliveries
-- 0: not ours, -1: the entry is gone, and is not pending any more
if not ours(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]) then return 0 end
local given = redis.call('XCLAIM', KEYS[1], ARGV[1], '~free', 0, ARGV[3], 'RETRYCOUNT', ARGV[5], 'JUSTID')
return #given == 1 and 1 or -1
