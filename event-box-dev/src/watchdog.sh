# Ends the server of directory $1 and removes the directory once standard input closes.
trap '' HUP INT TERM
dir=$1
read -r _

# postmaster.pid may outlive the server, and its number may be another process's by now: the arguments tell. A zombie has none.
running() {
    pid=$(head -n 1 "$dir/data/postmaster.pid") || return
    { tr '\0' ' ' < "/proc/$pid/cmdline" || ps -ww -o args= -p "$pid"; } | grep -qF -- "$dir/data"
}

signal=QUIT
tries=0
while running; do
    kill -s $signal "$pid"
    tries=$((tries + 1))
    [ $tries -lt 100 ] || signal=KILL
    sleep 0.1
done

# What the server's children still write may make a try fail.
tries=0
until rm -rf "$dir" || [ $tries -ge 100 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
