-- Begins leases anew. Says which are not ours any more, by their place.
-- KEYS stream | ARGV group, member, id and count of each
local lost = {}
for i = 3, #ARGV, 2 do
  if ours(KEYS[1], ARGV[1], ARGV[2], ARGV[i], ARGV[i + 1]) then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  else
    lost[#lost + 1] = (i - 3) / 2
  end
end
return lost
