#!/bin/sh
# Print a number of seconds as hours, minutes and seconds.
set -eu

case ${1:-} in
    '' | *[!0-9]*)
        echo "usage: duration.sh SECONDS" >&2
        exit 2
        ;;
esac

seconds=$1
if [ "$seconds" -gt 3600 ]; then
    printf '%dh %dm %ds\n' $((seconds / 3600)) $((seconds % 3600 / 60)) $((seconds % 60))
elif [ "$seconds" -gt 60 ]; then
    printf '%dm %ds\n' $((seconds / 60)) $((seconds % 60))
else
    printf '%ds\n' "$seconds"
fi
