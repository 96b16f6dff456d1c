-- You see a recording for the first time: who made how many calls, of which kind, with which result?
SELECT
  host, ipc_ns, container, op, error, sum(calls) AS calls, sum(bytes) AS bytes,
  max(duration_max_ns) AS longest_ns
FROM counts
GROUP BY host, ipc_ns, ipc_ns_gen, container, op, error
ORDER BY sum(calls) DESC
