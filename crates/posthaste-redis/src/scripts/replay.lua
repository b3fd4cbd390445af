-- Sends a dead letter to the private channel of its group.
-- KEYS letters, private | ARGV id, group
-- -1: no letter, -2: no group
local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not entry then return -1 end
if not find(KEYS[2], ARGV[2]) then return -2 end
local fields = {}
for i = 1, #entry[2], 2 do
  if string.sub(entry[2][i], 1, 6) ~= 'ph-dl-' then
    fields[#fields + 1] = entry[2][i]
    fields[#fields + 1] = entry[2][i + 1]
  end
end
redis.call('XADD', KEYS[2], '*', unpack(fields))
redis.call('XDEL', KEYS[1], ARGV[1])
return 0
