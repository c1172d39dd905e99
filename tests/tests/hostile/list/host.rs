//! Files and processes of the host and of other runs.

use crate::attack::{Attack, Wall};

pub const ALL: &[Attack] = &[
    Attack {
        name: "read-host-file",
        tries: "reads a file of the host by its path",
        script: r#"cat "$HOST/secret" "/proc/self/root$HOST/secret" "/workspace/../$HOST/secret""#,
        wall: Wall::Mounts,
        judge: |s| s.printed(&s.secrets.host),
        no_control: None,
    },
    Attack {
        name: "write-host-file",
        tries: "writes a file of the host",
        script: r#"echo "$name" >"$HOST/drop/$name""#,
        wall: Wall::Mounts,
        judge: |s| s.dropped(),
        no_control: None,
    },
    Attack {
        name: "follow-link",
        tries: "leads git out of the work tree by a symbolic link",
        script: r#"ln -s "$HOST" out && git hash-object -w out/secret | git cat-file --batch
rm -f out"#,
        wall: Wall::Mounts,
        judge: |s| s.printed(&s.secrets.host),
        no_control: None,
    },
    Attack {
        name: "leave-hooks",
        tries: "leaves hooks and commands in its repository for the host's git to run",
        script: r#"sabotage() {
  cp .git/config /tmp/config
  for c in core.fsmonitor core.sshCommand core.editor core.pager diff.external \
    credential.helper gpg.program filter.x.clean filter.x.smudge; do
    git config "$c" "touch '$HOST/drop/$name'; false"
  done
  echo '* filter=x' >.git/info/attributes
  for h in post-checkout pre-push pre-commit post-index-change reference-transaction; do
    printf '#!/bin/sh\ntouch "%s"\n' "$HOST/drop/$name" >".git/hooks/$h"
    chmod +x ".git/hooks/$h"
  done
}
mkdir -p .git/hooks .git/info
sabotage
hold
rm -f .git/hooks/* .git/info/attributes; cp /tmp/config .git/config"#,
        wall: Wall::HostGit,
        judge: |s| s.dropped(),
        no_control: None,
    },
    Attack {
        name: "link-for-removal",
        tries: "has the host remove its files, or open them to all, with its own workspace",
        script: r#"mkdir .git/kept && ln -s "$HOST/kept" .git/kept/folder && ln -s "$HOST/kept/precious" .git/kept/file
ln -s "$HOST/kept" .git/left; chmod 500 .git/kept; hold"#,
        wall: Wall::Removal,
        judge: |s| {
            use std::os::unix::fs::PermissionsExt;
            let precious = std::fs::metadata(s.host.join("kept/precious"));
            let mode = precious.ok().map(|meta| meta.permissions().mode() & 0o777);
            (mode != Some(0o400)).then(|| "the file of the host is gone, or open".to_owned())
        },
        no_control: None,
    },
    Attack {
        name: "borrow-objects",
        tries: "borrows the objects of the user's repository by `alternates`",
        script: r#"mkdir -p /tmp/r && cd /tmp/r && git init -q
echo "$USER_GIT/objects" >.git/objects/info/alternates
git cat-file -p "$STASH:secret.txt"; git cat-file -p "$DELETED:secret.txt""#,
        wall: Wall::Mounts,
        judge: |s| {
            s.printed(&s.secrets.stash)
                .or(s.printed(&s.secrets.deleted))
        },
        no_control: None,
    },
    Attack {
        name: "user-credentials",
        tries: "reads the configuration of the user's repository",
        script: r#"cat "$USER_GIT/config""#,
        wall: Wall::Mounts,
        judge: |s| s.printed(&s.secrets.remote),
        no_control: None,
    },
    Attack {
        name: "user-hook",
        tries: "installs a hook in the user's repository",
        script: r#"mkdir -p "$USER_GIT/hooks"; echo "$name" >"$USER_GIT/hooks/post-$name""#,
        wall: Wall::Mounts,
        judge: |s| {
            let hook = s.user_git.join("hooks/post-user-hook");
            hook.exists()
                .then(|| format!("{} is there", hook.display()))
        },
        no_control: None,
    },
    Attack {
        name: "write-state",
        tries: "writes a ref into the factory's database",
        script: r#"echo "$START" >"$FACTORY/state.git/refs/$name"; ls "$FACTORY/state.git""#,
        wall: Wall::Mounts,
        judge: |s| {
            let there = s.factory.join("state.git/refs/write-state");
            there.exists().then(|| "the ref is there".to_owned())
        },
        no_control: None,
    },
    Attack {
        name: "other-workspace",
        tries: "reads and writes in another run's workspace",
        script: r#"cat "$OTHER_WORKSPACE/secret"; echo "$name" >"$OTHER_WORKSPACE/$name""#,
        wall: Wall::Mounts,
        judge: |s| s.printed(&s.secrets.beside),
        no_control: None,
    },
    Attack {
        name: "rewrite-run",
        tries: "rewrites what its run was told",
        script: r#"cd /run/factory; for f in run.yaml brief.md system.md; do echo "$name" >"$f"; done; hold"#,
        wall: Wall::ReadOnlyRun,
        judge: |s| {
            let mut files = s.last().run_files.iter();
            files
                .find(|(_, text)| text.trim() == "rewrite-run")
                .map(|(file, _)| format!("{file} is rewritten"))
        },
        no_control: None,
    },
    Attack {
        name: "swap-door",
        tries: "puts a socket of its own in place of its door",
        script: r#"cd /run/factory; mv gw.sock old.sock || rm gw.sock; hold"#,
        wall: Wall::ReadOnlyRun,
        judge: |s| {
            let there = s.last().run_files.contains_key("gw.sock");
            (!there).then(|| "the door is gone".to_owned())
        },
        no_control: None,
    },
    Attack {
        name: "become-somebody",
        tries: "gives itself another user in the container's list of users",
        script: r#"echo "root::0:0::/:/bin/sh # $name" >>/etc/passwd; cat /etc/passwd"#,
        wall: Wall::ReadOnlyRun,
        judge: |s| s.printed("# become-somebody"),
        no_control: None,
    },
    Attack {
        name: "plant-object",
        tries: "puts an object into the store that later runs start from",
        script: r#"echo "evil $(echo "$name" | git --git-dir=/factory/base.git hash-object -w --stdin || git hash-object --stdin <<<"$name")""#,
        wall: Wall::ReadOnlyBase,
        judge: |s| {
            let oid = s.said.lines().find_map(|line| line.strip_prefix("evil "))?;
            let found = s.lab.look(&s.base, &["cat-file", "-e", oid], "");
            found.map(|_| format!("{oid} is in base.git"))
        },
        no_control: None,
    },
    Attack {
        name: "move-base",
        tries: "moves the branch that later runs start from",
        script: r#"evil=$(evil); git --git-dir=/factory/base.git update-ref refs/heads/main "$START"
echo "$evil" >/factory/base.git/refs/heads/evil"#,
        wall: Wall::ReadOnlyBase,
        judge: |s| {
            let refs = s.base.join("refs/heads/evil");
            refs.exists().then(|| "the branch is there".to_owned())
        },
        no_control: None,
    },
    Attack {
        name: "poison-base",
        tries: "gives the shared store a configuration, a hook and alternates",
        script: r#"cd /factory/base.git
printf '[core]\n\tfsmonitor = touch %s\n' "$HOST/drop/$name" >>config
mkdir -p hooks objects/info; echo "$USER_GIT/objects" >objects/info/alternates; echo "$name" >hooks/post-update"#,
        wall: Wall::ReadOnlyBase,
        judge: |s| {
            let hook = s.base.join("hooks/post-update");
            hook.exists().then(|| "the hook is there".to_owned())
        },
        no_control: None,
    },
    Attack {
        name: "damage-base",
        tries: "removes and overwrites the packs of the shared store",
        script: r#"cd /factory/base.git/objects && for f in $(find . -type f); do chmod u+w "$f"; rm -f "$f" || : >"$f"; done"#,
        wall: Wall::ReadOnlyBase,
        judge: |s| {
            let sound = s.lab.look(&s.base, &["rev-parse", "main^{tree}"], "");
            sound
                .is_none()
                .then(|| "its branch cannot be read".to_owned())
        },
        no_control: None,
    },
    Attack {
        name: "write-image",
        tries: "leaves a file in the image for what comes later",
        script: r#"echo "$name" >/var/tmp/left; echo "$name" >/run/lock/left; cat /var/tmp/left && echo left"#,
        wall: Wall::ReadOnlyImage,
        judge: |s| s.printed("left\n"),
        no_control: None,
    },
];
