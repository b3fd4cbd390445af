-- Gives back what is pending on a lane and is not in the hands of its owner.
-- KEYS stream, lanes | ARGV group, member, lane, most, ids that it holds...
-- how many were given back
if not reads(KEYS[2], ARGV[3], ARGV[2]) then return 0 end
local held, given = {}, 0
for i = 5, #ARGV do held[ARGV[i]] = true end
for _, p in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[4])) do
  if p[2] ~= '~free' and not held[p[1]] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], '~free', 0, p[1], 'RETRYCOUNT', p[4], 'JUSTID')
    given = given + 1
  end
end
return given
