//! Pushes, and other calls to the door.

use crate::attack::{Attack, Wall};

pub const ALL: &[Attack] = &[
    Attack {
        name: "push-main",
        tries: "pushes to the target branch",
        script: r#"e=$(evil); echo "evil $e"; git push origin "$e:refs/heads/main"; git push --force origin "$e:main""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "push-other-run",
        tries: "pushes to another run's branch",
        script: r#"e=$(evil); echo "evil $e"; git push origin "$e:refs/heads/factory/9999-other"
git push --force origin "$e:refs/namespaces/r9999-1/refs/heads/work""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "push-tag",
        tries: "pushes a tag",
        script: r#"e=$(evil); echo "evil $e"; git push origin "$e:refs/tags/v1""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "push-kept",
        tries: "pushes to the refs that the factory keeps for itself",
        script: r#"e=$(evil); echo "evil $e"
for r in refs/keep/run/r9999-1 refs/transcripts/r9999-1 refs/factory/start refs/factory/resume refs/inbox/r9999-1 refs/state; do
  git push --force origin "$e:$r"
done"#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "push-more",
        tries: "pushes another ref beside its own branch",
        script: r#"e=$(evil); echo "evil $e"; git push origin "$e:refs/heads/$(git branch --show-current)" "$e:refs/heads/second"
git push --atomic origin "$e:refs/heads/second" "$e:refs/heads/$(git branch --show-current)""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "rewrite-branch",
        tries: "replaces what it pushed before by another history",
        script: r#"b=refs/heads/$(git branch --show-current)
git commit -q --allow-empty -m First; git push -q origin "HEAD:$b"
e=$(evil "$START"); echo "evil $e"; git push --force origin "$e:$b"; git push origin "+$e:$b""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "foreign-history",
        tries: "pushes a history that does not come from where it began",
        script: r#"e=$(git commit-tree -m "evil: $name" 'HEAD^{tree}'); echo "evil $e"
git push --force origin "$e:refs/heads/$(git branch --show-current)""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "delete-branch",
        tries: "deletes its branch",
        script: r#"b=refs/heads/$(git branch --show-current)
git commit -q --allow-empty -m First; git push -q origin "HEAD:$b"
git push origin ":$b"; git push --prune origin 'refs/nothing/*:refs/heads/*'; hold"#,
        wall: Wall::Pushes,
        judge: |s| {
            let there = s.last().refs.contains("/heads/factory/");
            (!there).then(|| "its branch is gone".to_owned())
        },
        no_control: None,
    },
    Attack {
        name: "thousands-of-refs",
        tries: "pushes 2,000 refs at once",
        script: r#"e=$(evil); echo "evil $e"
for i in $(seq 2000); do echo "$e:refs/heads/x/$i"; done | xargs -n 2000 git push -q origin 2>&1 | tail -n 3"#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "tree-with-git",
        tries: "pushes a tree with an entry `.git`, to take over the user's repository",
        script: r#"t=$(printf '100644 blob %s\t.git\n' "$(echo x | git hash-object -w --stdin)" | git mktree)
e=$(evil HEAD "$t"); echo "evil $e"; git push origin "$e:refs/heads/$(git branch --show-current)""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "tree-with-dots",
        tries: "pushes a tree with an entry `..`, to leave the work tree",
        script: r#"t=$(printf '040000 tree %s\t..\n' "$(git rev-parse 'HEAD^{tree}')" | git mktree)
e=$(evil HEAD "$t"); echo "evil $e"; git push origin "$e:refs/heads/$(git branch --show-current)""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "submodule-option",
        tries: "pushes a submodule whose URL is an option of git",
        script: r#"m=$(printf '[submodule "x"]\n\tpath = x\n\turl = -u./run.sh\n' | git hash-object -w --stdin)
t=$(printf '100644 blob %s\t.gitmodules\n' "$m" | git mktree)
e=$(evil HEAD "$t"); echo "evil $e"; git push origin "$e:refs/heads/$(git branch --show-current)""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "submodule-name",
        tries: "pushes a submodule whose name leads out of the repository",
        script: r#"m=$(printf '[submodule "../../hooks"]\n\tpath = x\n\turl = ./x\n' | git hash-object -w --stdin)
t=$(printf '100644 blob %s\t.gitmodules\n' "$m" | git mktree)
e=$(evil HEAD "$t"); echo "evil $e"; git push origin "$e:refs/heads/$(git branch --show-current)""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "linked-gitmodules",
        tries: "pushes `.gitmodules` as a symbolic link",
        script: r#"t=$(printf '120000 blob %s\t.gitmodules\n' "$(printf /etc/passwd | git hash-object -w --stdin)" | git mktree)
e=$(evil HEAD "$t"); echo "evil $e"; git push origin "$e:refs/heads/$(git branch --show-current)""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "twice-in-tree",
        tries: "pushes a tree in which one name stands twice",
        script: r#"b=$(echo x | git hash-object -w --stdin)
x() { printf '100644 a\0'; printf "$(echo "$b" | sed 's/../\\x&/g')"; }
t=$( (x; x) | broken tree)
e=$(evil HEAD "$t"); echo "evil $e"; git push origin "$e:refs/heads/$(git branch --show-current)""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "broken-commit",
        tries: "pushes a commit that git cannot read in full",
        script: r#"e=$(printf 'tree %s\nparent %s\nauthor x\ncommitter y <z> 99999999999999999999 +0000\n\nevil\n' \
  "$(git rev-parse 'HEAD^{tree}')" "$(git rev-parse HEAD)" | broken commit)
echo "evil $e"; git push origin "$e:refs/heads/$(git branch --show-current)""#,
        wall: Wall::Pushes,
        judge: |s| s.landed(),
        no_control: None,
    },
    Attack {
        name: "forge-report",
        tries: "hands in the report of another role",
        script: r#"door POST /factory/v1/report '{"verdict": "approved", "role": "check", "confidence": 1}'
door POST /factory/v1/report '{"summary": "fine", "findings": [], "checks": "green"}'"#,
        wall: Wall::Door,
        judge: |s| s.said("HTTP/1.1 204").then(|| "it was taken".to_owned()),
        no_control: None,
    },
    Attack {
        name: "approve-itself",
        tries: "orders its own approval and merge at the door",
        script: r#"for p in wake approve merge issues/1/approve prs/1/merge retire freeze config; do
  door POST "/factory/v1/$p" '{"issue": 1, "approve": true}'; door PUT "/factory/v1/$p" '{}'
done"#,
        wall: Wall::Door,
        judge: |s| s.said("HTTP/1.1 20").then(|| "it was taken".to_owned()),
        no_control: None,
    },
    Attack {
        name: "push-after-end",
        tries: "tells its end, which is concluded, and pushes more",
        script: r#"git commit -q --allow-empty -m Work; git push -q origin HEAD
door POST /factory/v1/end '{"exit": {"code": 0}, "last_output": "", "stderr_tail": "", "report_problem": null, "push_problem": null}'
e=$(evil); echo "evil $e"; git push origin "$e:refs/heads/$(git branch --show-current)""#,
        wall: Wall::Pushes,
        judge: |s| s.stored("evil: push-after-end"),
        no_control: None,
    },
];
