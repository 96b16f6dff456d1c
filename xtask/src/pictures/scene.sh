# A shop: its database has a shared segment in the namespace of the host. A worker that was given a namespace of its
# own still asks for that segment.
set -e
echo shop > /proc/sys/kernel/hostname
cat > /tmp/shop <<'SHOP'
ipcmk -M 65536 > /dev/null
key=$(ipcs -m | while read -r key rest; do case $key in 0x*) echo "$key" ;; esac; done)
unshare --ipc /bin/sh /tmp/worker "$key"
ipcrm -M "$key"
SHOP
cat > /tmp/worker <<'WORKER'
ipcmk -Q > /dev/null
ipcrm -M "$1" 2> /dev/null || true
WORKER

echo picture live
ipc-trace live --color always --only-command -- /bin/sh /tmp/shop

echo picture report
ipc-trace report --color always --only-command -- /bin/sh /tmp/shop

ipcmk -M 1048576 -S 8 > /dev/null
unshare --ipc /bin/sh -c 'ipcmk -Q > /dev/null; ipcmk -M 4096 > /dev/null; exec sleep 60' &
sleep 2
echo picture ls
ipc-trace ls --color always
echo picture end
