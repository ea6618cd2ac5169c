# To be sourced: `foreground COMMAND [ARGUMENT...]` runs a command to its end, returns its status.
# A script that gets SIGTERM meanwhile hands it on, and still waits: a shell that runs a command
# the usual way would end alone, or hear of the signal too late.
foreground() {
    local child status=0
    # Ctrl-C goes to all processes of the terminal, and those in the background must not ignore it.
    env --default-signal=INT,QUIT "$@" &
    child=$!
    trap 'kill -TERM "${child}" 2>/dev/null || true' TERM
    trap : INT
    wait "${child}" || status=$?
    while kill -0 "${child}" 2>/dev/null; do # a signal has ended the wait, not the command
        status=0
        wait "${child}" || status=$?
    done
    trap - INT TERM
    return "${status}"
}
