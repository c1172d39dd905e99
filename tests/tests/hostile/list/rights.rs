//! More rights than an ordinary user in a container, and other people's processes.

use crate::attack::{Attack, Wall};

pub const ALL: &[Attack] = &[
    Attack {
        name: "read-environments",
        tries: "reads the environment of every process of the machine",
        script: "for p in /proc/[0-9]*; do tr '\\0' '\\n' <$p/environ; done",
        wall: Wall::OwnProcesses,
        judge: |s| s.printed(&s.secrets.other),
        no_control: None,
    },
    Attack {
        name: "read-other-files",
        tries: "reads another container's files by `/proc`",
        script: "for p in /proc/[0-9]*; do (cd $p/root && cat tmp/secret); done",
        wall: Wall::OwnProcesses,
        judge: |s| s.printed(&s.secrets.other),
        no_control: None,
    },
    Attack {
        name: "kill-others",
        tries: "kills the processes of another container",
        script: r#"for p in /proc/[0-9]*; do
  if tr '\0' ' ' <"$p/cmdline" | grep -q '^sleep 98765'; then kill -9 "${p#/proc/}"; fi
done"#,
        wall: Wall::OwnProcesses,
        judge: |s| (!s.other_lives).then(|| "the other container ended".to_owned()),
        no_control: None,
    },
    Attack {
        name: "read-shared-memory",
        tries: "reads another container's shared memory",
        script: "cat /dev/shm/*",
        wall: Wall::OwnMemory,
        judge: |s| s.printed(&s.secrets.other),
        no_control: None,
    },
    Attack {
        name: "look-into-agent",
        tries: "reads the environment of pid 1, which gives the verdict",
        script: "tr '\\0' '\\n' </proc/1/environ | sed 's/^/pid 1: /'",
        wall: Wall::ShieldedAgent,
        judge: |s| s.printed("pid 1: PATH="),
        no_control: None,
    },
    Attack {
        name: "steal-descriptors",
        tries: "takes over the open files of pid 1",
        script: "ls -l /proc/1/fd | sed 's/^/pid 1: /'",
        wall: Wall::ShieldedAgent,
        judge: |s| s.printed("->"),
        no_control: None,
    },
    Attack {
        name: "remount-run",
        tries: "mounts `/run/factory` again, to write there",
        script: r#"mount -o remount,rw,bind /run/factory; echo "$name" >/run/factory/left; hold"#,
        wall: Wall::Unprivileged,
        judge: |s| {
            let there = s.last().run_files.contains_key("left");
            there.then(|| "its file is there".to_owned())
        },
        no_control: None,
    },
    Attack {
        name: "mount-something",
        tries: "mounts a file system",
        script: r#"mkdir -p /tmp/m; mount -t tmpfs none /tmp/m; grep ' /tmp/m ' /proc/self/mounts && echo mounted"#,
        wall: Wall::Unprivileged,
        judge: |s| s.printed("mounted\n"),
        no_control: None,
    },
    Attack {
        name: "make-device",
        tries: "makes a device node of the host's disk in its workspace",
        script: r#"mknod /workspace/.git/left b 8 0; hold; rm -f .git/left"#,
        wall: Wall::Unprivileged,
        judge: |s| {
            let (_, mode) = s.last().left?;
            (mode & 0o170_000 == 0o060_000).then(|| "the device is there".to_owned())
        },
        no_control: None,
    },
    Attack {
        name: "leave-setuid",
        tries: "leaves a program in its workspace that runs as root",
        script: r#"cp /bin/true .git/left; chown 0 .git/left; chmod 4755 .git/left; hold; rm -f .git/left"#,
        wall: Wall::Unprivileged,
        judge: |s| {
            let (uid, mode) = s.last().left?;
            (uid == 0 && mode & 0o4000 != 0).then(|| "the program is there".to_owned())
        },
        no_control: None,
    },
    Attack {
        name: "change-root",
        tries: "changes its root directory",
        script: r#"perl -e 'chroot("/tmp") and print "changed\n" or die "$!\n"'"#,
        wall: Wall::Unprivileged,
        judge: |s| s.printed("changed\n"),
        no_control: None,
    },
    Attack {
        name: "raw-packets",
        tries: "opens a socket for raw packets",
        script: r#"perl -e 'socket(my $s, 17, 3, 768) and print "opened\n" or die "$!\n"'"#,
        wall: Wall::Unprivileged,
        judge: |s| s.printed("opened\n"),
        no_control: None,
    },
    Attack {
        name: "kernel-log",
        tries: "reads the log of the host's kernel",
        script: r#"perl -e 'my $b = "\0" x 4096; my $n = syscall(103, 3, $b, 4096); print $n > 0 ? "read\n" : "$!\n"'"#,
        wall: Wall::Unprivileged,
        judge: |s| s.printed("read\n"),
        no_control: None,
    },
    Attack {
        name: "go-first",
        tries: "gives itself precedence over the host's processes",
        script: r#"perl -e 'syscall(141, 0, 0, -20) == 0 and print "first\n" or die "$!\n"'"#,
        wall: Wall::Unprivileged,
        judge: |s| s.printed("first\n"),
        no_control: None,
    },
    Attack {
        name: "setuid-program",
        tries: "becomes root by a program that runs as root",
        script: r#"mkfifo /tmp/f; su </tmp/f & exec 3>/tmp/f
for i in 1 2 3 4 5 6 7 8 9 10; do
  p=$(grep -lxs su /proc/[0-9]*/comm | tr -dc '0-9\n' | head -n 1)
  [ -n "$p" ] && grep -q '^Name:.su$' "/proc/$p/status" && break
  sleep 0.1
done
sed -n 's/^Uid:/ids:/p' "/proc/$p/status" | tr '\t' ' '; exec 3>&-; wait"#,
        wall: Wall::NoNewPrivileges,
        judge: |s| {
            let ids = s
                .said
                .lines()
                .find_map(|line| Some(line.split_once("ids: ")?.1))?;
            (ids.split(' ').nth(1) == Some("0")).then(|| format!("its ids: {ids}"))
        },
        no_control: None,
    },
    Attack {
        name: "kernel-keyring",
        tries: "keeps a key in the host's kernel",
        script: r#"perl -e 'my ($t, $d, $p) = ("user", $ENV{name}, "x"); my $n = syscall(248, $t, $d, $p, 1, -5); print $n > 0 ? "kept\n" : "$!\n"'"#,
        wall: Wall::SystemCalls,
        judge: |s| s.printed("kept\n"),
        no_control: None,
    },
    Attack {
        name: "new-namespace",
        tries: "becomes root in a user namespace of its own",
        script: "unshare --user --map-root-user true && echo root; perl -e 'syscall(272, 0x10000000) == 0 and print \"root\\n\"'",
        wall: Wall::SystemCalls,
        judge: |s| s.printed("root\n"),
        no_control: None,
    },
    Attack {
        name: "system-request",
        tries: "sends a system request to the host's kernel",
        script: r#"echo h >/proc/sysrq-trigger && echo sent"#,
        wall: Wall::Unprivileged,
        judge: |s| s.printed("sent\n"),
        no_control: Some("the host's own `/proc` would have to be writable"),
    },
    Attack {
        name: "core-pattern",
        tries: "has the host's kernel run a program at the next crash",
        script: r#"p=/proc/sys/kernel/core_pattern; echo "|/$name" >$p; cat $p"#,
        wall: Wall::Unprivileged,
        judge: |s| s.printed("|/core-pattern"),
        no_control: Some("it would change the host's kernel for everybody"),
    },
    Attack {
        name: "kernel-module",
        tries: "loads a module into the host's kernel",
        script: r#"perl -e 'my $e = ""; my $n = syscall(175, $e, 0, $e); print $!{EPERM} ? "refused\n" : "asked: $!\n"'"#,
        wall: Wall::Unprivileged,
        judge: |s| s.printed("asked: "),
        no_control: Some("it would need the right to change the host's kernel"),
    },
    Attack {
        name: "set-clock",
        tries: "sets the host's clock",
        script: r#"date -s @0 && echo set"#,
        wall: Wall::Unprivileged,
        judge: |s| s.printed("set\n"),
        no_control: Some("the clock is the host's"),
    },
    Attack {
        name: "raise-limits",
        tries: "raises the limits of its own control group",
        script: r#"for f in $(find /sys/fs/cgroup \( -name pids.max -o -name 'memory.max' -o -name memory.limit_in_bytes \) 2>/dev/null); do
  (echo 1000000000000 >"$f") && echo raised
done"#,
        wall: Wall::Unprivileged,
        judge: |s| s.printed("raised\n"),
        no_control: Some(
            "control groups would have to be mounted writable, which the engine does for nobody but root of the host",
        ),
    },
];
