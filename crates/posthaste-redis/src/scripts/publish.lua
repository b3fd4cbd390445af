-- Stores a message where more than a plain XADD is needed: once for its id, for later, or on a topic
-- that keeps a number of messages at most.
-- KEYS stream, record, marker, later, later entries
-- ARGV window or '', most or '', due or '', fields and values...
-- nothing: no topic, else the id or '' for later, and whether it is a duplicate
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
local window, most, due = ARGV[1], ARGV[2], ARGV[3]
if window ~= '' then
  local seen = redis.call('GET', KEYS[3])
  if seen then return {seen, 1} end
end
local id = ''
if due ~= '' then
  local member = redis.call('HINCRBY', KEYS[2], 'later', 1)
  redis.call('HSET', KEYS[5], member, cmsgpack.pack({KEYS[1], unpack(ARGV, 4)}))
  redis.call('ZADD', KEYS[4], due, member)
else
  id = redis.call('XADD', KEYS[1], 'NOMKSTREAM', '*', unpack(ARGV, 4))
  if most ~= '' then
    local over = redis.call('XLEN', KEYS[1]) - tonumber(most)
    if over > 0 then
      local gone = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', over)
      for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        local g = map(flat)
        local lost = 0
        for _, e in ipairs(gone) do
          if less(g['last-delivered-id'], e[1]) then lost = lost + 1 end
        end
        if lost > 0 then redis.call('HINCRBY', KEYS[2], 'lost:' .. g['name'], lost) end
      end
      redis.call('XTRIM', KEYS[1], 'MAXLEN', '=', most)
    end
  end
end
if window ~= '' then redis.call('SET', KEYS[3], id, 'PX', window) end
return {id, 0}
