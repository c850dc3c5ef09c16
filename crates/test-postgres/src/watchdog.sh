# Stands beside a cluster and removes it when nobody has used it for a while, however its users ended.
# Arguments: the cluster's home, and for how many seconds it may be idle.
# Standard input is the lock that says that the home has a watchdog. It is held by being open: no child gets it, since
# one would keep it for a while after this process was killed.
# Standard output is the home's lease. Whoever uses the cluster holds a shared lock on it.
home=$1
idle_seconds_max=$2

# What interrupts the tests, by key or by closing the terminal, must not interrupt the cleaning up after them.
trap '' HUP INT TERM

processes() {
    for process in /proc/[0-9]*; do
        [ "$process/cwd" -ef "$home/data" ] && echo "${process#/proc/}"
    done
}

wait_until_idle() {
    idle_seconds=0
    flock -x 1 </dev/null || exit 1
    while [ "$idle_seconds" -lt "$idle_seconds_max" ]; do
        flock -u 1 </dev/null
        sleep 1 </dev/null >/dev/null
        if flock -n -x 1 </dev/null; then
            idle_seconds=$((idle_seconds + 1))
        else
            idle_seconds=0
            flock -x 1 </dev/null || exit 1
        fi
    done
}

# Immediate shutdown: the server ends without a checkpoint, but gives its shared memory back. What was paused must go on
# to hear it. What does not hear it is killed.
end_server() {
    postmaster=$(head -n 1 "$home/data/postmaster.pid" </dev/null)
    if [ -n "$postmaster" ] && [ "/proc/$postmaster/cwd" -ef "$home/data" ]; then
        kill -QUIT "$postmaster"
    fi
    signal=CONT
    for round in $(seq 150); do
        running=$(processes)
        [ -z "$running" ] && return
        [ "$round" -ge 100 ] && signal=KILL
        kill -"$signal" $running
        sleep 0.1 </dev/null >/dev/null
    done
}

# The exclusive lock is held from here to the end: nobody can join any more, and who waits to will find no home.
# The home goes in one step, so that nobody meets half of one.
wait_until_idle
end_server
mv "$home" "$home.gone"
rm -rf "$home.gone"
