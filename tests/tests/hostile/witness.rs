//! Who is told when an attack arrives somewhere: sockets of the test.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

/// What all listeners heard.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn note(&self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes).into_owned();
        self.0.lock().unwrap().push(text);
    }

    /// What names the attack; it is forgotten.
    pub fn take(&self, name: &str) -> Vec<String> {
        let mut all = self.0.lock().unwrap();
        let (of_it, others) = all.drain(..).partition(|what: &String| what.contains(name));
        *all = others;
        of_it
    }

    /// Hears whatever first comes over a connection, and answers as a server of HTTP would.
    fn hear(&self, mut stream: impl Read + Write) {
        let mut first = [0; 512];
        // Who connects and says nothing is not told apart from others.
        if let Ok(count) = stream.read(&mut first) {
            self.note(&first[..count]);
            stream
                .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                .ok();
        }
    }

    /// Listens on all addresses for TCP and UDP; gives the port.
    pub fn on_network(&self) -> u16 {
        let tcp = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let udp = UdpSocket::bind(("0.0.0.0", port)).unwrap();
        let (one, two) = (self.clone(), self.clone());
        thread::spawn(move || tcp.incoming().flatten().for_each(|stream| one.hear(stream)));
        thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok(count) = udp.recv(&mut packet) {
                two.note(&packet[..count]);
            }
        });
        port
    }

    /// Listens on a socket without a file.
    pub fn on_abstract(&self, name: &str) {
        let address = SocketAddr::from_abstract_name(name).unwrap();
        self.serve(UnixListener::bind_addr(&address).unwrap());
    }

    /// Listens on a socket at `path`, for everybody.
    pub fn on_path(&self, path: &Path) {
        self.serve(open_to_all(path));
    }

    fn serve(&self, listener: UnixListener) {
        let heard = self.clone();
        thread::spawn(move || {
            listener
                .incoming()
                .flatten()
                .for_each(|stream| heard.hear(stream))
        });
    }
}

/// A socket that everybody may connect to.
fn open_to_all(path: &Path) -> UnixListener {
    use std::os::unix::fs::PermissionsExt;
    let listener = UnixListener::bind(path).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    listener
}

/// A door without any rule: it takes every connection and every call, gives out every file
/// below its root and beside it, and asks every host that it is told to.
#[derive(Default)]
pub struct NaiveDoor {
    /// Connections that are open.
    pub open: AtomicUsize,
    /// Bodies that were taken.
    pub taken: AtomicUsize,
    /// Their bytes.
    pub kept: AtomicUsize,
}

impl NaiveDoor {
    /// Serves at `path`.
    pub fn at(path: &Path, root: PathBuf) -> Arc<Self> {
        let door = Arc::new(Self::default());
        let (listener, inside) = (open_to_all(path), Arc::clone(&door));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (door, root) = (Arc::clone(&inside), root.clone());
                door.open.fetch_add(1, SeqCst);
                thread::spawn(move || {
                    // Whoever breaks off gets no answer.
                    door.answer(&stream, &root).ok();
                    door.open.fetch_sub(1, SeqCst);
                });
            }
        });
        door
    }

    fn answer(&self, mut stream: &UnixStream, root: &Path) -> std::io::Result<()> {
        let mut from = BufReader::new(stream);
        let mut first = String::new();
        from.read_line(&mut first)?;
        let (mut length, mut host) = (0, String::new());
        loop {
            let mut line = String::new();
            from.read_line(&mut line)?;
            let line = line.trim();
            match line.split_once(": ") {
                Some(("Content-Length", n)) => length = n.parse().unwrap_or(0),
                Some(("Host", named)) => host = named.to_owned(),
                _ if line.is_empty() => break,
                _ => {}
            }
        }
        let mut words = first.split(' ');
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        self.taken.fetch_add(1, SeqCst);
        self.kept.fetch_add(length, SeqCst);
        if let Some(rest) = target.strip_prefix("http://") {
            host = rest.split('/').next().unwrap_or("").to_owned();
        }
        if host.contains(':') {
            let mut other = TcpStream::connect(host)?;
            other.write_all(&[first.as_bytes(), &body].concat())?;
        }
        let file = root.join(target.trim_start_matches('/').replace("%2e", "."));
        match (method, std::fs::read(file)) {
            ("GET", Ok(bytes)) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                stream.write_all(&bytes)
            }
            _ => stream.write_all(b"HTTP/1.1 204 No Content\r\nApi-Version: 1\r\n\r\n"),
        }
    }
}
