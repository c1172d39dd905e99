//! The environment as it was when the launcher started, sorted by who may have what.

use factory_gateway::keys::file;
use secrecy::SecretString;
use std::{collections::BTreeMap, ffi::OsString};

/// Variables that children inherit. Model keys and everything unknown are left out.
const ALLOWED: [&str; 19] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "TERM",
    "TZ",
    "TMPDIR",
    "NO_COLOR",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "DOCKER_HOST",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "FAILPOINTS",
    "FACTORY_TEST_CLOCK",
];
/// What only the image build and the gateway need: the way to the network.
const NETWORK: [&str; 10] = [
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "ftp_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
];
/// The environment as it was when the launcher started, by keyring.
pub struct Keyrings {
    /// For every child.
    pub plain: Vec<(OsString, OsString)>,
    /// For the image build and the gateway.
    pub network: Vec<(OsString, OsString)>,
    /// For what ends before the kernel starts and talks to the user's remotes:
    /// everything else but the keys.
    pub others: Vec<(OsString, OsString)>,
    /// For the gateway alone, over its standard input.
    pub model_keys: BTreeMap<String, SecretString>,
}

impl Keyrings {
    /// Reads the environment of this process.
    pub fn read() -> Self {
        let mut rings = Self {
            plain: Vec::new(),
            network: Vec::new(),
            others: Vec::new(),
            model_keys: BTreeMap::new(),
        };
        for (name, value) in std::env::vars_os() {
            match name.to_str() {
                Some(key) if key.ends_with(file::SUFFIX) => {
                    // Set to nothing is as good as not set.
                    let key = key.to_owned();
                    if let Ok(value) = value.into_string()
                        && !value.is_empty()
                    {
                        rings.model_keys.insert(key, value.into());
                    }
                }
                Some(key) if ALLOWED.contains(&key) || key.starts_with("LC_") => {
                    rings.plain.push((name, value))
                }
                // What else an image build needs, such as `PIP_INDEX_URL`, is among the others.
                Some(key) if NETWORK.contains(&key) => rings.network.push((name, value)),
                _ => rings.others.push((name, value)),
            }
        }
        rings
    }
}
