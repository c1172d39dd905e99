//! Requests that no git client sends.

use crate::lab::{self, Workspace};
use crate::{BRANCH, RUN, noise, packet, served};
use factory_gateway::git;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

#[test]
fn garbage_is_refused_and_leaves_nothing() {
    let (lab, served, workspace) = served();
    let new = workspace.commit("new", &noise(5000));
    let (refs, start) = (lab.refs(), &lab.start);
    let head = [
        packet(&format!(
            "{start} {new} refs/heads/{BRANCH}\0report-status side-band-64k"
        )),
        b"0000".to_vec(),
    ]
    .concat();
    let pack = pack_of(&workspace, &format!("{new}\n^{start}\n"));
    let unread = |body: &[u8], word: &str| {
        let answer = served.post("git-receive-pack", "", body);
        assert!(
            answer.starts_with("HTTP/1.1 200")
                && answer.contains(&format!("ng refs/heads/{BRANCH} {word}")),
            "{answer}"
        );
    };
    unread(&head, "unreadable push");
    unread(&[&head[..], b"PACK"].concat(), "unreadable push");
    unread(
        &[&head[..], b"PACK\0\0\0\x02\0\0\0\x01garbage"].concat(),
        "unreadable push",
    );
    unread(
        &[&head[..], &pack[..pack.len() / 2]].concat(),
        "unreadable push",
    );
    let mut flipped = pack.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    unread(&[&head[..], &flipped].concat(), "unreadable push");
    // A sound pack that lacks what the new tip needs.
    unread(
        &[
            &head[..],
            &pack_of(&workspace, &format!("{new}^{{tree}}\n")),
        ]
        .concat(),
        "unreadable push",
    );
    let stale = [
        packet(&format!(
            "{new} {new} refs/heads/{BRANCH}\0report-status side-band-64k"
        )),
        b"0000".to_vec(),
        pack.clone(),
    ]
    .concat();
    unread(&stale, "the branch moved meanwhile");

    for body in [&b"zzzz"[..], b"0003", b"", b"00ff", b"0008abcd0000"] {
        let answer = served.post("git-receive-pack", "", body);
        assert!(answer.starts_with("HTTP/1.1 400"), "{body:?}: {answer}");
    }
    assert!(
        served
            .post("git-receive-pack", "", b"0000")
            .starts_with("HTTP/1.1 200"),
        "git's probe"
    );
    for body in [&b""[..], b"zzzz", b"0032want nonsense"] {
        served.post("git-upload-pack", "", body);
    }
    for (request, status) in [
        ("GET /git/info/refs HTTP/1.1", "403"),
        (
            "GET /git/info/refs?service=git-upload-archive HTTP/1.1",
            "403",
        ),
        ("GET /git/HEAD HTTP/1.1", "404"),
        ("GET /git/objects/info/packs HTTP/1.1", "404"),
        ("GET /git/../git/config HTTP/1.1", "404"),
        ("GET /git/git-upload-pack HTTP/1.1", "405"),
        ("POST /git/git-upload-archive HTTP/1.1", "404"),
        ("POST /git/git-receive-pack HTTP/1.1", "415"),
    ] {
        let answer = served.raw(
            format!("{request}\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                .as_bytes(),
        );
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{request}: {answer}"
        );
    }
    // A client that goes away in the middle of its push.
    let mut gone = TcpStream::connect(served.address).unwrap();
    gone.write_all(b"POST /git/git-receive-pack HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-git-receive-pack-request\r\nContent-Length: 100000\r\n\r\n0000").unwrap();
    gone.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    gone.read_to_end(&mut rest).unwrap();

    assert_eq!(lab.refs(), refs);
    assert!(lab.entries(RUN).is_empty());
    lab.assert_no_leftovers();
    workspace.ok(&["push"]);
}

/// The run's client dies with its request sent: whether the gateway had begun
/// or not, the branch and the inbox agree, and nothing is told twice.
#[test]
fn a_push_whose_client_goes_away_is_whole_or_absent() {
    let (lab, served, workspace) = served();
    let mut old = lab.start.clone();
    let mut expected = Vec::new();
    for round in 0..5 {
        let new = workspace.commit("new", &noise(1000 << round));
        let mut body = packet(&format!(
            "{old} {new} refs/heads/{BRANCH}\0report-status side-band-64k"
        ));
        body.extend_from_slice(b"0000");
        body.extend_from_slice(&pack_of(&workspace, &format!("{new}\n^{old}\n")));
        let mut gone = TcpStream::connect(served.address).unwrap();
        let head = format!(
            "POST /git/git-receive-pack HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-git-receive-pack-request\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        gone.write_all(&[head.as_bytes(), &body].concat()).unwrap();
        drop(gone);
        workspace.ok(&["push", "--force"]);
        expected.push((old, new.clone()));
        assert_eq!(lab.pushes(RUN), expected, "round {round}");
        old = new;
    }
    lab.assert_no_leftovers();
}

/// What a run leaves hanging takes nothing that its END needs.
#[test]
fn requests_that_stall_do_not_hold_up_the_end() {
    let (lab, served, _workspace) = served();
    let stalled: Vec<_> = ["upload", "upload", "upload", "upload", "receive"]
        .iter()
        .map(|service| {
            let mut stream = TcpStream::connect(served.address).unwrap();
            let request = format!(
                "POST /git/git-{service}-pack HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-git-{service}-pack-request\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).unwrap();
            // Sent when the body is waited for: the request has its turn.
            let mut answer = [0; 25];
            stream.read_exact(&mut answer).unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 100"));
            stream
        })
        .collect();
    let mut waiting = TcpStream::connect(served.address).unwrap();
    waiting
        .write_all(b"GET /git/info/refs?service=git-receive-pack HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let answer = served.end();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    assert_eq!(lab.entries(RUN).len(), 1);
    drop((stalled, waiting));
}

fn pack_of(workspace: &Workspace, revisions: &str) -> Vec<u8> {
    let mut command = lab::git(
        &workspace.path,
        &["pack-objects", "--stdout", "--revs", "--quiet"],
    );
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(revisions.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap().stdout
}

#[test]
fn a_push_beyond_the_limit_is_told_so() {
    let (lab, served, workspace) = served();
    let new = workspace.commit("new", b"new");
    let mut head = packet(&format!(
        "{} {new} refs/heads/{BRANCH}\0report-status side-band-64k",
        lab.start
    ));
    head.extend_from_slice(b"0000PACK\0\0\0\x02\0\0\0\x01");
    let length = git::MAX_PUSH_BYTES + (1 << 20);
    let mut stream = TcpStream::connect(served.address).unwrap();
    let request = format!(
        "POST /git/git-receive-pack HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-git-receive-pack-request\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    stream.write_all(&head).unwrap();
    let zeros = vec![0; 1 << 20];
    let mut left = length - head.len() as u64;
    while left > 0 {
        let count = left.min(1 << 20) as usize;
        stream.write_all(&zeros[..count]).unwrap();
        left -= count as u64;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.contains(&format!("ng refs/heads/{BRANCH} too large")),
        "{answer}"
    );
    assert!(answer.contains("at most 536870912 bytes"), "{answer}");
    lab.assert_no_leftovers();
}
