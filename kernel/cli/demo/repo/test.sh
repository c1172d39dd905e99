#!/bin/sh
# Exit 0 when duration.sh says what is expected.
set -u
failed=0

expect() {
    said=$(sh duration.sh "$1")
    if [ "$said" = "$2" ]; then
        echo "ok      $1 -> $said"
    else
        echo "FAILED  $1 -> $said, expected $2"
        failed=1
    fi
}

expect 5 "5s"
expect 61 "1m 1s"
expect 3725 "1h 2m 5s"

exit "$failed"
