-- Removes what every group has settled, but not what is younger than `keep`; what is older than the
-- topic keeps, whoever has read it; and what members and groups have left that died.
-- KEYS record, streams... | ARGV begin of the keys of groups, keep, most age or '', idle
-- how many entries were removed
local now, removed = time(), 0
for i = 2, #KEYS do
  local key = KEYS[i]
  if redis.call('EXISTS', key) == 1 then
    local floor, groups = nil, redis.call('XINFO', 'GROUPS', key)
    for _, flat in ipairs(groups) do
      local g = map(flat)
      local name, members = g['name'], ARGV[1] .. g['name'] .. ':m'
      local orphan = string.sub(name, 1, 1) == '~' and redis.call('ZCOUNT', members, now, '+inf') == 0
      if orphan then
        redis.call('XGROUP', 'DESTROY', key, name)
        for _, role in ipairs({'r', 'z', 'h', 'm'}) do redis.call('DEL', ARGV[1] .. name .. ':' .. role) end
      else
        local safe = g['last-delivered-id']
        if g['pending'] > 0 then
          local first = redis.call('XPENDING', key, name)[2]
          if less(first, safe) then safe = first end
        else
          -- All that was read is settled: the last one may go too.
          local ms, number = string.match(safe, '(%d+)-(%d+)')
          safe = ms .. '-' .. string.format('%.0f', tonumber(number) + 1)
        end
        if not floor or less(safe, floor) then floor = safe end
        for _, c in ipairs(redis.call('XINFO', 'CONSUMERS', key, name)) do
          local m = map(c)
          local gone = m['name'] ~= '~free' and m['pending'] == 0 and m['idle'] > tonumber(ARGV[4])
          if gone and not redis.call('ZSCORE', members, m['name']) then
            redis.call('XGROUP', 'DELCONSUMER', key, name, m['name'])
          end
        end
      end
    end
    local young = string.format('%.0f-0', math.max(now - tonumber(ARGV[2]), 0))
    if floor and less(young, floor) then floor = young end
    if floor then removed = removed + redis.call('XTRIM', key, 'MINID', '~', floor) end
    if ARGV[3] ~= '' then
      local old = string.format('%.0f-0', math.max(now - tonumber(ARGV[3]), 0))
      local gone = redis.call('XRANGE', key, '-', '(' .. old, 'COUNT', 1000)
      if #gone > 0 then
        for _, flat in ipairs(redis.call('XINFO', 'GROUPS', key)) do
          local g, lost = map(flat), 0
          for _, e in ipairs(gone) do
            if less(g['last-delivered-id'], e[1]) then lost = lost + 1 end
          end
          if lost > 0 then redis.call('HINCRBY', KEYS[1], 'lost:' .. g['name'], lost) end
        end
        local last = gone[#gone][1]
        for _, e in ipairs(gone) do redis.call('XDEL', key, e[1]) end
        removed = removed + #gone
      end
    end
  end
end
return removed
