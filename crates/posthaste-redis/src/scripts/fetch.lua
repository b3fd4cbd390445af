-- Reads what is new, of several streams together no more than `most`.
-- KEYS streams... | ARGV group, member, most, 1 if it is settled by that
-- the answer of XREADGROUP, or where each stream has been read up to
local left, out = tonumber(ARGV[3]), {}
for _, key in ipairs(KEYS) do
  if left == 0 then break end
  local args = {'GROUP', ARGV[1], ARGV[2], 'COUNT', left}
  if ARGV[4] == '1' then args[#args + 1] = 'NOACK' end
  args[#args + 1] = 'STREAMS'
  args[#args + 1] = key
  args[#args + 1] = '>'
  local read = redis.call('XREADGROUP', unpack(args))
  if read then
    out[#out + 1] = read[1]
    left = left - #read[1][2]
  end
end
if #out > 0 then return {1, out} end
for i, key in ipairs(KEYS) do
  local g = find(key, ARGV[1])
  if not g then return redis.error_reply('NOGROUP of ' .. key) end
  out[i] = g['last-delivered-id']
end
return {0, out}
