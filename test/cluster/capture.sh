#!/usr/bin/env bash
# capture.sh NODE FILE.pcap [clustertool capture flags]: writes what crosses node NODE's interfaces until INT or TERM.
# The line "capturing" on standard output says that it has begun. `clustertool pcapstat` reads the file.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
own_cluster
node=$1 file=$2
shift 2
record capture $$ # down.sh ends it if nobody else did
exec clustertool capture -netns "/run/netns/$NAME-n$node" -o "$file" "$@"
