//! A model that says at once, and as fast as a socket takes it, as much as it is asked for:
//! what is measured beside it is not its own time.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
};

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
const START: &[&str] = &[
    r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_bench","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":25,"output_tokens":1}}}

"#,
    r#"event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

"#,
];
/// One token of the answer.
const DELTA: &str = r#"event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" something"}}

"#;
const END: &[&str] = &[
    r#"event: content_block_stop
data: {"type":"content_block_stop","index":0}

"#,
    r#"event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":15}}

"#,
    r#"event: message_stop
data: {"type":"message_stop"}

"#,
];
/// Tokens that are written at a time.
const BLOCK: u64 = 512;

/// Bytes of an answer of so many tokens.
pub fn length(tokens: u64) -> u64 {
    let around: usize = START.iter().chain(END).map(|event| event.len()).sum();
    around as u64 + tokens * DELTA.len() as u64
}

/// Tokens of an answer of about so many bytes.
pub fn tokens(bytes: u64) -> u64 {
    bytes / DELTA.len() as u64
}

/// Listens for the rest of this process's life; gives where.
pub fn serve() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            // Who leaves in the middle ends only its own connection.
            std::thread::spawn(move || answer(&stream).ok());
        }
    });
    address
}

/// Each event as a chunk of its own, as providers send them.
fn chunks(events: &[&str]) -> String {
    let mut text = String::new();
    for event in events {
        write!(text, "{:x}\r\n{event}\r\n", event.len()).unwrap();
    }
    text
}

/// Answers the requests of one connection.
fn answer(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut from, mut to) = (BufReader::new(stream), stream);
    let block = chunks(&[DELTA; BLOCK as usize]);
    let one = chunks(&[DELTA]).len() as u64;
    while let Some(mut left) = asked(&mut from)? {
        let mut first = format!("{HEAD}{}", chunks(START));
        let with_it = left.min(BLOCK);
        first.push_str(&block[..(with_it * one) as usize]);
        left -= with_it;
        let last = format!("{}0\r\n\r\n", chunks(END));
        if left == 0 {
            first.push_str(&last);
            to.write_all(first.as_bytes())?;
            continue;
        }
        to.write_all(first.as_bytes())?;
        while left > 0 {
            let some = left.min(BLOCK);
            to.write_all(&block.as_bytes()[..(some * one) as usize])?;
            left -= some;
        }
        to.write_all(last.as_bytes())?;
    }
    Ok(())
}

/// Reads a request; gives the tokens that it asks for, none where the client left.
fn asked(from: &mut impl BufRead) -> std::io::Result<Option<u64>> {
    let (mut line, mut length) = (String::new(), 0);
    loop {
        line.clear();
        if from.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        } else if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    Ok(Some(body["max_tokens"].as_u64().unwrap()))
}
