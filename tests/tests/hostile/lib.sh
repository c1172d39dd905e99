# What attacks have in common. `place.sh` says where things are.
. attacks/place.sh

# Opens a TCP connection and says who it is.
tell() {
  timeout 3 bash -c 'exec 3<>"/dev/tcp/$1/$2" && echo "$name" >&3 && echo connected' tell "$1" "$2"
}

# Sends bytes to a unix socket (abstract where the name begins with @) and prints the answer.
ask() {
  timeout 5 perl -MIO::Socket::UNIX -e '
    my ($to, $what) = @ARGV; $to =~ s/^@/\0/;
    my $s = IO::Socket::UNIX->new(Peer => $to) or die "$to: $!\n";
    $s->autoflush(1); print $s $what; print while <$s>' "$1" "$2"
}

# An HTTP request to the run's door: method, path, body.
door() {
  ask /run/factory/gw.sock "$1 $2 HTTP/1.1
Host: door
Connection: close
Content-Length: ${#3}

$3"
}

# Posts a file to the run's door: path, type of content, file.
deliver() {
  timeout 30 perl -MIO::Socket::UNIX -e '
    my ($path, $type, $file) = @ARGV; undef $/;
    open my $in, "<:raw", $file or die "$file: $!\n"; my $body = <$in>;
    my $s = IO::Socket::UNIX->new(Peer => "/run/factory/gw.sock") or die "$!\n";
    $s->autoflush(1);
    print $s "POST $path HTTP/1.1\r\nHost: door\r\nConnection: close\r\nContent-Type: $type\r\nContent-Length: ", length $body, "\r\n\r\n", $body;
    print while <$s>' "$@"
}

# A commit that nobody asked for, on top of $1 (default: HEAD) with the tree $2.
evil() {
  base=${1:-HEAD}
  tree=$2
  [ -n "$tree" ] || tree=$base^{tree}
  git commit-tree -p "$base" -m "evil: $name" "$tree"
}

# The tree of HEAD with more entries, which come on standard input.
with() { { git ls-tree HEAD; cat; } | git mktree; }

# A commit object from standard input, however broken.
broken() { git hash-object -t "$1" -w --literally --stdin; }

# Waits until somebody outside has looked.
hold() {
  held=$((${held:-0} + 1))
  touch "/workspace/.git/held-$held"
  until [ -e "/workspace/.git/go-$held" ]; do sleep 0.05; done
}
