-- Removes a dead letter.
-- KEYS letters | ARGV id
-- -1: no letter
return redis.call('XDEL', KEYS[1], ARGV[1]) == 1 and 0 or -1
