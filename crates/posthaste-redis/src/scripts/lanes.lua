-- Divides the lanes of an ordered topic. A member gives up only what it has too much, and takes only
-- what is free, so that one that comes or goes moves no more than its share.
-- KEYS members, lanes | ARGV member, how many lanes
-- which are ours, and which of them are to be given up
local me, n = ARGV[1], tonumber(ARGV[2])
local members, counts, alive = redis.call('ZRANGE', KEYS[1], 0, -1), {}, {}
for _, m in ipairs(members) do
  counts[m] = 0
  alive[m] = true
end
local owners = map(redis.call('HGETALL', KEYS[2]))
local mine, free = {}, {}
for lane = 0, n - 1 do
  local owner = owners[tostring(lane)]
  if owner and not alive[owner] then
    redis.call('HDEL', KEYS[2], lane)
    owner = nil
  end
  if owner then counts[owner] = counts[owner] + 1 end
  if owner == me then mine[#mine + 1] = lane end
  if not owner then free[#free + 1] = lane end
end
table.sort(members, function(a, b)
  if counts[a] ~= counts[b] then return counts[a] > counts[b] end
  return a < b
end)
-- Who has more already keeps the odd ones.
local share, odd = math.floor(n / math.max(#members, 1)), n % math.max(#members, 1)
for at, m in ipairs(members) do
  if m == me and at <= odd then share = share + 1 end
end
for _, lane in ipairs(free) do
  if #mine >= share then break end
  redis.call('HSET', KEYS[2], lane, me)
  mine[#mine + 1] = lane
end
local going = {}
for at = share + 1, #mine do going[#going + 1] = mine[at] end
return {mine, going}
