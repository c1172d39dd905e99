//! What the host's environment says about its way to the network. It is handed
//! to build steps that fetch something and never to an image.

use super::ImageError;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// Proxies, package index settings and certificates of this host.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HostNetwork {
    /// Proxy variables; Docker keeps these names out of an image's history.
    proxies: BTreeMap<String, String>,
    /// pip's settings that mean the same in another file system.
    pip: BTreeMap<String, String>,
    /// The certificates that this host trusts.
    ca_bundle: Option<PathBuf>,
}

/// Values may carry passwords: only names are shown.
impl std::fmt::Debug for HostNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostNetwork")
            .field("proxies", &self.proxies.keys())
            .field("pip", &self.pip.keys())
            .field("ca_bundle", &self.ca_bundle)
            .finish()
    }
}

const PROXIES: [&str; 5] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "all_proxy",
];
const PIP: [&str; 9] = [
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "PIP_PROXY",
    "PIP_NO_INDEX",
    "PIP_FIND_LINKS",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_TIMEOUT",
    "PIP_RETRIES",
];
const CA_BUNDLES: [&str; 3] = ["PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"];
const SYSTEM_CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

impl HostNetwork {
    /// Picks what matters from the variables of this process's environment.
    /// pip settings that name a path of this host are left out: it does not
    /// exist where they would be read.
    pub fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut network = Self::default();
        let mut bundles: BTreeMap<String, PathBuf> = BTreeMap::new();
        for (name, value) in vars {
            if value.is_empty() {
                continue;
            }
            if PROXIES.contains(&name.to_ascii_lowercase().as_str()) {
                network.proxies.insert(name, value);
            } else if PIP.contains(&name.as_str()) {
                let value = if name == "PIP_FIND_LINKS" {
                    without_host_paths(&value)
                } else {
                    value
                };
                if !value.is_empty() {
                    network.pip.insert(name, value);
                }
            } else if CA_BUNDLES.contains(&name.as_str()) {
                bundles.insert(name, PathBuf::from(value));
            }
        }
        network.ca_bundle = CA_BUNDLES
            .iter()
            .filter_map(|name| bundles.remove(*name))
            .chain([PathBuf::from(SYSTEM_CA_BUNDLE)])
            .find(|path| path.is_file());
        network
    }

    /// Build arguments: the builder predefines these names, so they reach `RUN`
    /// and appear neither in history nor in the image's environment.
    pub(super) fn build_args(&self) -> HashMap<String, String> {
        self.proxies.clone().into_iter().collect()
    }

    /// Proxy variables, for a program that runs on the host.
    pub(super) fn proxies(&self) -> &BTreeMap<String, String> {
        &self.proxies
    }

    /// Whether a build step must share the host's network to get out: a proxy or
    /// index that listens on loopback is out of reach from a container's own.
    pub(super) fn needs_host_network(&self) -> bool {
        let proxies = self
            .proxies
            .iter()
            .filter(|(name, _)| !name.eq_ignore_ascii_case("no_proxy"));
        proxies
            .chain(
                self.pip
                    .iter()
                    .filter(|(name, _)| *name != "PIP_TRUSTED_HOST"),
            )
            .any(|(_, value)| value.split_whitespace().any(is_loopback))
    }

    /// A shell script that exports the pip settings.
    pub(super) fn pip_exports(&self) -> String {
        self.pip
            .iter()
            .map(|(name, value)| format!("export {name}={}\n", shell_quote(value)))
            .collect()
    }

    /// The certificates this host trusts, if it has any.
    pub(super) fn ca_certificates(&self) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(path) = &self.ca_bundle else {
            return Ok(None);
        };
        let operation = format!("read the certificates {}", path.display());
        std::fs::read(path)
            .map(Some)
            .map_err(ImageError::host(operation))
    }
}

fn without_host_paths(links: &str) -> String {
    let kept: Vec<&str> = links
        .split_whitespace()
        .filter(|link| link.starts_with("http://") || link.starts_with("https://"))
        .collect();
    kept.join(" ")
}

/// Whether the host part of a URL (or of `host:port`) is this machine.
fn is_loopback(url: &str) -> bool {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = after_scheme.split('/').next().unwrap_or_default();
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    if let Some(v6) = host.strip_prefix('[') {
        return v6.starts_with("::1]");
    }
    let name = host.split(':').next().unwrap_or_default();
    name == "localhost"
        || name.ends_with(".localhost")
        || name
            .parse::<std::net::Ipv4Addr>()
            .is_ok_and(|address| address.is_loopback())
}

pub(super) fn shell_quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(vars: &[(&str, &str)]) -> HostNetwork {
        HostNetwork::from_vars(
            vars.iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned())),
        )
    }

    #[test]
    fn only_what_the_way_out_needs_is_taken() {
        let taken = network(&[
            ("https_proxy", "http://proxy.example:3128"),
            ("PIP_INDEX_URL", "https://index.example/simple"),
            ("PIP_FIND_LINKS", "/opt/wheels https://wheels.example/"),
            ("PIP_TARGET", "/opt/target"),
            ("PIP_CONFIG_FILE", "/etc/pip.conf"),
            ("ANTHROPIC_API_KEY", "secret"),
        ]);
        assert_eq!(taken.build_args().len(), 1);
        let exports = taken.pip_exports();
        assert_eq!(
            exports,
            "export PIP_FIND_LINKS='https://wheels.example/'\nexport PIP_INDEX_URL='https://index.example/simple'\n"
        );
        assert!(!taken.needs_host_network());
        assert!(
            network(&[("PIP_FIND_LINKS", "/opt/wheels")])
                .pip_exports()
                .is_empty()
        );
    }

    #[test]
    fn loopback_proxies_need_the_hosts_network() {
        for local in [
            "http://127.0.0.1:3128",
            "localhost:3128",
            "http://user:pw@localhost",
            "http://[::1]:8080/",
        ] {
            assert!(
                network(&[("HTTPS_PROXY", local)]).needs_host_network(),
                "{local}"
            );
        }
        for far in [
            "http://10.0.0.1:3128",
            "http://127.example:3128",
            "http://localhost.example",
        ] {
            assert!(
                !network(&[("HTTPS_PROXY", far)]).needs_host_network(),
                "{far}"
            );
        }
        assert!(!network(&[("no_proxy", "localhost,127.0.0.1")]).needs_host_network());
    }

    #[test]
    fn values_survive_the_shell_and_stay_out_of_debug() {
        assert_eq!(shell_quote("a'b $(id)"), r"'a'\''b $(id)'");
        let shown = format!(
            "{:?}",
            network(&[("PIP_INDEX_URL", "https://user:hunter2@index.example")])
        );
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn certificates_come_from_the_first_bundle_that_exists() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("ca.crt");
        std::fs::write(&bundle, b"certificate").unwrap();
        let taken = network(&[
            ("PIP_CERT", "/absent/ca.crt"),
            ("SSL_CERT_FILE", bundle.to_str().unwrap()),
        ]);
        assert_eq!(taken.ca_certificates().unwrap().unwrap(), b"certificate");
    }
}
