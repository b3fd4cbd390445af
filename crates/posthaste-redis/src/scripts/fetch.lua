-- Reads what is new, of several streams together no more than `most`. Of a lane only if it is the
-- member's, and if the member holds all that is pending there: what is not in its hands was given
-- back, or an answer about it was lost, and comes before what is new.
-- KEYS streams..., lanes of each | ARGV group, member, most, 1 if it is settled by that, lane of each
-- or '', how many the member holds of each
-- 1 and the answer of XREADGROUP, or 0 and where each stream has been read up to; 2 and the places of
-- streams where something has to come first
local left, out, n, first = tonumber(ARGV[3]), {}, #KEYS / 2, {}
for i = 1, n do
  local key, lane = KEYS[i], ARGV[4 + i]
  if left > 0 and reads(KEYS[n + i], lane, ARGV[2]) then
    if lane ~= '' and redis.call('XPENDING', key, ARGV[1])[1] > tonumber(ARGV[4 + n + i]) then
      first[#first + 1] = i - 1
    else
      local args = {'GROUP', ARGV[1], ARGV[2], 'COUNT', left}
      if ARGV[4] == '1' then args[#args + 1] = 'NOACK' end
      for _, more in ipairs({'STREAMS', key, '>'}) do args[#args + 1] = more end
      local read = redis.call('XREADGROUP', unpack(args))
      if read then
        out[#out + 1] = read[1]
        left = left - #read[1][2]
      end
    end
  end
end
if #out > 0 then return {1, out} end
if #first > 0 then return {2, first} end
for i = 1, n do
  local g = find(KEYS[i], ARGV[1])
  if not g then return redis.error_reply('NOGROUP of ' .. KEYS[i]) end
  out[i] = g['last-delivered-id']
end
return {0, out}
