-- Removes all messages of a topic. What a group has not read is counted as its loss.
-- KEYS record, later, later entries, streams... | ARGV begin of the keys of groups
-- -1: no topic, else how many messages
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local count = redis.call('ZCARD', KEYS[2])
redis.call('DEL', KEYS[2], KEYS[3])
local function lose(name, lost)
  if lost > 0 then redis.call('HINCRBY', KEYS[1], 'lost:' .. name, lost) end
end
for i = 4, #KEYS do
  local key = KEYS[i]
  if redis.call('EXISTS', key) == 1 then
    count = count + redis.call('XLEN', key)
    for _, flat in ipairs(redis.call('XINFO', 'GROUPS', key)) do
      local g = map(flat)
      lose(g['name'], (unread(key, g)))
    end
    redis.call('XTRIM', key, 'MAXLEN', '=', 0)
    local added = map(redis.call('XINFO', 'STREAM', key))['entries-added']
    for _, flat in ipairs(redis.call('XINFO', 'GROUPS', key)) do
      redis.call('XGROUP', 'SETID', key, map(flat)['name'], '$', 'ENTRIESREAD', added)
    end
  end
end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  local name = string.match(field, '^g:(.+)$')
  if name then
    local base = ARGV[1] .. name
    local private = find(base .. ':r', name)
    local waiting = redis.call('ZCARD', base .. ':z')
    if private then waiting = waiting + unread(base .. ':r', private) end
    if private then redis.call('XTRIM', base .. ':r', 'MAXLEN', '=', 0) end
    redis.call('DEL', base .. ':z', base .. ':h')
    lose(name, waiting)
  end
end
return count
