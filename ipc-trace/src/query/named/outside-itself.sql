-- A container may be compromised: what did it touch that belongs to another namespace or container, or to the host?
-- param container: its name, or its id
SELECT
  edges.host, edges.comm, edges.pid, edges.object_kind, edges.object_id, edges.object_name, edges.object_ipc_ns,
  edges.is_foreign, edges.owner_container, edges.owner_comm, edges.owner_pid, edges.calls, edges.failed,
  strftime('%Y-%m-%dT%H:%M:%SZ', edges.first_ns / 1000000000, 'unixepoch') AS first
FROM edges
WHERE edges.container = :container
  AND (edges.is_foreign OR edges.owner_pid IS NOT NULL AND edges.owner_container IS NOT :container)
ORDER BY edges.first_ns
