//! Floods, of the machine and of the door.

use crate::attack::{Attack, Limit, Scene, Wall};

/// Bytes of memory that a run may use in the suite.
pub const MEMORY: u64 = 256 << 20;
/// Processes and threads.
pub const PROCESSES: u64 = 128;
/// Processors.
pub const PROCESSORS: f64 = 0.3;
/// Bytes of its workspace, and of any file: more than `fill-scratch` writes to `/tmp`.
pub const DISK: u64 = 192 << 20;
/// Connections of one run that are served at a time, and some more.
const CONNECTIONS: usize = 80;
/// Bytes of a container's log, and some more, since the engine keeps whole lines.
const LOG: u64 = 2 << 20;

/// Hands in an honest piece of work, fills the disk, and is still there a while later.
macro_rules! fills {
    ($how:literal) => {
        concat!(
            r#"git commit -q --allow-empty -m "Do $name"; git push -q origin HEAD; trap '' TERM XFSZ
"#,
            $how,
            "\nsleep ${STAYS:-35}; hold"
        )
    };
}

/// Opens connections, says `$said` on each, and keeps them while somebody looks.
macro_rules! connections {
    ($said:literal) => {
        concat!(
            r#"perl -MIO::Socket::UNIX -e '
    for (1 .. 300) {
      my $s = IO::Socket::UNIX->new(Peer => "/run/factory/gw.sock") or last; $s->autoflush(1);
      print $s ""#,
            $said,
            r#""; push @all, $s }
    my $at = "/workspace/.git"; open my $h, ">", "$at/held-1"; close $h;
    select undef, undef, undef, 0.05 until -e "$at/go-1"; print scalar(@all), " opened\n"'"#
        )
    };
}

pub const ALL: &[Attack] = &[
    Attack {
        name: "use-memory",
        tries: "takes more memory than it may",
        script: r#"mkfifo /tmp/f
perl -e 'vec(my $x, (320 << 20) - 1, 8) = 1; open my $h, ">", "/tmp/has"; close $h; <STDIN>' </tmp/f & exec 3>/tmp/f
until [ -e /tmp/has ] || ! kill -0 $!; do sleep 0.1; done
hold; exec 3>&-; wait"#,
        wall: Wall::Limit(Limit::Memory),
        judge: |s| {
            let memory = s.last().memory;
            (memory > MEMORY + (16 << 20)).then(|| format!("it has {} MiB", memory >> 20))
        },
        no_control: None,
    },
    Attack {
        name: "fork-bomb",
        tries: "starts processes without end",
        // The shell needs a process for everything, and there is none left.
        script: r#"perl -e '
    my @all; for (1 .. 400) { my $p = fork; last unless defined $p; if (!$p) { sleep 60; exit } push @all, $p }
    my $at = "/workspace/.git"; open my $h, ">", "$at/held-1"; close $h;
    select undef, undef, undef, 0.05 until -e "$at/go-1"; kill 9, @all'"#,
        wall: Wall::Limit(Limit::Processes),
        judge: |s| {
            let pids = s.last().pids;
            (pids > PROCESSES).then(|| format!("{pids} processes"))
        },
        no_control: None,
    },
    Attack {
        name: "use-processors",
        tries: "uses more of the processors than it may",
        script: r#"hold; for i in 1 2 3 4; do timeout 10 sh -c 'while :; do :; done' & done; wait; hold"#,
        wall: Wall::Limit(Limit::Processors),
        // How much it got says little where the machine is busy; that it was held back does.
        judge: |s| {
            let first = s.held.first().map_or(0, |held| held.throttled);
            assert_eq!(s.held.len(), 2, "{}: it waits twice", s.name);
            (s.last().throttled - first < 2).then(|| "nothing held it back".to_owned())
        },
        no_control: None,
    },
    Attack {
        name: "open-files",
        tries: "opens 18,000 files at once",
        script: r#"perl -e 'while (@f < 18000 and open my $f, "<", "/dev/null") { push @f, $f } print "open: ", scalar @f, "\n"'"#,
        wall: Wall::Limit(Limit::Files),
        judge: |s| s.said("open: 18000").then(|| "all of them".to_owned()),
        no_control: None,
    },
    Attack {
        name: "fill-scratch",
        tries: "fills `/tmp` beyond its size",
        script: r#"head -c 180M /dev/zero >/tmp/big; echo "size: $(stat -c %s /tmp/big)"; rm /tmp/big"#,
        wall: Wall::Limit(Limit::Scratch),
        judge: |s| {
            s.said("size: 188743680")
                .then(|| "all was written".to_owned())
        },
        no_control: None,
    },
    Attack {
        name: "fill-by-file",
        tries: "fills the host's disk by one file in its workspace",
        script: fills!("head -c 300M /dev/zero >.git/big"),
        wall: Wall::Limit(Limit::Disk),
        judge: filled,
        no_control: None,
    },
    Attack {
        name: "fill-by-files",
        tries: "fills the host's disk by many files in its workspace",
        script: fills!("mkdir .git/d; for i in {1..60}; do head -c 5M /dev/zero >.git/d/$i; done"),
        wall: Wall::Limit(Limit::Disk),
        judge: filled,
        no_control: None,
    },
    Attack {
        name: "fill-by-deleted",
        tries: "fills the host's disk by files that have no name any more",
        script: fills!(
            "for i in 3 4 5; do eval \"exec $i>.git/big\"; rm .git/big; head -c 100M /dev/zero >&$i; done"
        ),
        wall: Wall::Limit(Limit::Disk),
        judge: filled,
        no_control: None,
    },
    Attack {
        name: "flood-log",
        tries: "has 8 MiB kept in its container's log",
        script: r#"perl -e 'print "x" x 1023 . "\n" for 1 .. 8 << 10' >/tmp/flood
cat /tmp/flood; for f in 1 2; do cat /tmp/flood >/proc/1/fd/$f; done; rm /tmp/flood; hold"#,
        wall: Wall::Limit(Limit::Log),
        judge: |s| {
            let logged = s.last().logged;
            (logged > LOG).then(|| format!("{} KiB are in the log", logged >> 10))
        },
        no_control: None,
    },
    Attack {
        name: "flood-transcript",
        tries: "has 40 MiB of output kept",
        script: r#"perl -e 'print "x" x 1023 . "\n" for 1 .. 40 << 10' >/tmp/flood
{ printf 'POST /factory/v1/events HTTP/1.1\r\nHost: door\r\nConnection: close\r\nContent-Length: %s\r\n\r\n' $((40 << 20)); cat /tmp/flood; } |
  timeout 30 perl -MIO::Socket::UNIX -e 'my $s = IO::Socket::UNIX->new(Peer => "/run/factory/gw.sock"); $s->autoflush(1); local $/ = \65536; print $s $_ while <STDIN>; print scalar <$s>'
rm /tmp/flood"#,
        wall: Wall::Door,
        judge: |s| (s.kept > 24 << 20).then(|| format!("{} MiB are kept", s.kept >> 20)),
        no_control: None,
    },
    Attack {
        name: "flood-reports",
        tries: "hands in 300 reports",
        script: r#"perl -MIO::Socket::UNIX -e '
    for (1 .. 300) {
      my $s = IO::Socket::UNIX->new(Peer => "/run/factory/gw.sock") or next; $s->autoflush(1);
      my $b = "{\"summary\": \"report $_\"}";
      print $s "POST /factory/v1/report HTTP/1.1\r\nHost: door\r\nConnection: close\r\nContent-Length: " . length($b) . "\r\n\r\n$b";
      my $a = <$s>; $said{$a}++ }
    print "$said{$_} times $_" for keys %said'; hold"#,
        wall: Wall::Door,
        judge: |s| {
            let reports = s.last().reports;
            (reports > 100).then(|| format!("{reports} reports are kept"))
        },
        no_control: None,
    },
    Attack {
        name: "hold-connections",
        tries: "opens 300 connections to its door and keeps them",
        script: connections!(""),
        wall: Wall::Door,
        judge: held,
        no_control: None,
    },
    Attack {
        name: "slow-loris",
        tries: "begins 300 requests and ends none",
        script: connections!("POST /v1/messages HTTP/1.1\\r\\nHost: door\\r\\nX-"),
        wall: Wall::Door,
        judge: held,
        no_control: None,
    },
    Attack {
        name: "half-bodies",
        tries: "announces 300 bodies of 32 MiB and sends a piece of each",
        script: connections!(
            "POST /v1/messages HTTP/1.1\\r\\nHost: door\\r\\nContent-Length: 33554432\\r\\n\\r\\n{\\\"model\\\": "
        ),
        wall: Wall::Door,
        judge: held,
        no_control: None,
    },
];

/// It lives on with all that it wrote. A moment later is soon enough: what it takes is measured.
fn filled(scene: &Scene) -> Option<String> {
    let lives = !scene.held.is_empty();
    lives.then(|| "it is not ended with more than its part of the disk".to_owned())
}

/// More connections than a door takes.
fn held(scene: &Scene) -> Option<String> {
    let held = scene.last().connections;
    (held > CONNECTIONS).then(|| format!("{held} connections are held"))
}
