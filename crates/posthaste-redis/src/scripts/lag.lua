-- What a group has to do.
-- KEYS record, private, waiting, later, streams... | ARGV group
-- -1: no topic, -2: no group, else ready, in flight, delayed, milliseconds of the oldest or -1, exact
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local name = ARGV[1]
local ready, flight, exact, oldest = 0, 0, 1, nil
local function older(id)
  local ms = tonumber(string.match(id, '(%d+)-'))
  if not oldest or ms < oldest then oldest = ms end
end
-- The private channel first.
for i = 4, #KEYS do
  local key = i == 4 and KEYS[2] or KEYS[i]
  local g = find(key, name)
  if not g then return -2 end
  local rest, sure = unread(key, g)
  if sure == 0 then exact = 0 end
  local held = g['pending']
  for _, c in ipairs(redis.call('XINFO', 'CONSUMERS', key, name)) do
    local m = map(c)
    if m['name'] == '~free' then
      rest = rest + m['pending']
      held = held - m['pending']
    end
  end
  ready = ready + rest
  flight = flight + held
  if g['pending'] > 0 then older(redis.call('XPENDING', key, name)[2]) end
  local next = redis.call('XRANGE', key, '(' .. g['last-delivered-id'], '+', 'COUNT', 1)
  if next[1] then older(next[1][1]) end
end
local delayed = redis.call('ZCARD', KEYS[3]) + redis.call('ZCARD', KEYS[4])
return {ready, flight, delayed, oldest and math.max(time() - oldest, 0) or -1, exact}
