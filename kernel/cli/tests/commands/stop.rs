//! `factory stop` where the launcher, which ends the gateway, is gone.

use crate::lab::{CONFIG, Lab};
use factory_core::event::Event;
use factory_ledger::lock::KernelLock;
use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// Long enough for a loaded machine, and far less than the ten minutes after
/// which a gateway ends by itself.
const PATIENCE: Duration = Duration::from_secs(120);

/// A gateway without a launcher. It ends with the test, however that goes.
struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Gateway {
    fn start(lab: &Lab) -> Self {
        let mut child = lab
            .command(env!("CARGO_BIN_EXE_factory"))
            .arg("gateway")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"{}").unwrap();
        let gateway = Self(child);
        let begun = Instant::now();
        while !gateway.answers(lab) {
            assert!(begun.elapsed() < PATIENCE, "the gateway does not start");
            thread::park_timeout(Duration::from_millis(20));
        }
        gateway
    }

    fn answers(&self, lab: &Lab) -> bool {
        let (places, ..) = lab.ledger();
        UnixStream::connect(places.gateway_sock()).is_ok()
    }

    /// Its standard output ends with it.
    fn ends(mut self) {
        let mut out = self.0.stdout.take().unwrap();
        let (ended, waits) = mpsc::channel();
        thread::spawn(move || ended.send(out.read_to_end(&mut Vec::new())));
        let ended = waits.recv_timeout(PATIENCE);
        assert!(ended.is_ok(), "the gateway stays");
    }
}

#[test]
fn stop_ends_a_gateway_that_no_run_needs() {
    let lab = Lab::new(CONFIG);
    lab.factory(&["issue", "new", "-t", "One"]).ok();
    lab.factory(&["issue", "approve", "1"]).ok();
    let gateway = Gateway::start(&lab);
    // A kernel to come takes up the run, so it keeps its door.
    let run = lab.grant(1);
    lab.factory(&["stop"]).says(&["does not run here"]);
    assert!(gateway.answers(&lab), "the run lost its gateway");
    lab.journal(Event::ContainerEnded { run, exit: None });
    lab.factory(&["stop"]).says(&["does not run here"]);
    gateway.ends();
}

#[test]
fn a_lock_that_a_dead_kernel_left_to_its_fork_is_no_kernel() {
    let lab = Lab::new(CONFIG);
    lab.factory(&["status"]).ok();
    let (places, ..) = lab.ledger();
    // A process id that Linux gives nobody.
    let _lock = KernelLock::acquire(&places.kernel_lock(), 1 << 30, 0).unwrap();
    lab.factory(&["status"]).says(&["kernel: not running"]);
    lab.factory(&["stop"]).says(&["does not run here"]);
}

#[test]
fn stop_ends_the_gateway_after_its_kernel() {
    let lab = Lab::new(CONFIG);
    lab.factory(&["status"]).ok();
    let gateway = Gateway::start(&lab);
    let (places, ..) = lab.ledger();
    let lock = KernelLock::acquire(&places.kernel_lock(), std::process::id(), 0).unwrap();
    let socket = places.kernel_sock();
    let listener = UnixListener::bind(&socket).unwrap();
    // A kernel that ends as soon as it is told to.
    let kernel = thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            if line.starts_with("POST /factory/v1/stop ") {
                std::fs::remove_file(&socket).unwrap();
                drop(lock);
                stream
                    .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
                    .unwrap();
                return;
            }
        }
    });
    lab.factory(&["stop", "--now"])
        .says(&["the factory has stopped"]);
    kernel.join().unwrap();
    gateway.ends();
}
