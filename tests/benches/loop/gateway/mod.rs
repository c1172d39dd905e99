//! What the gateway costs a call of a model: time to the first byte and to the last, streams
//! at full speed, and memory for many at a time. The floor is the same client with the same
//! calls, straight at the model.

mod client;
mod model;
mod peers;
mod stage;

pub use peers::measure as peers;

use crate::{
    process::Process,
    raw::Raw,
    table::{Table, Values},
};
use client::{Client, Way};
use factory_core::change::FileChange;
use stage::Stage;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Calls whose first and last byte are waited for; some more come first and are not counted.
const CALLS: usize = 500;
const WARM: usize = 20;
/// Tokens of the answer to each.
const SHORT: u64 = 8;
/// Bytes that flow, in one stream or in all together.
const BYTES: u64 = 64 << 20;
/// Times that they do, of each kind.
const ROUNDS: usize = 5;
/// Runs, and the streams of all of them.
const RUNS: u32 = 8;
const STREAMS: usize = 64;
/// How long a process does nothing that has nothing to do.
const QUIET: Duration = Duration::from_millis(300);
/// Most that the first byte may take of what it takes without us, of the calls that met
/// the least of the machine's other work.
const FIRST: f64 = 10.0;
/// Most that the last one may take of what call and commit take without us.
const LAST: f64 = 1.0;
/// Most that the gateway may work for an event, of what client and model work for it.
const WORK: f64 = 8.0;
/// Most KiB that a stream may take.
const EACH: f64 = 1536.0;

/// A door beside the way without one.
pub fn measure(table: &mut Table) {
    here(async {
        let model = model::serve();
        let straight = Way::Tcp(model);
        let stage = Stage::new(model, RUNS).await;
        memory(table, &stage).await;
        calls(table, &straight, &stage).await;
        streams(table, &straight, &stage).await;
    });
}

/// Runs on this thread.
fn here<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work)
}

/// What calls took, in microseconds.
#[derive(Default)]
struct Calls {
    first: Values,
    last: Values,
}

impl Calls {
    async fn take(&mut self, client: &mut Client) {
        let heard = client.call(SHORT).await;
        self.first.0.push(heard.first.as_secs_f64() * 1e6);
        self.last.0.push(heard.last.as_secs_f64() * 1e6);
    }
}

/// A client that has called already.
async fn warm(way: &Way) -> Client {
    let mut client = Client::new(way).await;
    for _ in 0..WARM {
        client.call(SHORT).await;
    }
    client
}

fn row(table: &mut Table, name: &str, values: &Values) {
    let shown = [values.quantile(0.1), values.median(), values.quantile(0.99)];
    table.line(name, shown.map(|value| format!("{value:.0}")));
}

async fn calls(table: &mut Table, straight: &Way, stage: &Stage) {
    let floor = tempfile::tempdir().unwrap();
    let floor = Raw::begin(floor.path());
    let (mut bare, mut commit, mut ours) = (Calls::default(), Values::default(), Calls::default());
    let (mut without, mut through) = (warm(straight).await, warm(&stage.door(0)).await);
    for call in 0..CALLS {
        bare.take(&mut without).await;
        ours.take(&mut through).await;
        let entry = FileChange {
            path: "entry.json".to_owned(),
            content: Some(format!("{{\"call\":{call}}}").into_bytes()),
        };
        let began = Instant::now();
        floor.commit(&[entry], "a call");
        commit.0.push(began.elapsed().as_secs_f64() * 1e6);
    }
    let title = format!("A call of a model, of {CALLS}, µs");
    table.heading(&title, &["p10", "median", "p99"]);
    row(table, "straight: first byte", &bare.first);
    row(table, "through the gateway: first byte", &ours.first);
    let ratio = ours.first.quantile(0.1) / bare.first.quantile(0.1);
    table.limit("beside the straight one", ratio, FIRST, " x");
    row(table, "straight: last byte", &bare.last);
    row(table, "bare libgit2: one small commit, fsynced", &commit);
    let counted = "through the gateway: last byte, once the call is counted";
    row(table, counted, &ours.last);
    let ratio = ours.last.median() / (bare.last.median() + commit.median());
    table.limit("beside the straight one and a commit", ratio, LAST, " x");
}

/// What came over streams, and what it cost.
struct Flow {
    seconds: f64,
    /// Nanoseconds that client and model worked, both of this process.
    work: f64,
}

impl Flow {
    /// Streams over these ways that bring so many bytes together.
    async fn over(ways: &[Way], bytes: u64) -> Self {
        let tokens = model::tokens(bytes) / ways.len() as u64;
        let mut clients = Vec::new();
        for way in ways {
            let mut client = Client::new(way).await;
            client.call(SHORT).await;
            clients.push(client);
        }
        let own = Process::of(std::process::id());
        let (before, began) = (own.cpu(), Instant::now());
        let mut all = JoinSet::new();
        for mut client in clients {
            all.spawn(async move {
                client.call(tokens).await;
                client
            });
        }
        let clients = all.join_all().await;
        let seconds = began.elapsed().as_secs_f64();
        let work = own.cpu().saturating_sub(before) as f64;
        // With its client a thread of the model ends, and what it did is forgotten.
        drop(clients);
        Self { seconds, work }
    }
}

fn doors(stage: &Stage, many: usize) -> Vec<Way> {
    (0..many).map(|n| stage.door(n)).collect()
}

/// One line of a way on which so many bytes took so long, with the work for an event.
fn flowed(table: &mut Table, name: &str, bytes: u64, seconds: &Values, work: Option<&Values>) {
    let rate = |amount: f64| format!("{:.1}", amount / seconds.median());
    let cells = [
        rate(bytes as f64 / f64::from(1 << 20)),
        rate(model::tokens(bytes) as f64 / 1000.0),
        work.map(|work| format!("{:.0}", work.median()))
            .unwrap_or_default(),
    ];
    table.line(name, cells);
}

async fn streams(table: &mut Table, straight: &Way, stage: &Stage) {
    let title = format!("{} MiB of events of one token each", BYTES >> 20);
    // Work says more than speed where model, gateway and client share few cores.
    table.heading(&title, &["MiB/s", "1000/s", "ns of work"]);
    let gateway = stage.process();
    for many in [1, STREAMS] {
        let (mut bare, mut ours) = (Values::default(), Values::default());
        let (mut floor, mut work) = (Values::default(), Values::default());
        let (ways, doors) = (vec![straight.clone(); many], doors(stage, many));
        let each = |work: f64| work / model::tokens(BYTES) as f64;
        for round in 0..=ROUNDS {
            let without = Flow::over(&ways, BYTES).await;
            let before = gateway.cpu();
            let through = Flow::over(&doors, BYTES).await;
            let took = gateway.cpu().saturating_sub(before) as f64;
            // The first one fills caches.
            if round > 0 {
                bare.0.push(without.seconds);
                ours.0.push(through.seconds);
                floor.0.push(each(without.work));
                work.0.push(each(took));
            }
        }
        let name = |way: &str| format!("{many} at a time, {way}");
        let (straight, through) = (name("straight"), name("through the gateway"));
        flowed(table, &straight, BYTES, &bare, Some(&floor));
        flowed(table, &through, BYTES, &ours, Some(&work));
        table.ratio_of("beside the straight ones", bare.beside(&ours).median());
        let ratio = work.beside(&floor).median();
        table.limit("work beside that of client and model", ratio, WORK, " x");
    }
}

/// Waits until a process has nothing to do.
async fn rests(process: &Process) {
    let mut before = 0;
    let mut now = process.cpu();
    while now != before {
        tokio::time::sleep(QUIET).await;
        before = now;
        now = process.cpu();
    }
}

/// What streams take of a gateway that served none before: memory that was used once stays.
async fn memory(table: &mut Table, stage: &Stage) {
    table.heading("The gateway's memory", &["MiB", "KiB/stream"]);
    let gateway = stage.process();
    let doors = doors(stage, STREAMS);
    let idle = gateway.memory();
    let mut row = |name: &str, kib: u64, each: Option<f64>| {
        let each = each.map(|each| format!("{each:.0}"));
        let mib = format!("{:.1}", kib as f64 / 1024.0);
        table.line(name, [mib, each.unwrap_or_default()]);
    };
    let each = |kib: u64| kib.saturating_sub(idle) as f64 / STREAMS as f64;
    row("nothing to do", idle, None);
    let mut held = Vec::new();
    for door in &doors {
        let mut client = Client::new(door).await;
        held.push((client.ask(model::tokens(BYTES)).await, client));
    }
    rests(&gateway).await;
    let waiting = gateway.memory();
    let name = "64 streams that nobody reads any further";
    row(name, waiting, Some(each(waiting)));
    drop(held);
    rests(&gateway).await;
    gateway.forget_most();
    Flow::over(&doors, BYTES).await;
    let most = gateway.most();
    row("64 streams at full speed, at most", most, Some(each(most)));
    table.limit("a stream at full speed", each(most), EACH, " KiB");
}
