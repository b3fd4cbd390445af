-- Deletes a topic with its groups and dead letters.
-- KEYS record, later, later entries, streams... | ARGV begin of the keys of groups
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  local name = string.match(field, '^g:(.+)$') or string.match(field, '^letters:(.+)$')
  if name then
    for _, role in ipairs({'r', 'z', 'h', 'd', 'm', 'l'}) do
      redis.call('DEL', ARGV[1] .. name .. ':' .. role)
    end
  end
end
redis.call('DEL', unpack(KEYS))
return 1
