//! `make bench-peers`: the same client and the same model through the LiteLLM proxy, which
//! others put in this place. Nothing is held to a limit.

use super::{
    CALLS, Calls, Flow, Process, RUNS, STREAMS, Stage, Values, Way, doors, flowed, here, model,
    row, warm,
};
use crate::table::Table;
use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const PINNED: &str = "litellm[proxy]==1.108.7";
/// What it takes for a key of its own, as clients do: it wants a long one.
const KEY: &str = super::client::KEY;
/// Bytes that flow together: few, for the slowest one's sake.
const BYTES: u64 = 4 << 20;
const ROUNDS: usize = 3;
/// Where its start is given up.
const LONGEST: Duration = Duration::from_secs(120);

/// Straight, through the gateway, and through the other proxy, in turns.
pub fn measure(table: &mut Table) {
    let program = match installed() {
        Ok(program) => program,
        Err(reason) => {
            println!("skipped: peers: {reason}");
            return;
        }
    };
    here(async {
        let model = model::serve();
        let stage = Stage::new(model, RUNS).await;
        let proxy = Proxy::start(&program, model);
        let ways = [
            ("straight", Way::Tcp(model), None),
            ("factory's gateway", stage.door(0), Some(stage.process())),
            (
                PINNED,
                Way::Tcp(proxy.address),
                Some(Process::of(proxy.child.id())),
            ),
        ];
        let idle = ways
            .each_ref()
            .map(|(_, _, process)| process.as_ref().map(Process::memory));
        let mut took = ways.each_ref().map(|_| Calls::default());
        let mut clients = Vec::new();
        for (_, way, _) in &ways {
            clients.push(warm(way).await);
        }
        for _ in 0..CALLS {
            for (calls, client) in took.iter_mut().zip(&mut clients) {
                calls.take(client).await;
            }
        }
        table.heading(
            &format!("First byte, of {CALLS} calls, µs"),
            &["p10", "median", "p99"],
        );
        for ((name, _, _), calls) in ways.iter().zip(&took) {
            row(table, name, &calls.first);
        }
        let mut seconds = ways.each_ref().map(|_| Values::default());
        for (_, _, process) in &ways {
            if let Some(process) = process {
                process.forget_most();
            }
        }
        for _ in 0..ROUNDS {
            for (n, (_, way, _)) in ways.iter().enumerate() {
                let many = match way {
                    Way::Door(_) => doors(&stage, STREAMS),
                    Way::Tcp(_) => vec![way.clone(); STREAMS],
                };
                seconds[n].0.push(Flow::over(&many, BYTES).await.seconds);
            }
        }
        let title = format!("{STREAMS} streams, {} MiB together", BYTES >> 20);
        table.heading(&title, &["MiB/s", "1000/s"]);
        for ((name, _, _), seconds) in ways.iter().zip(&seconds) {
            flowed(table, name, BYTES, seconds, None);
        }
        table.heading("Memory, MiB", &["idle", "at most"]);
        for ((name, _, process), idle) in ways.iter().zip(idle) {
            if let (Some(process), Some(idle)) = (process, idle) {
                let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
                table.line(name, [mib(idle), mib(process.most())]);
            }
        }
    });
}

/// The proxy's program, installed by pip below `target/` where it is not there yet.
///
/// # Errors
/// Why it cannot be had here, in words.
fn installed() -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers");
    let name: String = PINNED
        .chars()
        .filter(|c| c.is_alphanumeric() || *c == '.')
        .collect();
    let venv = target.join(name);
    let program = venv.join("bin/litellm");
    // Pip's last word is the program.
    if !program.exists() {
        let run = |command: &mut Command| {
            let said = command.stdin(Stdio::null()).output();
            let said = said.map_err(|error| format!("{command:?}: {error}"))?;
            let err = String::from_utf8_lossy(&said.stderr);
            let last = err.lines().last().unwrap_or_default().to_owned();
            said.status.success().then_some(()).ok_or(last)
        };
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let pip = venv.join("bin/pip");
        run(Command::new(pip).args(["install", "--quiet", PINNED]))?;
    }
    Ok(program)
}

/// A running proxy. Dropping it ends it.
struct Proxy {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Proxy {
    fn start(program: &Path, model: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.yaml");
        let text = format!(
            "model_list: [{{model_name: claude-sonnet-4-5, litellm_params: {{model: anthropic/claude-sonnet-4-5, api_base: \"http://{model}\", api_key: a-made-up-key}}}}]\n"
        );
        std::fs::write(&config, text).unwrap();
        // It takes no socket that is there already, and no port of the system's choice.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let child = Command::new(program)
            .arg("--config")
            .arg(&config)
            .args(["--host", "127.0.0.1", "--port"])
            .arg(address.port().to_string())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", dir.path())
            .env("LITELLM_MASTER_KEY", KEY)
            // It asks nobody elsewhere for prices.
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut proxy = Self {
            child,
            address,
            _dir: dir,
        };
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = proxy.child.try_wait().unwrap();
            assert!(ended.is_none(), "{PINNED} ended: {ended:?}");
            assert!(began.elapsed() < LONGEST, "{PINNED} does not listen");
            std::thread::park_timeout(Duration::from_millis(100));
        }
        proxy
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Where a measurement broke off it may be gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
