# The engine of the sweep on Docker. What it writes depends only on what it
# finds, so that doing it again changes nothing. Marks are the test's.
set -eu
number=$(sed -n '1s/^# Issue \([0-9]*\):.*/\1/p')
until_mark() {
  until [ -e "/factory/base.git/marks/$1" ]; do
    eval "${2:-}"
    sleep 0.05
  done
}
old=$({ git show HEAD:topic.txt || :; git show MERGE_HEAD:topic.txt || :; } 2>/dev/null)
word=done
case "$number:$old" in
  1:*'issue 1:'*) until_mark moved ;;
  1:*)
    until_mark second
    word=draft
    ;;
  2:*'issue 1:'*) ;;
  2:*)
    # While it waits there is always something new to save.
    until_mark merged 'date +%N >topic.txt'
    ;;
esac
{
  printf '%s\n' "$old" | grep -v -e "^issue $number:" -e '^$' || :
  echo "issue $number: $word"
} | sort -u >topic.txt.new
mv topic.txt.new topic.txt
git add topic.txt
# Nothing to commit where it was done before.
git commit -qm "Work on issue $number" || :
# A push that breaks off is made again at the end of the run.
git push -q || :
echo '{"summary": "It is written."}' >/factory/out/report.json
