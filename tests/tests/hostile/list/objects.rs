//! What a push brings: objects of others, too much of them, and what a person would trip over.

use crate::attack::{Attack, Wall};

pub const ALL: &[Attack] = &[
    Attack {
        name: "graft-other-run",
        tries: "pushes a merge of another run's commit, which it does not have, by its name",
        script: r#"by="factory worker <worker@factory.invalid> 1700000000 +0000"
e=$(printf 'tree %s\nparent %s\nparent %s\nauthor %s\ncommitter %s\n\nevil\n' "$(git rev-parse 'HEAD^{tree}')" "$START" "$OTHER" "$by" "$by" | broken commit)
# Git is told that it has one parent, so it does not miss the other.
mkdir -p .git/info; echo "$e $START" >.git/info/grafts
echo "evil $e"; git push origin "$e:refs/heads/$(git branch --show-current)"; rm .git/info/grafts"#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "tree-bomb",
        tries: "pushes a tree that holds itself, a million files in a few hundred bytes",
        script: r#"x=$(echo boom | git hash-object -w --stdin); kind='100644 blob'
for d in 1 2 3 4 5 6; do
  x=$(for n in 0 1 2 3 4 5 6 7 8 9; do printf '%s %s\t%s\n' "$kind" "$x" "$n"; done | git mktree); kind='040000 tree'
done
e=$(evil HEAD "$(printf '040000 tree %s\tbomb\n' "$x" | with)"); echo "evil $e"; git push origin "$e:refs/heads/$(git branch --show-current)""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "deep-tree",
        tries: "pushes three hundred directories in each other",
        script: r#"x=$(echo deep | git hash-object -w --stdin); kind='100644 blob'
for d in $(seq 300); do x=$(printf '%s %s\td\n' "$kind" "$x" | git mktree); kind='040000 tree'; done
e=$(evil HEAD "$(printf '040000 tree %s\tbomb\n' "$x" | with)"); echo "evil $e"; git push origin "$e:refs/heads/$(git branch --show-current)""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "pack-bomb",
        tries: "pushes a pack of a few kilobytes, made by hand, that unpacks to more than two gigabytes",
        script: r#"e=$(evil); echo "evil $e"
head -c 1048576 /dev/zero >zeros
git cat-file commit "$e" | perl -MCompress::Zlib -MDigest::SHA=sha1 -e '
  my ($base, $order) = @ARGV; $order .= "\0report-status side-band-64k"; undef $/; my $commit = <STDIN>;
  sub head { my ($kind, $n) = @_; my $c = $kind << 4 | $n & 15; $n >>= 4; my $out = "";
    while ($n) { $out .= chr($c | 128); $c = $n & 127; $n >>= 7 } $out . chr $c }
  sub varint { my $n = shift; my $out = ""; while ($n > 127) { $out .= chr($n & 127 | 128); $n >>= 7 } $out . chr $n }
  my $pack = pack("A4NN", "PACK", 2, 2 + 22) . head(1, length $commit) . compress($commit)
    . head(3, 1 << 20) . compress("\0" x (1 << 20));
  for (1 .. 22) {
    # A hundred times the whole base, and three bytes more.
    my $delta = varint(1 << 20) . varint((100 << 20) + 3) . "\xc0\x10" x 100 . "\x03" . sprintf "%03d", $_;
    $pack .= head(7, length $delta) . pack("H40", $base) . compress($delta);
  }
  printf "%04x%s0000%s", 4 + length $order, $order, $pack . sha1 $pack;
' "$(git hash-object zeros)" "$START $e refs/heads/$(git branch --show-current)" >push; rm zeros
deliver /git/git-receive-pack application/x-git-receive-pack-request push; rm push"#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: Some("a pack that is made by hand goes to the door alone"),
    },
    Attack {
        name: "huge-file",
        tries: "pushes a file of 101 MiB",
        script: r#"truncate -s 101M huge
x=$(git -c core.bigFileThreshold=1m hash-object -w huge); rm huge
e=$(evil HEAD "$(printf '100644 blob %s\thuge\n' "$x" | with)"); echo "evil $e"
git -c core.bigFileThreshold=1m push origin "$e:refs/heads/$(git branch --show-current)""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "forge-author",
        tries: "pushes a commit in a person's name",
        script: r#"e=$(GIT_AUTHOR_NAME=Ann GIT_AUTHOR_EMAIL=ann@example.invalid evil); echo "evil $e"
git push origin "$e:refs/heads/$(git branch --show-current)"
e=$(GIT_COMMITTER_NAME=Ann evil); echo "evil $e"
git push origin "$e:refs/heads/$(git branch --show-current)""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "symlink-out",
        tries: "pushes symbolic links that lead to the user's files, straight and around a corner",
        script: r#"b=refs/heads/$(git branch --show-current)
for to in /etc/passwd ../../secret d/../../secret; do
  e=$(evil HEAD "$(printf '120000 blob %s\tlink\n' "$(printf %s "$to" | git hash-object -w --stdin)" | with)")
  echo "evil $e"; git push origin "$e:$b"
done"#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "symlink-into-git",
        tries: "pushes a symbolic link to the hooks of whoever checks it out",
        script: r#"b=refs/heads/$(git branch --show-current)
for to in .git/hooks .GIT/hooks; do
  e=$(evil HEAD "$(printf '120000 blob %s\tlink\n' "$(printf %s "$to" | git hash-object -w --stdin)" | with)")
  echo "evil $e"; git push origin "$e:$b"
done"#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "submodule-url",
        tries: "pushes a submodule, which whoever checks it out fetches from elsewhere",
        script: r#"m=$(printf '[submodule "x"]\n\tpath = x\n\turl = https://example.invalid/x\n' | git hash-object -w --stdin)
t=$(printf '100644 blob %s\t.gitmodules\n160000 commit %s\tx\n' "$m" "$START" | with)
e=$(evil HEAD "$t"); echo "evil $e"; git push origin "$e:refs/heads/$(git branch --show-current)""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "push-secret",
        tries: "pushes a file with a token",
        script: r#"x=$(echo "token: ghp_""$(printf 'aB3dE6gH9jK2%.0s' 1 2 3)" | git hash-object -w --stdin)
e=$(evil HEAD "$(printf '100644 blob %s\tnotes\n' "$x" | with)"); echo "evil $e"
git push origin "$e:refs/heads/$(git branch --show-current)""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "hide-secret-in-history",
        tries: "pushes a token in one commit, and takes it away in the next",
        script: r#"x=$(echo "token: ghp_""$(printf 'aB3dE6gH9jK2%.0s' 1 2 3)" | git hash-object -w --stdin)
first=$(evil HEAD "$(printf '100644 blob %s\tnotes\n' "$x" | with)")
e=$(evil "$first" 'HEAD^{tree}'); echo "evil $e"
git push origin "$e:refs/heads/$(git branch --show-current)""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "break-prohibition",
        tries: "pushes what a prohibition of the target forbids",
        script: r#"x=$(echo "FORBIDDEN-WORD" | git hash-object -w --stdin)
e=$(evil HEAD "$(printf '100644 blob %s\tnotes\n' "$x" | with)"); echo "evil $e"
git push origin "$e:refs/heads/$(git branch --show-current)"
t=$(git ls-tree HEAD | grep -v prohibitions | git mktree)
e=$(evil HEAD "$t"); echo "evil $e"; git push origin "$e:refs/heads/$(git branch --show-current)""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
];
