//! Git's wire format, as far as a push needs it: the command list that opens
//! the request, and the answer that carries a refusal.

use super::refusal::PushRefusal;
use factory_core::ids::Oid;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

/// The command section of a push is a few hundred bytes; a client that mirrors
/// thousands of refs still fits, so that its refusal can name them.
const MAX_COMMAND_BYTES: u64 = 1024 * 1024;
/// Longest reference name that is read (and named in an answer).
const MAX_REF_BYTES: usize = 1024;
/// What side band 64k carries in one packet: 65520 less length and band.
const MAX_BAND_BYTES: usize = 65_515;

/// One `old new ref` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RefUpdate {
    /// What the client believes the ref to be; zero for a creation.
    pub(super) old: Oid,
    /// What it is to be; zero for a deletion.
    pub(super) new: Oid,
    /// Full name; UTF-8 without control characters.
    pub(super) name: String,
}

/// Where the pack begins and how many objects it says it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackHeader {
    pub(super) offset: u64,
    pub(super) objects: u32,
}

/// The readable beginning of a push.
#[derive(Debug, Default)]
pub(super) struct PushRequest {
    pub(super) commands: Vec<RefUpdate>,
    /// The client wants a report per ref.
    pub(super) report_status: bool,
    /// The client understands progress and error bands.
    pub(super) side_band: bool,
    /// Absent where there is none (a deletion, or a broken request).
    pub(super) pack: Option<PackHeader>,
    /// What could not be understood, for the client.
    pub(super) problem: Option<String>,
}

enum Packet {
    Flush,
    Data(Vec<u8>),
}

/// Reads the command list and the pack's header from the start of a spooled
/// request. What the client did wrong is in [`PushRequest::problem`].
///
/// # Errors
/// Only when the spool itself cannot be read.
pub(super) fn read_request(spool: &mut (impl Read + Seek)) -> io::Result<PushRequest> {
    spool.seek(SeekFrom::Start(0))?;
    let mut input = BufReader::new(spool.take(MAX_COMMAND_BYTES));
    let mut request = PushRequest::default();
    let mut offset = 0;
    loop {
        match read_packet(&mut input)? {
            Err(problem) => {
                request.problem = Some(problem);
                return Ok(request);
            }
            Ok(Packet::Flush) => {
                offset += 4;
                break;
            }
            Ok(Packet::Data(line)) => {
                offset += 4 + line.len() as u64;
                if let Err(problem) = read_command(&line, &mut request) {
                    request.problem = Some(problem);
                    return Ok(request);
                }
            }
        }
    }
    let spool = input.into_inner().into_inner();
    spool.seek(SeekFrom::Start(offset))?;
    let mut header = Vec::with_capacity(12);
    spool.take(12).read_to_end(&mut header)?;
    if let [b'P', b'A', b'C', b'K', 0, 0, 0, 2 | 3, a, b, c, d] = header[..] {
        request.pack = Some(PackHeader {
            offset,
            objects: u32::from_be_bytes([a, b, c, d]),
        });
    } else if !header.is_empty() {
        request.problem = Some("no pack of version 2 or 3 follows the command list".to_owned());
    }
    Ok(request)
}

fn read_packet(input: &mut impl BufRead) -> io::Result<Result<Packet, String>> {
    let mut digits = Vec::with_capacity(4);
    input.take(4).read_to_end(&mut digits)?;
    let length = std::str::from_utf8(&digits)
        .ok()
        .filter(|text| text.len() == 4 && text.bytes().all(|b| b.is_ascii_hexdigit()))
        .and_then(|text| usize::from_str_radix(text, 16).ok());
    let length = match length {
        Some(0) => return Ok(Ok(Packet::Flush)),
        Some(length @ 5..) => length - 4,
        Some(_) | None => return Ok(Err("the command list is not made of pkt-lines".to_owned())),
    };
    let mut data = Vec::with_capacity(length);
    input.take(length as u64).read_to_end(&mut data)?;
    if data.len() == length {
        Ok(Ok(Packet::Data(data)))
    } else {
        Ok(Err(
            "the command list breaks off or is longer than 1 MiB".to_owned()
        ))
    }
}

fn read_command(line: &[u8], request: &mut PushRequest) -> Result<(), String> {
    let (command, capabilities) = match line.iter().position(|b| *b == 0) {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, &line[..0]),
    };
    let command = command.strip_suffix(b"\n").unwrap_or(command);
    // Capabilities come with the first line, whatever that line is; they are
    // read first so that a refusal of the line can be told in the client's way.
    for capability in String::from_utf8_lossy(capabilities).split_ascii_whitespace() {
        match capability {
            "report-status" | "report-status-v2" => request.report_status = true,
            "side-band-64k" => request.side_band = true,
            "push-options" => {
                request.problem = Some("push options are not offered here".to_owned())
            }
            _ => {}
        }
    }
    if command.starts_with(b"shallow ") {
        return Err("it comes from a shallow clone; run `git fetch --unshallow` first".to_owned());
    }
    if command.starts_with(b"push-cert") {
        return Err("signed pushes are not offered here".to_owned());
    }
    let parsed = std::str::from_utf8(command).ok().and_then(|text| {
        let (old, rest) = text.split_at_checked(40)?;
        let (new, name) = rest.strip_prefix(' ')?.split_at_checked(40)?;
        let name = name.strip_prefix(' ')?;
        let good =
            !name.is_empty() && name.len() <= MAX_REF_BYTES && !name.chars().any(char::is_control);
        good.then(|| {
            Some(RefUpdate {
                old: old.parse().ok()?,
                new: new.parse().ok()?,
                name: name.to_owned(),
            })
        })?
    });
    match parsed {
        Some(update) => {
            request.commands.push(update);
            Ok(())
        }
        None => Err("a line of the command list is not `old new ref`".to_owned()),
    }
}

/// One packet.
pub(super) fn packet(data: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{:04x}", data.len() + 4).as_bytes());
    out.extend_from_slice(data);
}

/// What a push may ask of us. Deletions are offered so that their refusal is ours, in words;
/// a push of one ref is atomic anyhow.
const CAPABILITIES: &str = "report-status report-status-v2 delete-refs side-band-64k atomic \
     ofs-delta object-format=sha1 agent=factory";

/// The list of refs that opens a push: those that may be pushed, and commits that are
/// here and need not be sent.
pub(super) fn advertisement(refs: &[(&str, &Oid)], had: &[Oid]) -> Vec<u8> {
    let zero = Oid::zero();
    let mut lines: Vec<(&str, &Oid)> = refs.to_vec();
    lines.extend(had.iter().map(|oid| (".have", oid)));
    if lines.is_empty() {
        lines.push(("capabilities^{}", &zero));
    }
    let mut answer = Vec::new();
    packet(b"# service=git-receive-pack\n", &mut answer);
    answer.extend_from_slice(b"0000");
    for (at, (name, oid)) in lines.into_iter().enumerate() {
        let line = match at {
            0 => format!("{oid} {name}\0{CAPABILITIES}\n"),
            _ => format!("{oid} {name}\n"),
        };
        packet(line.as_bytes(), &mut answer);
    }
    answer.extend_from_slice(b"0000");
    answer
}

/// A well-formed answer of receive-pack that refuses every ref of `request`:
/// the short reason per ref, and the explanation for the person or agent who
/// reads git's output. None where the client asked for no report.
pub(super) fn refusal(request: &PushRequest, reason: &str, explanation: &str) -> Option<Vec<u8>> {
    report(request, |name| format!("ng {name} {reason}\n"), explanation)
}

/// The same for a push that is done; `told` is for whoever reads git's output.
pub(super) fn acceptance(request: &PushRequest, told: &str) -> Option<Vec<u8>> {
    report(request, |name| format!("ok {name}\n"), told)
}

fn report(
    request: &PushRequest,
    line: impl Fn(&str) -> String,
    explanation: &str,
) -> Option<Vec<u8>> {
    if !request.report_status || request.commands.is_empty() {
        return None;
    }
    let mut report = Vec::new();
    packet(b"unpack ok\n", &mut report);
    for update in &request.commands {
        packet(line(&update.name).as_bytes(), &mut report);
    }
    report.extend_from_slice(b"0000");
    if !request.side_band {
        return Some(report);
    }
    let mut answer = Vec::new();
    let mut band = |number: u8, data: &[u8]| {
        for part in data.chunks(MAX_BAND_BYTES) {
            let mut framed = Vec::with_capacity(part.len() + 1);
            framed.push(number);
            framed.extend_from_slice(part);
            packet(&framed, &mut answer);
        }
    };
    band(2, explanation.as_bytes());
    band(1, &report);
    answer.extend_from_slice(b"0000");
    Some(answer)
}

/// What is written on the error band for a refusal: rule, ref and what to do.
pub(super) fn explanation(request: &PushRequest, refusal: &PushRefusal) -> String {
    let mut text = String::from("factory refused this push; nothing was changed.\n");
    for update in request.commands.iter().take(10) {
        text.push_str(&format!("  ref:  {}\n", update.name));
    }
    text.push_str(&format!("  rule: {refusal}\n"));
    for line in refusal.details() {
        text.push_str(&format!("        {line}\n"));
    }
    text.push_str(&format!("  do:   {}\n", refusal.advice()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    const A: &str = "1111111111111111111111111111111111111111";
    const B: &str = "2222222222222222222222222222222222222222";

    fn read(bytes: &[u8]) -> PushRequest {
        read_request(&mut Cursor::new(bytes.to_vec())).unwrap()
    }

    fn lines(lines: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in lines {
            packet(line.as_bytes(), &mut out);
        }
        out
    }

    #[test]
    fn a_push_is_read_up_to_its_pack() {
        let mut bytes = lines(&[
            &format!("{A} {B} refs/heads/x\0 report-status-v2 side-band-64k object-format=sha1"),
            &format!("{B} {A} refs/heads/y"),
        ]);
        bytes.extend_from_slice(b"0000");
        let offset = bytes.len() as u64;
        bytes.extend_from_slice(b"PACK\0\0\0\x02\0\0\0\x07rest");
        let request = read(&bytes);
        assert_eq!(request.problem, None);
        assert!(request.report_status && request.side_band);
        assert_eq!(request.commands.len(), 2);
        assert_eq!(request.commands[0].name, "refs/heads/x");
        assert_eq!(request.commands[1].new.as_str(), A);
        assert_eq!(request.pack, Some(PackHeader { offset, objects: 7 }));
    }

    #[test]
    fn what_is_malformed_is_a_problem_and_never_a_panic() {
        let first = format!("{A} {B} refs/heads/x\0 report-status side-band-64k");
        let cases: Vec<Vec<u8>> = vec![
            b"".to_vec(),
            b"00".to_vec(),
            b"zzzz".to_vec(),
            b"0001".to_vec(),
            b"0004".to_vec(),
            b"+00a".to_vec(),
            b"ffffshort".to_vec(),
            lines(&[&first]),
            lines(&["shallow 1111111111111111111111111111111111111111", &first]),
            lines(&["push-cert\0report-status", &first]),
            lines(&[&format!("{A} {B} ")]),
            lines(&[&format!("{A} {B} a\u{7}b")]),
            lines(&[&format!("{A}{B} refs/heads/x")]),
            lines(&["é".repeat(60).as_str()]),
            lines(&[&format!("{A} {B} {}", "x".repeat(2000))]),
            [lines(&[&format!("{first} push-options")]), b"0000".to_vec()].concat(),
            [lines(&[&first]), b"0000PACK\0\0\0\x09\0\0\0\0".to_vec()].concat(),
            [lines(&[&first]), b"0000PAC".to_vec()].concat(),
        ];
        for case in cases {
            assert!(
                read(&case).problem.is_some(),
                "{:?}",
                String::from_utf8_lossy(&case)
            );
        }
        assert!(
            read(b"0000").problem.is_none(),
            "git's probe of a large push is a lone flush"
        );
    }

    #[test]
    fn the_refs_of_a_push_are_listed_with_what_it_may_ask() {
        let (a, b): (Oid, Oid) = (A.parse().unwrap(), B.parse().unwrap());
        let text = |refs: &[(&str, &Oid)], had: &[Oid]| {
            let answer = String::from_utf8(advertisement(refs, had)).unwrap();
            let rest = answer.strip_prefix("001f# service=git-receive-pack\n0000");
            rest.unwrap().replace(CAPABILITIES, "…")
        };
        let listed = text(&[("refs/heads/x", &a)], std::slice::from_ref(&b));
        let length = 40 + " refs/heads/x".len() + 1 + CAPABILITIES.len() + 1 + 4;
        let expected = format!("{length:04x}{A} refs/heads/x\0…\n0033{B} .have\n0000");
        assert_eq!(listed, expected);
        let none = text(&[], &[]);
        assert!(
            none.contains(&format!("{} capabilities^{{}}\0…", Oid::zero())),
            "{none}"
        );
    }

    #[test]
    fn a_refusal_is_framed_as_the_client_asked() {
        let mut request = read(
            &[
                lines(&[&format!("{A} {B} refs/heads/x\0report-status")]),
                b"0000".to_vec(),
            ]
            .concat(),
        );
        assert_eq!(
            refusal(&request, "no", "text").unwrap(),
            b"000eunpack ok\n0017ng refs/heads/x no\n0000".to_vec()
        );
        request.side_band = true;
        let framed = refusal(&request, "no", "text").unwrap();
        assert!(framed.starts_with(b"0009\x02text") && framed.ends_with(b"00000000"));
        let framed = acceptance(&request, "").unwrap();
        assert!(framed.ends_with(b"0014ok refs/heads/x\n00000000"));
        request.report_status = false;
        assert_eq!(refusal(&request, "no", "text"), None);
    }
}
