-- A program can't find its object, or somebody guesses: which lookups of keys and names failed, and by whom?
SELECT
  host, ipc_ns, container, comm, pid, op, coalesce(object_key, object_name) AS key_or_name, error,
  count(*) AS lookups, min(time) AS first, max(time) AS last
FROM calls
WHERE op IN ('shmget', 'semget', 'msgget', 'mq_open') AND error IS NOT NULL
GROUP BY host, ipc_ns, ipc_ns_gen, container, comm, pid, start_boot_ns, op, key_or_name, error
ORDER BY lookups DESC, first
