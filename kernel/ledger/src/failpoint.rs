//! Named places where a test has a process die: before and after everything
//! that it commits or does outside.
//!
//! Compiled to nothing without the feature `failpoints`. With it, `FAILPOINTS`
//! says in the words of the `fail` crate what happens at a name, such as
//! `after-create=return(kill);kernel=12*off->return(kill)`:
//!
//! - `return`: says so on standard error and stops the whole process with
//!   SIGSTOP; the test then kills it.
//! - `return(kill)`: says so and kills the process at once.
//! - `return(tell)`: says so and goes on.
//!
//! Every place of a process also counts under the process's own name (`kernel`,
//! `gateway`): so a test says "die at the thirteenth place, whatever it is".

/// A process that has failpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// The kernel: `before-<what>` and `after-<what>`.
    Kernel,
    /// The gateway: `gateway-before-<what>` and `gateway-after-<what>`.
    Gateway,
}

/// Does `work` between the two failpoints of `what`; one that failed does not reach the second.
pub fn around<T, E>(
    process: Process,
    what: &str,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    process.before(what);
    let done = work()?;
    process.after(what);
    Ok(done)
}

/// What a test gives under `name` by `return(<value>)`.
#[cfg(feature = "failpoints")]
pub fn value(name: &str) -> Option<String> {
    fail::fail_point!(name, |value| value);
    None
}

/// Nothing: no test looks on.
#[cfg(not(feature = "failpoints"))]
pub fn value(_name: &str) -> Option<String> {
    None
}

#[cfg(not(feature = "failpoints"))]
impl Process {
    /// Switches on what `FAILPOINTS` names, for the rest of this process's life.
    pub fn read_environment() {}

    /// The failpoint before `_what`.
    pub fn before(self, _what: &str) {}

    /// The failpoint after `_what`.
    pub fn after(self, _what: &str) {}

    /// The failpoint `_name`.
    pub fn at(self, _name: &str) {}
}

#[cfg(feature = "failpoints")]
impl Process {
    /// Switches on what `FAILPOINTS` names, for the rest of this process's life.
    pub fn read_environment() {
        static ONCE: std::sync::Once = std::sync::Once::new();
        // Its destructor would switch everything off again; and there is only
        // ever one, so a second kernel or gateway in this process must not wait for it.
        ONCE.call_once(|| std::mem::forget(fail::FailScenario::setup()));
    }

    /// The failpoint before `what`.
    pub fn before(self, what: &str) {
        self.at(&format!("{}before-{what}", self.prefix()));
    }

    /// The failpoint after `what`.
    pub fn after(self, what: &str) {
        self.at(&format!("{}after-{what}", self.prefix()));
    }

    /// The failpoint `name`.
    pub fn at(self, name: &str) {
        pass(name, name);
        pass(self.as_str(), name);
    }

    fn prefix(self) -> &'static str {
        match self {
            Process::Kernel => "",
            Process::Gateway => "gateway-",
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Process::Kernel => "kernel",
            Process::Gateway => "gateway",
        }
    }
}

/// Obeys the orders given under `switch` at the place `name`.
#[cfg(feature = "failpoints")]
fn pass(switch: &str, name: &str) {
    fail::fail_point!(switch, |order: Option<String>| {
        use rustix::process::Signal;
        match order.as_deref() {
            Some("tell") => eprintln!("failpoint {name} passed"),
            Some("kill") => end(name, Signal::KILL),
            _ => end(name, Signal::STOP),
        }
    });
}

#[cfg(feature = "failpoints")]
fn end(name: &str, signal: rustix::process::Signal) {
    eprintln!("failpoint {name} reached");
    if let Err(error) = rustix::process::kill_process(rustix::process::getpid(), signal) {
        eprintln!("failpoint {name}: cannot stop: {error}");
    }
    // The signal may find another thread first: this one goes no further.
    loop {
        std::thread::park();
    }
}
