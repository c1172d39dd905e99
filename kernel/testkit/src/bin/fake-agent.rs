//! The only program in the image of the container tests: it does what its
//! arguments say and nothing else.
//!
//! `exit N` | `print TEXT N` | `await-term N SOCKET` | `ignore-term` | `eat-memory` | `look DIR...`

use serde_json::{Value, json};
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["exit", code] => exit(code),
        ["print", text, code] => {
            print!("{text}");
            exit(code)
        }
        ["await-term", code, socket] => {
            let mut signals = Signals::new([SIGTERM])?;
            // Somebody listens there for us to be ready.
            UnixStream::connect(socket)?;
            signals.forever().next();
            exit(code)
        }
        // The kernel hands pid 1 no signal that it has no handler for.
        ["ignore-term"] => loop {
            std::thread::park();
        },
        ["eat-memory"] => eat_memory(),
        ["look", ref directories @ ..] => {
            println!("{}", look(directories)?);
            exit("0")
        }
        _ => Err(format!("no such mode: {arguments:?}").into()),
    }
}

fn exit(code: &str) -> Result<ExitCode, Box<dyn Error>> {
    Ok(ExitCode::from(code.parse::<u8>()?))
}

fn eat_memory() -> ! {
    let mut eaten: Vec<Vec<u8>> = Vec::new();
    loop {
        // Not zero: zeroed pages would be promised only.
        eaten.push(vec![1; 1 << 20]);
    }
}

/// What a container looks like from inside. In each of `directories` a program
/// is written and run.
fn look(directories: &[&str]) -> Result<Value, Box<dyn Error>> {
    let interfaces: Vec<String> = fs::read_dir("/sys/class/net")?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_, std::io::Error>>()?;
    let routes = fs::read_to_string("/proc/self/net/route")?;
    let routes: Vec<&str> = routes.lines().skip(1).collect();
    let status = fs::read_to_string("/proc/self/status")?;
    let status: BTreeMap<&str, &str> = status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key, value.trim()))
        .collect();
    // Later mounts hide earlier ones of the same place.
    let mounts: BTreeMap<String, String> = fs::read_to_string("/proc/self/mounts")?
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (place, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            Some((place.to_owned(), format!("{kind},{options}")))
        })
        .collect();
    let runs: BTreeMap<&str, String> = directories
        .iter()
        .map(|directory| (*directory, write_and_run(directory)))
        .collect();
    Ok(json!({
        "pid": std::process::id(),
        "directory": std::env::current_dir()?,
        "environment": std::env::vars().collect::<BTreeMap<_, _>>(),
        "interfaces": interfaces,
        "routes": routes,
        "status": status,
        "mounts": mounts,
        "limits": fs::read_to_string("/proc/self/limits")?,
        "write_and_run": runs,
    }))
}

/// `ran`, or the reason why not.
fn write_and_run(directory: &str) -> String {
    let copy = format!("{directory}/copy-of-fake-agent");
    let run = || -> Result<bool, std::io::Error> {
        fs::copy("/proc/self/exe", &copy)?;
        Ok(Command::new(&copy).args(["exit", "0"]).status()?.success())
    };
    match run() {
        Ok(true) => "ran".to_owned(),
        Ok(false) => "failed".to_owned(),
        Err(error) => error.kind().to_string(),
    }
}
