-- What the groups of a topic are.
-- KEYS record, streams... | ARGV begin of the keys of groups
-- -1: no topic, else for each group its name, members, idle time or -1, what it pins
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local now, out = time(), {}
local record = redis.call('HGETALL', KEYS[1])
local fields = map(record)
for i = 1, #record, 2 do
  local name = string.match(record[i], '^g:(.+)$')
  if name then
    local base = ARGV[1] .. name
    local alive = redis.call('ZCOUNT', base .. ':m', now, '+inf')
    local seen = tonumber(fields['seen:' .. name] or record[i + 1])
    local last = redis.call('ZREVRANGE', base .. ':m', 0, 0, 'WITHSCORES')
    if last[2] and tonumber(last[2]) > seen then seen = tonumber(last[2]) end
    local pins = redis.call('ZCARD', base .. ':z')
    local private = find(base .. ':r', name)
    if private then pins = pins + redis.call('XLEN', base .. ':r') end
    for k = 2, #KEYS do
      local g = find(KEYS[k], name)
      if g then pins = pins + unread(KEYS[k], g) + g['pending'] end
    end
    out[#out + 1] = {name, alive, alive > 0 and -1 or math.max(now - seen, 0), pins}
  end
end
return out
