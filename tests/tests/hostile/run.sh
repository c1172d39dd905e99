#!/bin/bash
# The engine of the hostile suite: carries out the attack that the task names, then does
# an honest piece of work, so that its run ends well. In a control the attack is an argument.
cat >/tmp/brief
name=${1:-$(sed -n '1s/^# Issue [0-9]*: //p' /tmp/brief)}
. attacks/lib.sh
export name
timeout --kill-after=5 60 bash -c '. attacks/lib.sh; . "attacks/$name.sh"' </dev/null 2>&1
echo tried
[ -z "$1" ] || exit 0
git reset -q --hard
mkdir -p done
echo "$name" >"done/$name"
git add done
git commit -qm "Do $name"
git push -q
