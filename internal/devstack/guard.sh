# Arguments: the workspace, and "remove" or "keep". Standard input is a pipe
# whose other end the owner of the workspace holds: it ends when the owner does.
dir=$1
read -r _

alive() {
	for f in "$dir"/*.pid; do
		[ -f "$f" ] && read -r pid signal started <"$f" && kill -0 "$pid" 2>/dev/null && return 0
	done
	return 1
}

send() { # the signal to send instead of the one in the file, if any
	for f in "$dir"/*.pid; do
		[ -f "$f" ] || continue
		read -r pid signal started <"$f"
		kill -"${1:-$signal}" "$pid" 2>/dev/null
		kill -CONT "$pid" 2>/dev/null # a frozen process would not hear
	done
}

send
i=0
while alive && [ $i -lt 100 ]; do
	sleep 0.05
	i=$((i + 1))
done
alive && send KILL
[ "$2" = keep ] && exec rm -f "$dir"/*.pid
exec rm -rf "$dir"
