-- Takes what was given back, whose lease has ended, and what is in the private channel.
-- KEYS lanes, streams..., private
-- ARGV group, member, lease, most, 1 if it is settled by that, lane of each stream or ''
-- for each key: the entries (id, count of deliveries, fields), and how many are no more there
local name, member, lease, left, settled = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1'
local out = {}
for i = 2, #KEYS do
  local key, got, lost = KEYS[i], {}, 0
  local function claim(pending)
    if #pending == 0 then return end
    local ids, counts, found = {}, {}, 0
    for j, p in ipairs(pending) do
      ids[j] = p[1]
      counts[p[1]] = p[4] + 1
    end
    for _, e in ipairs(redis.call('XCLAIM', key, name, member, 0, unpack(ids))) do
      found = found + 1
      got[#got + 1] = {e[1], counts[e[1]], e[2]}
    end
    lost = lost + #ids - found
    left = left - found
  end
  local may = reads(KEYS[1], ARGV[4 + i] or '', member)
  if may and left > 0 then claim(redis.call('XPENDING', key, name, '-', '+', left, '~free')) end
  if may and left > 0 then claim(redis.call('XPENDING', key, name, 'IDLE', lease, '-', '+', left)) end
  if left > 0 and i == #KEYS then
    local read = redis.call('XREADGROUP', 'GROUP', name, member, 'COUNT', left, 'STREAMS', key, '>')
    if read then
      for _, e in ipairs(read[1][2]) do got[#got + 1] = {e[1], 1, e[2]} end
      left = left - #read[1][2]
    end
  end
  if settled then
    for _, e in ipairs(got) do
      redis.call('XACK', key, name, e[1])
      if i == #KEYS then redis.call('XDEL', key, e[1]) end
    end
  end
  out[i - 1] = {got, lost}
end
return out
